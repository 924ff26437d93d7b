"""Scores of regions to detections: two policies over the same regions. Pure functions.

`top_detections` follows the publication (evaluation): a region may carry several names, NMS within
each category, no threshold, 300 an image. `best_names` labels (detect): one name a region, NMS
across names.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

NmsKind = Literal["class", "agnostic", "group", "none"]


def top_detections(
    boxes: Tensor, scores: Tensor, *, count: int = 300, iou: float = 0.5, first_guess: int = 10_000
) -> tuple[Tensor, Tensor]:
    """The best `count` detections after NMS within each category, without all R x C candidates.

    The K best candidates by (score, category, region) are suppressed class by class. A candidate's
    fate depends only on higher-scoring ones of its class, so if `count` survive, or K is
    everything, the answer is that of the full procedure; else K grows fourfold.

    Args:
        boxes: [R, 4], class-agnostic.
        scores: [R, C].

    Returns:
        Region rows [K] and category columns [K], best first.
    """
    columns = scores.shape[1]
    flat = scores.T.reshape(-1)  # category-major: equal scores keep the order (category, region)
    ordered = flat.sort(descending=True, stable=True).indices if len(flat) <= first_guess else None
    size = min(first_guess, len(flat))
    while True:
        rows = ordered if ordered is not None else _best_rows(flat, size)
        category, region = rows // len(boxes), rows % len(boxes)
        kept = _class_nms(boxes[region], flat[rows], category, iou)
        kept = kept.sort().values  # rows are in rank order already; NMS may reorder ties
        if len(kept) >= count or size == len(flat) or columns == 0:
            kept = kept[:count]
            return region[kept], category[kept]
        size = min(size * 4, len(flat))


def _best_rows(flat: Tensor, size: int) -> Tensor:
    """The `size` best entries in rank order; ties at the cut are all taken."""
    smallest = flat.topk(size, sorted=False).values.min()
    candidates = torch.where(flat >= smallest)[0]
    return candidates[flat[candidates].sort(descending=True, stable=True).indices]


def best_names(
    boxes: Tensor,
    scores: Tensor,
    *,
    floor: float = 0.01,
    count: int = 300,
    iou: float = 0.6,
    kind: NmsKind = "agnostic",
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One best name a region, suppressed across names.

    Args:
        boxes: [R, 4].
        scores: [R, C], the reported categories only.
        floor: scores below it are not kept.
        kind: which names suppress each other: all (`agnostic`), those of one `group`, equal ones
            (`class`), none.
        groups: [C] group of each category, for `group`.

    Returns:
        Region rows [K] and category columns [K], best first.
    """
    best, column = scores.max(1)
    region = torch.where(best >= floor)[0]
    region = region[best[region].sort(descending=True, stable=True).indices]
    column = column[region]
    if kind != "none":
        kept = _suppress(boxes[region], best[region], column, iou, kind, groups)
        region, column = region[kept], column[kept]
    return region[:count], column[:count]


def _suppress(
    boxes: Tensor,
    scores: Tensor,
    column: Tensor,
    iou: float,
    kind: NmsKind,
    groups: Tensor | None,
) -> Tensor:
    if kind == "agnostic":
        kept: Tensor = nms(boxes, scores, iou)
        return kept.sort().values
    if kind == "group":
        assert groups is not None, "group NMS needs the groups"
        column = groups[column]
    return _class_nms(boxes, scores, column, iou).sort().values


def _class_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float) -> Tensor:
    # batched_nms shifts each class by an offset; in float32 a thousand classes would cost a tenth
    # of a pixel.
    kept: Tensor = batched_nms(boxes.double(), scores.double(), classes, iou)
    return kept
