"""Detectors and training batches small enough for a test."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.checkpoint import ModelCard
from vildcli.detector.architecture import Architecture
from vildcli.detector.detector import Detector, TrainingContext
from vildcli.systems import SYSTEMS
from vildcli.types import Distillation, Target
from vildcli.vocabulary.category import Category

TINY = Architecture(
    backbone="small",
    image_size=64,
    levels=(2, 3, 4, 5),
    channels=8,
    rpn_convs=1,
    box_convs=1,
    box_fcs=1,
    mask_convs=1,
    fc_width=16,
    norm_momentum=0.1,
)
WIDTH = 16
TRAINED = [name for name, row in SYSTEMS.items() if row.trained]
BASE = (Category(1, "apple"), Category(2, "pear", synonyms=("anjou",)))


def tiny_detector(system: str = "vild-ensemble", seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector(TINY, SYSTEMS[system], WIDTH, classes=len(BASE))


def is_closed(system: str) -> bool:
    return SYSTEMS[system].text_side == "classifier"


def tiny_context(system: str = "vild-ensemble", categories: int = 3) -> TrainingContext:
    """The last category is novel; a closed set has the others alone."""
    generator = torch.Generator().manual_seed(1)
    texts = normalize(torch.randn(categories, WIDTH, generator=generator), dim=-1)
    is_base = torch.arange(categories) < categories - 1
    if is_closed(system):
        texts, is_base = torch.empty(categories - 1, 0), is_base[:-1]
    return TrainingContext(texts, is_base, 0.1, regions=16, proposals=24)


def tiny_images(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8, generator=generator)


def tiny_target(count: int = 2) -> Target:
    boxes = torch.tensor([[4.0, 4, 40, 36], [30, 30, 60, 62]])[:count]
    masks = torch.zeros(count, 64, 64, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return Target(boxes, torch.arange(count), masks)


def tiny_distillation(valid: bool = True) -> Distillation:
    boxes = torch.tensor([[0.0, 0, 32, 32], [10, 10, 60, 50], [5, 5, 5, 20]])
    generator = torch.Generator().manual_seed(3)
    flags = torch.tensor([valid, valid, False])
    return Distillation(boxes, torch.randn(3, WIDTH, generator=generator), flags)


def tiny_card(system: str = "vild-ensemble", **changes: object) -> ModelCard:
    values: dict[str, object] = {
        "system": system,
        "architecture": TINY.as_dict(),
        "embedding_width": WIDTH,
        "temperature": 0.1,
        "prompts": {"name": "single", "templates": ["a photo of {article} {}."], "this_is": False},
        "base_categories": BASE,
        "text_encoder": {"identity": "none", "temperature": 0.1},
        "default_conf": 0.2,
        "provenance": {"init": "scratch"},
    }
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]
