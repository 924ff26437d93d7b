"""From the stored 28x28 mask of a region to pixels, COCO RLE and polygons. No torch.

A stored mask is a field of probabilities over its box: its 28x28 values sit at the centres of
28x28 equal cells, bilinear between them, falling to zero within one cell beyond the outer centres.
A pixel belongs to the object where the field at the pixel's centre reaches the threshold. That is
detectron2's form (`grid_sample`, `align_corners=False`), which keeps boxes sub-pixel, where
torchvision's rounds them first. RLE samples the field; polygons are its level set, so that their
number of points does not grow with the photograph.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import contourpy
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Box = Sequence[float]
Floats = NDArray[np.float64]
Offsets = NDArray[np.uint32]
MASK_THRESHOLD = 0.5
_SMALLEST_SIDE = (
    1e-3  # pixels; a degenerate box is widened to it so that nothing is divided by zero
)


def paste_mask(
    mask: NDArray[np.uint8],
    box: Box,
    height: int,
    width: int,
    threshold: float = MASK_THRESHOLD,
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Paste a region mask onto the pixels of its image.

    Args:
        mask: [28, 28] probability x 255, relative to `box`.
        box: x1 y1 x2 y2 in pixels, any part of it outside the image or without area.
        height: of the image, pixels.
        width: of the image, pixels.
        threshold: in 0-1; a pixel is set from it on.

    Returns:
        The pasted crop, bool [h, w] with h, w >= 1, and the column and row of its first pixel.
    """
    x, y, x2, y2 = _pixel_window(box, height, width)
    columns, rows = (np.arange(*span, dtype=np.float64) + 0.5 for span in ((x, x2), (y, y2)))
    return _sample(mask, box, columns, rows) >= threshold, (x, y)


def object_mask(
    mask: NDArray[np.uint8], box: Box, height: int, width: int
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """`paste_mask`, but never empty: a mask that reaches no pixel becomes its box's rectangle."""
    crop, corner = paste_mask(mask, box, height, width)
    return (crop if crop.any() else np.ones_like(crop)), corner


def mask_over_box(
    mask: NDArray[np.uint8], box: Box, part: Box, longest_side: int = 512
) -> NDArray[np.bool_]:
    """The mask on a grid of its own over a part of the image, as FiftyOne stretches it; not empty.

    Args:
        mask: [28, 28] probability x 255, relative to `box`.
        box: x1 y1 x2 y2 in pixels.
        part: x1 y1 x2 y2 in pixels, such as the box cut at the image's borders.
        longest_side: cells that the grid's longer side has at most; a cell is a pixel before that.
    """
    x1, y1, x2, y2 = part
    scale = min(1, longest_side / max(x2 - x1, y2 - y1, 1))
    width, height = (max(1, int(np.ceil(side * scale))) for side in (x2 - x1, y2 - y1))
    across, down = (
        cells / max(side, _SMALLEST_SIDE) for cells, side in ((width, x2 - x1), (height, y2 - y1))
    )
    left, top, right, bottom = box
    moved = ((left - x1) * across, (top - y1) * down, (right - x1) * across, (bottom - y1) * down)
    crop, _ = object_mask(mask, moved, height, width)
    return crop


def full_frame(
    crop: NDArray[np.bool_], corner: tuple[int, int], height: int, width: int
) -> NDArray[np.bool_]:
    """Put a pasted crop into an otherwise empty image, bool [height, width]."""
    frame = np.zeros((height, width), bool)
    x, y = corner
    frame[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return frame


def run_lengths(
    crop: NDArray[np.bool_], corner: tuple[int, int], height: int, width: int
) -> list[int]:
    """Runs of unset and set pixels, in turn, down the columns of the image, which is never made.

    The first run is of unset pixels and may be 0. For runs along the rows, transpose everything.
    """
    h, w = crop.shape
    padded = np.zeros((w, h + 1), bool)  # each column ends in a pixel that is not set
    padded[:, :h] = crop.T
    columns, rows = np.divmod(np.flatnonzero(np.diff(padded.ravel(), prepend=False)), h + 1)
    bounds = (columns + corner[0]) * height + rows + corner[1]
    # A run that reaches the bottom goes on at the top of the next column.
    joined = np.flatnonzero(bounds[1:-1:2] == bounds[2::2]) * 2 + 1
    bounds = np.delete(bounds, np.r_[joined, joined + 1])
    counts: list[int] = np.diff(bounds, prepend=0, append=height * width).tolist()
    return counts if counts[-1] else counts[:-1]


def crop_to_rle(
    crop: NDArray[np.bool_], corner: tuple[int, int], height: int, width: int
) -> dict[str, Any]:
    """Encode a pasted crop as COCO's compressed RLE of the whole image."""
    size = [height, width]
    counts = run_lengths(crop, corner, height, width)
    encoded = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
    return {"size": size, "counts": encoded["counts"].decode("ascii")}


def mask_to_rle(mask: NDArray[np.uint8], box: Box, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed RLE of a region mask (arguments as `paste_mask`), never empty."""
    return crop_to_rle(*object_mask(mask, box, height, width), height, width)


def mask_to_polygons(
    mask: NDArray[np.uint8], box: Box, height: int, width: int
) -> list[list[float]]:
    """The outlines of a region mask as COCO polygons (arguments as `paste_mask`), never empty.

    COCO polygons know no holes: a hole is cut open along a line of no width to its outer outline.

    Returns:
        One flat list x y x y … a part, pixels within the image, 3 points or more and some area.
    """
    columns = _grid_lines(box[0], box[2], mask.shape[1], width)
    rows = _grid_lines(box[1], box[3], mask.shape[0], height)
    field = _sample(mask, box, columns, rows)
    contours = contourpy.contour_generator(
        columns, rows, field, fill_type=contourpy.FillType.OuterOffset
    )
    parts = cast("tuple[list[Floats], list[Offsets]]", contours.filled(MASK_THRESHOLD, np.inf))
    outlines = [np.round(_without_holes(*part), 2) for part in zip(*parts, strict=True)]
    polygons = [outline[:-1].ravel().tolist() for outline in outlines if _area(outline) > 0]
    return polygons or [box_to_polygon(box, height, width)]


def box_to_polygon(box: Box, height: int, width: int) -> list[float]:
    """The corners of a box cut at the image's borders; without area there, of a pixel near it."""
    x, x2 = np.clip(box[::2], 0, width).tolist()
    y, y2 = np.clip(box[1::2], 0, height).tolist()
    if x2 - x < _SMALLEST_SIDE or y2 - y < _SMALLEST_SIDE:
        x, y, x2, y2 = (float(side) for side in _pixel_window(box, height, width))
    return [x, y, x2, y, x2, y2, x, y2]


def _sample(mask: NDArray[np.uint8], box: Box, columns: Floats, rows: Floats) -> Floats:
    """The mask's field at those columns and rows (pixels of the image), in 0-1."""
    across = _interpolation(columns, box[0], box[2], mask.shape[1])
    down = _interpolation(rows, box[1], box[3], mask.shape[0])
    return down @ (mask / 255.0) @ across.T


def _interpolation(places: Floats, low: float, high: float, size: int) -> Floats:
    """Weights [places, size] of linear interpolation between the centres of the cells."""
    side = max(high - low, _SMALLEST_SIDE)
    index = (places - low) / side * size - 0.5
    weights: Floats = np.maximum(0, 1 - np.abs(index[:, None] - np.arange(size)))
    return weights


def _pixel_window(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """The pixels that a box touches, x1 y1 x2 y2, within the image and at least one."""
    x = min(max(int(np.floor(box[0])), 0), width - 1)
    y = min(max(int(np.floor(box[1])), 0), height - 1)
    x2 = max(min(int(np.ceil(box[2])), width), x + 1)
    y2 = max(min(int(np.ceil(box[3])), height), y + 1)
    return x, y, x2, y2


def _grid_lines(low: float, high: float, size: int, limit: int) -> Floats:
    """Where the field's cell centres lie, one more on each side, cut at the image's borders."""
    side = max(high - low, _SMALLEST_SIDE)
    lines = low + (np.arange(-1, size + 1) + 0.5) * side / size
    lines = np.unique(np.clip(lines, 0, limit))
    return lines if len(lines) > 1 else np.array([0.0, limit])


def join_rings(rings: Sequence[Floats]) -> Floats:
    """Join rings of points [n, 2], none of them closed, to the first one.

    Each hangs on by a bridge of no width between nearest points.
    """
    outline = rings[0]
    for ring in rings[1:]:
        distances = ((outline[:, None] - ring) ** 2).sum(axis=2)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        turned = np.roll(ring, -int(there), axis=0)
        outline = np.concatenate([outline[: here + 1], turned, turned[:1], outline[here:]])
    return outline


def _without_holes(points: Floats, offsets: Offsets) -> Floats:
    """Join each hole to the outline; closed, [n, 2]."""
    rings = [points[start : end - 1] for start, end in itertools.pairwise(offsets)]
    outline = join_rings(rings)
    return np.concatenate([outline, outline[:1]])


def _area(closed: Floats) -> float:
    x, y = closed.T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)
