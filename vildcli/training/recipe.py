"""Training recipes as data: how long, how fast, on what; the systems table says what is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

REPEAT_THRESHOLD = 1e-3  # of LVIS's repeat-factor sampling
# Values that came later are named where they differ alone: older runs go on.
_LATER = {
    "warmup_start",
    "distilled_regions",
    "redrawn_regions",
    "region_weights",
    "class_loss",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train; the defaults of what has one are the published values.

    Attributes:
        steps: how long; None where `epochs` says it.
        batch: images a step, all processes together.
        warmup_steps: linear, from `warmup_start` of the rate.
        drops: shares of `steps` after which the rate falls tenfold; empty means a cosine to zero.
        weight_decay: on weights of convolutions and linear layers and the background embedding
            only.
        jitter: limits of the large-scale jitter, in shares of the canvas.
        multi_scale: limits of the short side and of the long side, pixels, instead of the jitter.
        regions: sampled regions an image; proposals: kept for sampling.
        mask_regions: foreground regions an image that train the mask head.
        box_weight: weight of the two box losses.
        distillation_weight: w of ViLD's total loss; distillation: its distance.
        novel_logits: `zero` keeps novel logits in the softmax as 0, `masked` takes them out.
        clip_norm: limit of the gradient's norm.
        frozen_norms: batch norms that keep the statistics they were initialised with.
        synchronised_norms: batch norms that see the whole batch of several GPUs.
        shared_normalisers: losses are means over the batch of all processes; False: of each
            process's own share, as published.
        repeat_threshold: of repeat-factor sampling; None draws images uniformly.
        min_visible: share of a distilled region's area that must be left after cropping.
        distilled_regions: of an image, the first in stored order; ground truth that a teacher cache
            holds comes on top.
        redrawn_regions: as many are drawn from those anew each time, with replacement (as EZSD
            released it).
        region_weights: whether the weights of a teacher cache that has them count.
        class_loss: of the text side, see `vildcli.systems.System`.
    """

    summary: str
    steps: int | None
    batch: int
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    warmup_steps: int
    drops: tuple[float, ...]
    weight_decay: float
    epochs: int | None = None
    jitter: tuple[float, float] = (0.1, 2.0)
    multi_scale: tuple[int, int, int] | None = None
    regions: int = 512
    proposals: int = 1000
    mask_regions: int = 128
    box_weight: float = 1.0
    distillation_weight: float = 0.5
    distillation: Literal["l1", "l2"] = "l1"
    novel_logits: Literal["zero", "masked"] = "zero"
    clip_norm: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    frozen_norms: Literal["none", "backbone", "all"] = "none"
    synchronised_norms: bool = False
    shared_normalisers: bool = True
    repeat_threshold: float | None = None
    copy_paste: bool = False
    min_visible: float = 0.0
    checkpoint_every: int = 1000
    warmup_start: float = 0.01
    distilled_regions: int = 300
    redrawn_regions: bool = False
    region_weights: bool = True
    class_loss: Literal["softmax", "seesaw"] = "softmax"

    def as_dict(self) -> dict[str, Any]:
        """Everything that decides weights: all but the words about it."""
        usual = {f.name for f in fields(self) if getattr(self, f.name) == f.default}
        unsaid = {"summary"} | (_LATER & usual)
        return {key: value for key, value in asdict(self).items() if key not in unsaid}

    def in_steps(self, epoch_images: float) -> Recipe:
        """The recipe with its length in steps, for a set whose epoch has that many images."""
        if self.steps is not None:
            return self
        assert self.epochs is not None, "a recipe has steps or epochs"
        return replace(self, steps=math.ceil(self.epochs * epoch_images / self.batch))

    @property
    def length(self) -> int:
        """Steps, once they are known."""
        assert self.steps is not None, "in_steps comes first"
        return self.steps

    def with_batch(self, batch: int) -> Recipe:
        """Another batch; the rate follows it for SGD (Goyal et al., 2017), not for AdamW."""
        scale = batch / self.batch if self.optimiser == "sgd" else 1.0
        return replace(self, batch=batch, learning_rate=self.learning_rate * scale)

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based)."""
        if step < self.warmup_steps:
            start = self.warmup_start
            return self.learning_rate * (start + (1 - start) * step / self.warmup_steps)
        if not self.drops:
            share = (step - self.warmup_steps) / max(1, self.length - self.warmup_steps)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        return self.learning_rate * 0.1 ** sum(step >= drop * self.length for drop in self.drops)


_EZSD_COCO = Recipe(
    summary="EZSD on COCO 48/17: 12 epochs of 4 images, 200 regions of the teacher's",
    steps=None,
    epochs=12,
    batch=4,
    optimiser="sgd",
    learning_rate=0.005,
    warmup_steps=500,
    warmup_start=1e-3,
    drops=(8 / 12, 11 / 12),
    weight_decay=1e-4,
    distillation_weight=1.0,
    novel_logits="masked",
    clip_norm=10.0,
    frozen_norms="backbone",
    multi_scale=(800, 800, 1333),
    distilled_regions=200,
    redrawn_regions=True,
)

RECIPES: dict[str, Recipe] = {
    "paper": Recipe(
        summary="ViLD §A: 180,000 steps of 256 images from scratch, synchronised norms",
        steps=180_000,
        batch=256,
        optimiser="sgd",
        learning_rate=0.32,
        warmup_steps=1000,
        # The released configuration lists three drops and two rates: its third never happens.
        drops=(0.9, 0.95, 0.975),
        weight_decay=4e-5,
        synchronised_norms=True,
        shared_normalisers=False,
    ),
    "detpro-20e": Recipe(
        summary="ViLD* of DetPro: 20 epochs of 16 images, repeat factors, frozen backbone norms",
        steps=None,
        epochs=20,
        batch=16,
        optimiser="sgd",
        learning_rate=0.02,
        warmup_steps=500,
        drops=(0.8,),
        weight_decay=2.5e-5,
        novel_logits="masked",
        frozen_norms="backbone",
        synchronised_norms=True,
        repeat_threshold=REPEAT_THRESHOLD,
        multi_scale=(640, 800, 1333),
    ),
    "ezsd-coco": _EZSD_COCO,
    "ezsd-lvis": replace(
        _EZSD_COCO,
        summary="EZSD on LVIS: 48 epochs of 4 images, repeat factors, Seesaw loss",
        epochs=48,
        drops=(32 / 48, 44 / 48),
        multi_scale=(640, 800, 1333),
        box_weight=2.0,
        distillation_weight=0.5,
        repeat_threshold=REPEAT_THRESHOLD,
        class_loss="seesaw",
    ),
    "one-gpu": Recipe(
        summary="meant for a day on one GPU: 90,000 steps of 16 images in bfloat16",
        steps=90_000,
        batch=16,
        optimiser="sgd",
        learning_rate=0.02,
        warmup_steps=1000,
        drops=(0.9, 0.95, 0.975),
        weight_decay=4e-5,
        clip_norm=10.0,
        precision="bfloat16",
        frozen_norms="backbone",
    ),
    "world": Recipe(
        summary="the small world on a laptop, from scratch in a few hundred steps",
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
        clip_norm=10.0,
        checkpoint_every=100,
    ),
}
