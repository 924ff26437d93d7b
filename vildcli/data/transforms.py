"""Joint transforms of an image, its objects and its distillation regions.

All views move together, once: the released code's second flip, which left the distillation boxes
behind, is not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True, slots=True)
class Views:
    """Aligned views of one image.

    Attributes:
        image: [3, H, W] uint8.
        boxes: [N, 4] of the ground truth.
        masks: [N, H, W] bool.
        regions: [V, 4] distillation boxes.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    masks: tv_tensors.Mask
    regions: tv_tensors.BoundingBoxes

    def map(self, transform: Callable[[Any], Any]) -> Views:
        return Views(*(transform(v) for v in (self.image, self.boxes, self.masks, self.regions)))


def make_views(image: Tensor, boxes: Tensor, masks: Tensor, regions: Tensor) -> Views:
    size = (image.shape[-2], image.shape[-1])
    return Views(
        tv_tensors.Image(image),
        _bounding_boxes(boxes, size),
        tv_tensors.Mask(masks),
        _bounding_boxes(regions, size),
    )


def _bounding_boxes(boxes: Tensor, size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)


def flip_at_random(views: Views, generator: torch.Generator) -> Views:
    return views.map(F.horizontal_flip) if torch.rand((), generator=generator) < 0.5 else views


def scale_jitter(
    views: Views,
    *,
    size: int,
    limits: tuple[float, float],
    fill: tuple[float, ...],
    generator: torch.Generator,
) -> Views:
    """Large-scale jitter onto a canvas of size x size.

    The image is scaled to fit s·size with s drawn from `limits`, cropped at random where it is
    larger, padded at the bottom and right with the colour `fill` (0-255) where it is smaller.
    """
    height, width = views.image.shape[-2:]
    low, high = limits
    drawn = low + (high - low) * torch.rand((), generator=generator).item()
    scale = drawn * size / max(height, width)
    resized = (max(1, round(height * scale)), max(1, round(width * scale)))
    views = views.map(lambda v: F.resize(v, list(resized), antialias=True))
    top = _offset(resized[0] - size, generator)
    left = _offset(resized[1] - size, generator)
    content = (min(resized[0], size), min(resized[1], size))
    views = views.map(lambda v: F.crop(v, top, left, *content))
    padding = [0, 0, size - content[1], size - content[0]]
    padded = views.map(lambda v: F.pad(v, padding))
    return Views(
        F.pad(views.image, padding, fill=list(fill)), padded.boxes, padded.masks, padded.regions
    )


def _offset(surplus: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, max(surplus, 0) + 1, (), generator=generator))


def solid(boxes: Tensor) -> Tensor:
    """[N] bool: boxes that still have at least a pixel a side."""
    return (boxes[:, 2:] - boxes[:, :2]).min(1).values >= 1
