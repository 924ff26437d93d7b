"""Labels of several inputs on one image: which of two that show the same thing stays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NMS_IOU = 0.6  # as within a run


def keep_best(
    boxes: Floats, scores: Floats, owners: NDArray[np.int64], iou: float
) -> NDArray[np.bool_]:
    """Which labels stay: none that overlaps a better one of *another* input by more than `iou`.

    An input's own labels never suppress each other: it has a policy of its own, which was applied.

    Args:
        boxes: [K, 4] x1 y1 x2 y2, pixels.
        scores: [K]; of equal ones the earlier input's is better.
        owners: [K] place of the input that each is from.
        iou: overlap, whatever the categories; 1 keeps all.

    Returns:
        [K] bool.
    """
    kept = np.ones(len(boxes), bool)
    if iou >= 1 or len(np.unique(owners)) < 2:
        return kept
    overlaps = box_overlaps(boxes, boxes) > iou
    overlaps &= owners[:, None] != owners[None, :]
    for row in np.lexsort((owners, -scores)):
        if kept[row]:
            kept[overlaps[row]] = False
    return kept


def box_overlaps(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of boxes [K, 4] and [N, 4]: [K, N]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (high - low).clip(min=0).prod(-1)
    union = _areas(boxes)[:, None] + _areas(others)[None, :] - common
    share: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return share


def as_boxes(rows: Any) -> Floats:
    """Any sequence of four corners as [K, 4], of none as [0, 4]."""
    return np.asarray(rows, np.float64).reshape(-1, 4)


def _areas(boxes: Floats) -> Floats:
    area: Floats = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(-1)
    return area
