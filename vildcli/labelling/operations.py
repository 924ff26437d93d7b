"""What a piece of work asks of a machine, and what the machine can do: FLOPs and bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

TURNS = 5
OVERHEAD = 5.0  # times the nearest limit from which neither of them is what bounds a stage
_SIDE = {"cuda": 8192}  # of the square matrices that are multiplied
_SMALL_SIDE = 2048  # elsewhere: 17 GFLOP
_COPIED = 2**28  # bytes: far more than any cache holds
Bound = Literal["FLOPs", "bytes", "neither"]


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device can do.

    Attributes:
        flops: a second, in a product of large matrices.
        bytes: a second, read and written, in a copy.
    """

    flops: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Limit:
    """How fast a piece of work could be at most.

    Attributes:
        bound: what takes longer, products or memory; `neither` where the work takes five times as
            long as both: serial code, small operations, waiting.
        seconds: the longer of FLOPs and bytes over what the machine can do.
        times: how many times as long as that the work takes. Below 1 bytes stay in a cache, or a
            convolution needs fewer products than are counted.
    """

    bound: Bound
    seconds: float
    times: float


def limit_of(seconds: float, flops: float, size: float, rates: Rates) -> Limit:
    """Hold work of so many seconds, FLOPs and bytes against a machine's rates."""
    products, memory = flops / rates.flops, size / rates.bytes
    longest = max(products, memory)
    times = seconds / longest if longest else float("inf")
    bound: Bound = "FLOPs" if products >= memory else "bytes"
    return Limit("neither" if times > OVERHEAD else bound, longest, times)


def clock(device: torch.device) -> float:
    """Seconds, after everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_rates(
    device: torch.device, dtype: torch.dtype, now: Callable[[torch.device], float] = clock
) -> Rates:
    """Medians of five turns after one that is not counted; takes seconds on a CPU."""
    side = _SIDE.get(device.type, _SMALL_SIDE)
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    product = _median(lambda: matrix @ matrix, device, now)
    copy = _median(lambda: target.copy_(source), device, now)
    return Rates(2 * side**3 / product, 2 * _COPIED / copy)


def _median(
    work: Callable[[], Tensor], device: torch.device, now: Callable[[torch.device], float]
) -> float:
    work()
    seconds = []
    for _ in range(TURNS):
        begin = now(device)
        work()
        seconds.append(now(device) - begin)
    return statistics.median(seconds)


class Operations:
    """Counts what torch is asked to do while it is entered; slow, so that nothing is timed there.

    FLOPs of products and convolutions, and bytes of every operation's arguments and results, as if
    nothing stayed in a cache between two of them.
    """

    def __init__(self) -> None:
        self._flops = FlopCounterMode(display=False)
        self._bytes = _Bytes()
        self._entered = ExitStack()

    def __enter__(self) -> Operations:
        self._entered.enter_context(self._bytes)
        self._entered.enter_context(self._flops)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered.close()

    @property
    def flops(self) -> int:
        return int(self._flops.get_total_flops())

    @property
    def bytes(self) -> int:
        return self._bytes.total


class _Bytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.total += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        return result
