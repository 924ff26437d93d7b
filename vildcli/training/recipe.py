"""Training recipes as data: how long, how fast, on what; the systems table says what is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train.

    Attributes:
        batch: images a step.
        warmup_steps: linear, from 1/100 of the rate.
        drops: shares of `steps` after which the rate falls tenfold; empty means a cosine to zero.
        weight_decay: on weights of convolutions and linear layers and the background embedding
            only.
        regions: sampled regions an image; proposals: kept for sampling.
        jitter: limits of the scale jitter.
        box_weight: weight of the two box losses; 1 as published.
        distillation_weight: w of ViLD's total loss.
    """

    steps: int
    batch: int
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    warmup_steps: int
    drops: tuple[float, ...]
    weight_decay: float
    regions: int
    proposals: int
    mask_regions: int
    jitter: tuple[float, float]
    box_weight: float
    distillation_weight: float
    clip_norm: float | None
    checkpoint_every: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based)."""
        if step < self.warmup_steps:
            return self.learning_rate * (0.01 + 0.99 * step / self.warmup_steps)
        if not self.drops:
            share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        return self.learning_rate * 0.1 ** sum(step >= drop * self.steps for drop in self.drops)


RECIPES: dict[str, Recipe] = {
    # The small world on a laptop: from scratch in a few hundred steps.
    "world": Recipe(
        steps=200,
        batch=8,
        optimiser="adamw",
        learning_rate=2e-3,
        warmup_steps=30,
        drops=(),
        weight_decay=1e-2,
        regions=64,
        proposals=200,
        mask_regions=8,
        jitter=(0.8, 1.2),
        box_weight=4.0,
        distillation_weight=0.5,
        clip_norm=10.0,
        checkpoint_every=100,
    ),
}
