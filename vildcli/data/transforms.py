"""Joint transforms of an image, its objects and its distillation regions.

A jitter is drawn once and moves all of them: the released code's second flip, which left the
distillation boxes behind, is not copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True, slots=True)
class Jitter:
    """One draw of flip and large-scale jitter: original image frame to a square canvas.

    Attributes:
        source: height and width of the original image.
        resized: height and width after scaling; of these, what follows `top` and `left` is seen.
        size: side of the canvas.
    """

    source: tuple[int, int]
    flipped: bool
    resized: tuple[int, int]
    top: int
    left: int
    size: int

    @property
    def content(self) -> tuple[int, int]:
        """Height and width of what the image covers of the canvas, from its top left corner."""
        return min(self.resized[0], self.size), min(self.resized[1], self.size)

    def image(self, image: Tensor, fill: tuple[float, ...]) -> Tensor:
        """[3, H, W] uint8 to [3, S, S], the rest of the canvas filled with a colour (0-255)."""
        height, width = self.content
        moved = self._move(tv_tensors.Image(image))
        padding = [0, 0, self.size - width, self.size - height]
        return F.pad(moved, padding, fill=list(fill)).as_subclass(Tensor)  # type: ignore[no-any-return]

    def boxes(self, boxes: Tensor) -> Tensor:
        """[N, 4] to [N, 4], clipped to the content."""
        framed = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=self.source)
        return self._move(framed).as_subclass(Tensor)  # type: ignore[no-any-return]

    def mask(self, mask: Tensor) -> Tensor:
        """[H, W] bool to [S, S], read at the centres of the canvas's pixels.

        Only those pixels are touched, and of them those about the object alone. torchvision's
        nearest neighbours are read at the corners, up to half a pixel beside the image.
        """
        height, width = self.content
        rows = _read_from(self.top, height, self.source[0], self.resized[0])
        columns = _read_from(self.left, width, self.source[1], self.resized[1])
        if self.flipped:
            columns = self.source[1] - 1 - columns
        canvas = torch.zeros(self.size, self.size, dtype=torch.bool)
        down, across = _extent(mask.any(1)[rows]), _extent(mask.any(0)[columns])
        canvas[down, across] = mask[rows[down]][:, columns[across]]
        return canvas

    def visible(self, boxes: Tensor) -> Tensor:
        """[N] share of each box's area that the crop leaves, 0-1; of an empty box 0."""
        scale = self.resized[0] * self.resized[1] / (self.source[0] * self.source[1])
        whole = scale * _area(boxes)
        return torch.where(whole > 0, _area(self.boxes(boxes)) / whole, 0.0).clamp(max=1)

    def _move(self, view: Any) -> Any:
        if self.flipped:
            view = F.horizontal_flip(view)
        view = F.resize(view, list(self.resized), antialias=True)
        return F.crop(view, self.top, self.left, *self.content)


@dataclass(frozen=True, slots=True)
class MultiScale:
    """Multi-scale training instead of large-scale jitter: whole images, never cropped.

    Attributes:
        short_side: limits of the short side, pixels.
        long_side: the long side is never longer.
    """

    short_side: tuple[int, int]
    long_side: int


Scaling = tuple[float, float] | MultiScale  # the limits of the jitter, in shares of the canvas


def draw_jitter(
    source: tuple[int, int], *, size: int, scaling: Scaling, generator: torch.Generator
) -> Jitter:
    """Draw a flip (one half) and a scale onto a canvas of size x size.

    With large-scale jitter the image is scaled to fit s·size with s drawn from its limits. It is
    cropped at random where it is larger than the canvas, padded at the bottom and right where it is
    smaller.

    Args:
        source: height and width of the image.
    """
    flipped = torch.rand((), generator=generator).item() < 0.5
    low, high = scaling.short_side if isinstance(scaling, MultiScale) else scaling
    drawn = low + (high - low) * torch.rand((), generator=generator).item()
    if isinstance(scaling, MultiScale):
        scale = min(round(drawn) / min(source), scaling.long_side / max(source))
    else:
        scale = drawn * size / max(source)
    height, width = (max(1, round(side * scale)) for side in source)
    top = _offset(height - size, generator)
    left = _offset(width - size, generator)
    return Jitter(source, flipped, (height, width), top, left, size)


def _offset(surplus: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, max(surplus, 0) + 1, (), generator=generator))


def _read_from(offset: int, count: int, source: int, resized: int) -> Tensor:
    """[count] source pixels under the centres of resized pixels, from an offset on."""
    centres = 2 * torch.arange(offset, offset + count) + 1
    return centres * source // (2 * resized)


def _extent(occupied: Tensor) -> slice:
    """From the first that is True to the last."""
    places = occupied.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def solid(boxes: Tensor) -> Tensor:
    """[N] bool: boxes that still have at least a pixel a side."""
    return (boxes[:, 2:] - boxes[:, :2]).min(1).values >= 1
