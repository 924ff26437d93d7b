"""Large images in tiles, so that small objects are seen at their own size; SAHI's parameters.

image ──▶ itself and its tiles ──▶ regions of each ──▶ back in the image's frame ──▶ one list

A tile is one more picture of a batch. The image as a whole comes along for what is larger than a
tile. Overlapping tiles see things twice, and their borders cut things: a region that a border cuts
gives way to a whole one that covers it; then comes non-maximum suppression by objectness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_area, nms

from vildcli.labelling.batches import RegionDetector
from vildcli.teacher.clip_on_crops import select_rows
from vildcli.types import Regions, made

NMS_IOU = 0.7  # between regions of different tiles, as between proposals
_COVERED = 0.8  # share of a cut region that a whole one must cover to take its place
_BORDER = 2.0  # pixels from a tile's inner border within which a region counts as cut
Window = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How an image is cut.

    Attributes:
        side: of a tile, pixels of the upright original image.
        overlap: share of a tile's side that it has in common with the next one, at least.
    """

    side: int
    overlap: float = 0.2


@dataclass(frozen=True, slots=True)
class TiledDetector:
    """A detector that sees images larger than a tile in tiles; of each it takes all regions."""

    detector: RegionDetector
    tiling: Tiling

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Large images make batches of their own, of tiles."""
        if max(height, width) > self.tiling.side:
            return 0, 0
        return self.detector.canvas(height, width)

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        """Regions of each image, best objectness first."""
        windows = [tile_windows(image.shape[-2], image.shape[-1], self.tiling) for image in images]
        parts = [
            image[:, y1:y2, x1:x2]
            for image, of_image in zip(images, windows, strict=True)
            for x1, y1, x2, y2 in of_image
        ]
        found: list[Regions] = []
        for start in range(0, len(parts), len(images)):  # as many at a time as a batch has images
            found += self.detector.regions(parts[start : start + len(images)])
        merged = []
        for image, of_image in zip(images, windows, strict=True):
            mine, found = found[: len(of_image)], found[len(of_image) :]
            height, width = image.shape[-2:]
            merged.append(merge_tiles(mine, of_image, height, width))
        return merged


def tile_windows(height: int, width: int, tiling: Tiling) -> list[Window]:
    """The whole image, then its tiles row by row: x1 y1 x2 y2 in pixels.

    All tiles are of full size; the last of a row or column is moved back to the border. An image
    that is no larger than a tile is only itself.
    """
    whole = (0, 0, width, height)
    if max(height, width) <= tiling.side:
        return [whole]
    rows, columns = (_starts(length, tiling) for length in (height, width))
    side = tiling.side
    tiles = [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]
    return [whole, *tiles]


def _starts(length: int, tiling: Tiling) -> list[int]:
    last = max(0, length - tiling.side)
    step = max(1, tiling.side - int(tiling.side * tiling.overlap))
    return [*range(0, last, step), last]


def merge_tiles(
    found: Sequence[Regions], windows: Sequence[Window], height: int, width: int
) -> Regions:
    """Put the regions of an image's windows together; masks are relative to boxes and stay.

    Args:
        found: of each window, in its own frame.
        windows: x1 y1 x2 y2 in pixels of the image.
    """
    if len(found) == 1:
        return found[0]
    shifts = [torch.tensor([x1, y1, x1, y1], dtype=torch.float32) for x1, y1, _, _ in windows]
    boxes = torch.cat([r.boxes + shift for r, shift in zip(found, shifts, strict=True)])
    every = Regions(
        boxes=boxes,
        proposals=torch.cat([r.proposals + s for r, s in zip(found, shifts, strict=True)]),
        objectness=torch.cat([r.objectness for r in found]),
        masks=torch.cat([made(r.masks) for r in found]),
        text_side=_joined(found, lambda regions: regions.text_side),
        image_side=_joined(found, lambda regions: regions.image_side),
        box_codes=_joined(found, lambda regions: regions.box_codes),
        size=(width, height),
    )
    cut = torch.cat(
        [_is_cut(r.boxes, w, height, width) for r, w in zip(found, windows, strict=True)]
    )
    every = select_rows(every, torch.where(~_is_replaced(boxes, cut))[0])
    return select_rows(every, nms(every.boxes, every.objectness, NMS_IOU))


def _joined(found: Sequence[Regions], side: Callable[[Regions], Tensor | None]) -> Tensor | None:
    sides = [one for regions in found if (one := side(regions)) is not None]
    return torch.cat(sides) if sides else None


def _is_cut(boxes: Tensor, window: Window, height: int, width: int) -> Tensor:
    """[R] whether boxes in the frame of a window reach a border of it that is none of the image."""
    x1, y1, x2, y2 = window
    inner = (x1 > 0, y1 > 0, x2 < width, y2 < height)
    edges = (
        boxes[:, 0] <= _BORDER,
        boxes[:, 1] <= _BORDER,
        boxes[:, 2] >= x2 - x1 - _BORDER,
        boxes[:, 3] >= y2 - y1 - _BORDER,
    )
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    for is_inner, edge in zip(inner, edges, strict=True):
        if is_inner:
            cut |= edge
    return cut


def _is_replaced(boxes: Tensor, cut: Tensor) -> Tensor:
    """[R] whether a cut box lies mostly in one that is whole."""
    replaced = torch.zeros_like(cut)
    whole = boxes[~cut]
    for row in torch.where(cut)[0].tolist():  # one by one: all pairs of thousands are gigabytes
        box = boxes[row]
        low, high = torch.maximum(whole[:, :2], box[:2]), torch.minimum(whole[:, 2:], box[2:])
        common = (high - low).clamp(min=0).prod(1)
        replaced[row] = bool((common >= _COVERED * box_area(box[None])).any())
    return replaced
