"""What finds the regions of a run: a trained detector or a proposer, in tiles and in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from vildcli.detector.detector import Detector
from vildcli.detector.inference import for_inference
from vildcli.errors import ModelError
from vildcli.labelling.batches import RegionDetector
from vildcli.labelling.tiles import TiledDetector, Tiling
from vildcli.types import Regions

P = ParamSpec("P")
T = TypeVar("T")
Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Student:
    """A trained detector.

    Attributes:
        count: regions of an image, or of a tile.
        later_masks: make masks when they are asked for.
    """

    detector: Detector
    count: int
    precision: Precision = "fp32"
    later_masks: bool = False

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return self.detector.canvas_size(height, width)

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        find = in_precision(self.detector.regions, self.precision, self.detector.device)
        return find(images, count=self.count, later_masks=self.later_masks)


@dataclass(frozen=True, slots=True)
class Proposer:
    """Anything that proposes regions, image by image."""

    propose: Callable[[Sequence[Tensor]], list[Regions]]

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return 0, 0

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        return self.propose(images)


def student_of(detector: Detector, count: int, precision: Precision = "fp32") -> Student:
    """A trained detector as it labels: quicker, the same but for float noise."""
    quick = for_inference(detector, exact_convolutions=precision != "fp32")
    return Student(quick, count, precision)


def with_later_masks(detector: RegionDetector) -> RegionDetector:
    """The same detector, making masks when they are asked for, where it can.

    With tiles and crops it makes all at once: the features of a large image's tiles, which masks
    are made from, are too many to keep.
    """
    return replace(detector, later_masks=True) if isinstance(detector, Student) else detector


def in_tiles(detector: RegionDetector, tiling: Tiling | None) -> RegionDetector:
    """The detector, seeing images larger than a tile in tiles."""
    return detector if tiling is None else TiledDetector(detector, tiling)


def in_precision(
    work: Callable[P, T], precision: Precision, device: torch.device
) -> Callable[P, T]:
    """The same work, its convolutions and products in that precision; weights stay as they are."""
    if precision == "fp32":
        return work

    def autocast(*arguments: P.args, **options: P.kwargs) -> T:
        with torch.autocast(device.type, DTYPES[precision]):
            return work(*arguments, **options)

    return autocast


def refuse_precision(precision: Precision, device: torch.device) -> None:
    """Refuse what a device cannot compute.

    Raises:
        ModelError: it is a GPU without bfloat16.
    """
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ModelError(
            "This GPU does not compute in bfloat16.", hint="Leave --precision bf16 out."
        )
