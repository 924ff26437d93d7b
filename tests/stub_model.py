"""A labelling model without weights: regions and labels depend on an image's pixels alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.labelling.head import StoredHead, write_head
from vildcli.types import RegionLabels, Regions

REGIONS = 4
WIDTH = 8


class StubDetector:
    """Four regions an image, seeded by the hash of its pixels; none for a 1x1 image."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[tuple[int, ...]]] = []
        self._seconds = seconds

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        self.batches.append([tuple(image.shape) for image in images])
        time.sleep(self._seconds)
        return [_regions(image) for image in images]


class StubLabeller:
    """Names regions 0 and 2 by the sign of their first number."""

    unread: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(self, categories: int = 2) -> None:
        self._categories = categories

    def label(self, regions: Regions) -> RegionLabels:
        chosen = torch.arange(0, len(regions), 2)
        assert regions.text_side is not None
        first = regions.text_side[chosen, 0].float()
        scores = regions.objectness[chosen]
        return RegionLabels(
            regions=chosen,
            category_ids=1 + (first > 0).long() % self._categories,
            is_base=first > 0,
            scores=scores,
            text_scores=scores / 2,
        )


class StubModel:
    default_conf = None
    provenance: ClassVar[dict[str, object]] = {}
    seconds_per_image = None
    head = StoredHead(ScoringHead(None, 0.01, 0.01, Fusion("text")), "stub", None, (), "stub")

    def __init__(self, seconds: float = 0.0) -> None:
        self.detector = StubDetector(seconds)
        self.labeller = StubLabeller()
        self.settings: dict[str, object] = {"weights": "stub", "floor": 0.01}

    def save_head(self, folder: Path) -> None:
        write_head(folder, self.head)


def draw_images(folder: Path, count: int, size: tuple[int, int] = (24, 16)) -> Path:
    """`count` PNG files of one colour each, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (i % 256, i // 256, 7)).save(folder / f"{i:04d}.png")
    return folder


def _regions(image: Tensor) -> Regions:
    count = 0 if image.shape[1:] == (1, 1) else REGIONS
    digest = hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    corners = torch.rand(count, 4, generator=generator) * 8
    boxes = corners + torch.tensor([0.0, 0.0, 8.0, 8.0])
    masks = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    return Regions(
        boxes=boxes,
        proposals=boxes + 1,
        objectness=torch.rand(count, generator=generator).sort(descending=True).values,
        masks=masks,
        text_side=torch.randn(count, WIDTH, generator=generator).half(),
        image_side=None,
    )
