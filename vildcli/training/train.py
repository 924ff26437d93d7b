"""The training loop: one screen, resumable at any step.

    batch ─▶ Detector.forward ─▶ losses ─weights─▶ sum ─▶ backward ─▶ clip ─▶ step ─▶ checkpoint

Everything random is a pure function of the seed and the step, so a run killed at any point
continues, with the same command, to the same weights as an unbroken one (same device, same number
of threads).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vildcli.console import Advance
from vildcli.data.training_set import BatchPlan, Example, TrainingSet
from vildcli.detector.detector import Detector, TrainingContext
from vildcli.errors import ModelError
from vildcli.runs import write_atomically
from vildcli.training.recipe import Recipe

STATE_FILE, METRICS_FILE = "state.pt", "metrics.jsonl"


def train_detector(
    detector: Detector,
    data: TrainingSet,
    context: TrainingContext,
    recipe: Recipe,
    out: Path,
    *,
    seed: int,
    workers: int,
    advance: Advance,
) -> None:
    """Train in place, from the last checkpoint of `out` if there is one.

    Args:
        out: an opened run folder; receives `state.pt` and `metrics.jsonl`.

    Raises:
        ModelError: a loss is not finite; names the step, the images and the loss.
    """
    optimiser = make_optimiser(detector, recipe)
    first_step = _resume(out, detector, optimiser)
    advance(first_step)
    plan = BatchPlan(len(data), recipe.batch, seed, first_step, recipe.steps)
    loader = DataLoader(data, batch_sampler=plan, num_workers=workers, collate_fn=list)
    detector.train()
    with (out / METRICS_FILE).open("a", encoding="utf-8") as metrics:
        for step, batch in enumerate(loader, first_step):
            rate = recipe.rate(step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            losses = training_step(detector, batch, context, recipe, optimiser, (seed, step))
            _refuse_non_finite(losses, step, batch)
            metrics.write(json.dumps({"step": step, "rate": rate, **losses}) + "\n")
            advance(1, f"loss {losses['total']:.2f}")
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
                metrics.flush()
                _save_state(out, detector, optimiser, step + 1)
    detector.eval()


def training_step(
    detector: Detector,
    batch: Sequence[Example],
    context: TrainingContext,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    seeds: tuple[int, int],
) -> dict[str, float]:
    """One optimiser step; returns the unweighted losses and their weighted `total`."""
    device = detector.background.device
    images = torch.stack([example.image for example in batch]).to(device)
    distillation = [e.distillation.to(device) for e in batch if e.distillation is not None]
    losses = detector(
        images,
        [example.target.to(device) for example in batch],
        context,
        distillation or None,
        torch.Generator().manual_seed(hash(seeds) & 0x7FFF_FFFF_FFFF_FFFF),
    )
    total = weighted_sum(losses, recipe)
    optimiser.zero_grad(set_to_none=True)
    if torch.isfinite(total):
        torch.autograd.backward(total)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(detector.parameters(), recipe.clip_norm)
        optimiser.step()
    return {"total": total.item(), **{name: loss.item() for name, loss in losses.items()}}


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
    decayed = [p for p in detector.parameters() if p.ndim > 1] + [detector.background]
    chosen = {id(p) for p in decayed}
    others = [p for p in detector.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _refuse_non_finite(losses: Mapping[str, float], step: int, batch: Sequence[Example]) -> None:
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        images = ", ".join(str(example.image_id) for example in batch)
        raise ModelError(
            f"The loss is not finite at step {step}: {', '.join(broken)} (images {images}).",
            hint="Lower the learning rate, or look at these images' annotations.",
        )


def _save_state(out: Path, detector: Detector, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {"step": step, "model": detector.state_dict(), "optimiser": optimiser.state_dict()}
    write_atomically(out / STATE_FILE, lambda path: torch.save(state, path))


def _resume(out: Path, detector: Detector, optimiser: torch.optim.Optimizer) -> int:
    """Load the last state, cut the metrics back to it, and return the next step."""
    path, metrics = out / STATE_FILE, out / METRICS_FILE
    if not path.exists():
        metrics.unlink(missing_ok=True)
        return 0
    state = torch.load(path, map_location=detector.background.device, weights_only=True)
    detector.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    metrics.write_text("".join(lines[: state["step"]]), encoding="utf-8")
    return int(state["step"])
