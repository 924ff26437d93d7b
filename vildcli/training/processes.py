"""One process, or several that `torchrun` started: who does what, and what they add up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vildcli.console import Advance
from vildcli.devices import choose_device
from vildcli.errors import ModelError


@dataclass(frozen=True, slots=True)
class Processes:
    """One process among those that train together.

    Attributes:
        rank: its number; the first one writes files and talks.
        world: how many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def add_up(self, values: Tensor) -> Tensor:
        """The sum of every process's values [k], on each of them."""
        if self.world == 1:
            return values
        summed = values.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, on each of them."""
        found = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.world > 1:
            distributed.barrier()

    def share_gradients(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over the processes."""
        return DistributedDataParallel(model) if self.world > 1 else model


@contextmanager
def open_processes(device: str | None) -> Iterator[Processes]:
    """Join the processes of `torchrun`, or be alone.

    Each process takes the GPU of its own number; without GPUs they meet over gloo.

    Raises:
        ModelError: more processes than GPUs, or a device named for all of them.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(choose_device(device))
        return
    local = int(os.environ["LOCAL_RANK"])
    chosen = _own_device(device, local)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(chosen, distributed.get_rank(), world)
    finally:
        distributed.destroy_process_group()


def is_first_process() -> bool:
    """Whether this is the one that talks, also before and after the processes have joined."""
    return os.environ.get("RANK", "0") == "0"


def say_nothing(line: str) -> None:
    """What the other processes say: the same as the first."""


@contextmanager
def show_nothing(title: str, total: int | None) -> Iterator[Advance]:
    """A progress bar of the other processes."""

    def advance(
        steps: int = 1, note: str | None = None, facts: Mapping[str, object] | None = None
    ) -> None:
        return

    yield advance


def _own_device(device: str | None, local: int) -> torch.device:
    if device not in (None, "cpu", "cuda"):
        raise ModelError(
            f"torchrun gives each process a GPU of its own, so --device {device} cannot be taken.",
            hint="Leave --device out, or choose GPUs with CUDA_VISIBLE_DEVICES.",
        )
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local >= torch.cuda.device_count():
        raise ModelError(
            f"torchrun started {local + 1} processes or more for {torch.cuda.device_count()} GPUs.",
            hint="Give --nproc_per_node the number of GPUs, or train with --device cpu.",
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
