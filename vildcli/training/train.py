"""The training loop: one screen, resumable at any step, one process or several.

    batch ─▶ Detector.forward ─▶ losses ─weights─▶ sum ─▶ backward ─▶ clip ─▶ step ─▶ checkpoint

Everything random is a pure function of the seed, the step and the image's place in the batch. So a
run killed at any point continues, with the same command, to the same weights as an unbroken one
(same device, same number of threads), and several processes train on what one would have.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vildcli.console import Advance
from vildcli.data.batches import BatchPlan, seeded_generator
from vildcli.data.training_set import Example, TrainingSet
from vildcli.detector.detector import Detector, TrainingContext
from vildcli.detector.losses import LossParts
from vildcli.detector.normalisation import freeze_norms, synchronise_norms
from vildcli.errors import ModelError
from vildcli.runs import write_atomically
from vildcli.training.processes import Processes
from vildcli.training.recipe import Recipe

STATE_FILE, METRICS_FILE, VALIDATION_FILE = "state.pt", "metrics.jsonl", "validation.jsonl"

Validate = Callable[[Detector], dict[str, float]]


def train_detector(
    detector: Detector,
    data: TrainingSet,
    plan: BatchPlan,
    context: TrainingContext,
    recipe: Recipe,
    out: Path,
    *,
    processes: Processes,
    workers: int,
    advance: Advance,
    validate: Validate | None = None,
) -> None:
    """Train in place, from the last checkpoint of `out` if there is one.

    Args:
        plan: this process's batches, from step 0.
        out: an opened run folder; receives `state.pt`, `metrics.jsonl`, `validation.jsonl`.
        validate: asked with every checkpoint, on the first process.

    Raises:
        ModelError: a loss is not finite; names the step, the images and the loss.
    """
    if recipe.synchronised_norms and processes.world > 1:
        synchronise_norms(detector)
    optimiser = make_optimiser(detector, recipe)
    first_step = _resume(out, detector, optimiser, processes)
    advance(first_step)
    remaining = plan.starting_at(first_step)
    loader = DataLoader(data, batch_sampler=remaining, num_workers=workers, collate_fn=list)
    model = processes.share_gradients(detector)
    clock = _Clock()
    for step, batch in enumerate(clock.waiting_for(loader), first_step):
        detector.train()
        freeze_norms(detector, recipe.frozen_norms)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        losses = training_step(
            model, batch, context, recipe, optimiser, (plan.seed, step), processes
        )
        _refuse_non_finite(losses, step, batch, processes)
        if processes.is_first:
            _append(out / METRICS_FILE, {"step": step, "rate": recipe.rate(step), **losses})
        advance(1, f"loss {losses['total']:.2f}, {clock.note(recipe.batch)}")
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.length:
            if processes.is_first:
                detector.eval()
                if validate is not None:
                    _append(out / VALIDATION_FILE, {"step": step + 1, **validate(detector)})
                _save_state(out, detector, optimiser, step + 1)
            processes.wait()
    detector.eval()


def training_step(
    model: nn.Module,
    batch: Sequence[Example],
    context: TrainingContext,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    seeds: tuple[int, int],
    processes: Processes,
) -> dict[str, float]:
    """One optimiser step on this process's share of a batch.

    Returns:
        The unweighted losses of the whole batch and their weighted `total`. Where one is not
        finite, no step was taken.
    """
    device = processes.device
    images = torch.stack([example.image for example in batch]).to(device)
    distillation = [e.distillation.to(device) for e in batch if e.distillation is not None]
    first = processes.rank * len(batch)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        parts = model(
            images,
            [example.target.to(device) for example in batch],
            context,
            distillation or None,
            [seeded_generator(*seeds, first + place) for place in range(len(batch))],
        )
    losses = _divided(parts, recipe, processes)
    total = weighted_sum(losses, recipe)
    values = torch.stack([total, *losses.values()]).detach()
    values = processes.add_up(values) / processes.world
    optimiser.zero_grad(set_to_none=True)
    if torch.isfinite(values).all():
        torch.autograd.backward(total)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimiser.step()
    return dict(zip(("total", *losses), values.tolist(), strict=True))


def _divided(
    parts: Mapping[str, LossParts], recipe: Recipe, processes: Processes
) -> dict[str, Tensor]:
    """Means over the whole batch: gradients are averaged over processes, so each one's share is
    divided by what all counted, times their number.
    """
    if not recipe.shared_normalisers or processes.world == 1:
        return {name: loss.mean() for name, loss in parts.items()}
    sizes = [len(loss.counts) for loss in parts.values()]
    counted = processes.add_up(torch.cat([loss.counts for loss in parts.values()]))
    divisors = torch.split(counted.clamp(min=1) / processes.world, sizes)
    pairs = zip(parts.items(), divisors, strict=True)
    return {name: loss.divided_by(divisor) for (name, loss), divisor in pairs}


def weighted_sum(losses: Mapping[str, Tensor], recipe: Recipe) -> Tensor:
    """ViLD's total loss: weight 1 but for the distillation's w and the recipe's box weight."""
    weights = {
        "distillation": recipe.distillation_weight,
        "box": recipe.box_weight,
        "proposal_box": recipe.box_weight,
    }
    parts = [weights.get(name, 1.0) * loss for name, loss in losses.items()]
    return torch.stack(parts).sum()


def make_optimiser(detector: Detector, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay on weights and the background embedding, not on biases and norms."""
    decayed = [p for p in detector.parameters() if p.ndim > 1]
    decayed += [p for p in (detector.background,) if p is not None and p.ndim == 1]
    chosen = {id(p) for p in decayed}
    others = [p for p in detector.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


class _Clock:
    """How fast the loop runs, and how much of it waits for data."""

    def __init__(self) -> None:
        self.begin, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def waiting_for(self, batches: Iterable[list[Example]]) -> Iterator[list[Example]]:
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                return
            self.waited += time.perf_counter() - asked
            yield batch
            self.steps += 1

    def note(self, batch: int) -> str:
        elapsed = max(time.perf_counter() - self.begin, 1e-9)
        images = (self.steps + 1) * batch / elapsed
        return f"{images:.1f} images/s, {self.waited / elapsed:.0%} waiting for data"


def _refuse_non_finite(
    losses: Mapping[str, float], step: int, batch: Sequence[Example], processes: Processes
) -> None:
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        ids = processes.gather([example.image_id for example in batch])
        images = ", ".join(str(i) for of_process in ids for i in of_process)
        raise ModelError(
            f"The loss is not finite at step {step}: {', '.join(broken)} (images {images}).",
            hint="Lower the learning rate, or look at these images' annotations.",
        )


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _save_state(out: Path, detector: Detector, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {"step": step, "model": detector.state_dict(), "optimiser": optimiser.state_dict()}
    write_atomically(out / STATE_FILE, lambda path: torch.save(state, path))


def _resume(
    out: Path, detector: Detector, optimiser: torch.optim.Optimizer, processes: Processes
) -> int:
    """Load the last state, cut what was measured back to it, and return the next step."""
    path, step = out / STATE_FILE, 0
    if path.exists():
        state = torch.load(path, map_location=processes.device, weights_only=True)
        detector.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
    if processes.is_first:
        _cut(out / METRICS_FILE, lambda row: row["step"] < step)
        _cut(out / VALIDATION_FILE, lambda row: row["step"] <= step)
    processes.wait()
    return step


def _cut(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the rows that a killed run wrote after its last checkpoint, a torn one too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or not keep(json.loads(line)):
            break
        kept.append(line)
    path.write_text("".join(kept), encoding="utf-8")
