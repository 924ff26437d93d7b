"""PASCAL VOC's average precision, as the development kit defines it. No torch.

Detections of a category are taken by descending score. One that overlaps its best object of that
category by the threshold or more is right, if the object was not found before; it counts for
nothing if the object is marked difficult; else it is wrong. Difficult objects need not be found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vildcli.evaluation.predictions import Floats, Ints, Predictions
from vildcli.evaluation.result import RECALLS, CategoryResult, Result, mean

THRESHOLDS = (0.5, 0.75)
_ROUNDING = 1e-9  # so that 3 of 10 found reach the recall 0.3


@dataclass(frozen=True, slots=True)
class VocCurve:
    """Precision and recall after each detection that counts, best first: [K] each, in 0-1."""

    recall: Floats
    precision: Floats

    def area(self) -> float:
        """Area under the curve whose precision never rises again: VOC from 2010 on."""
        recall = np.concatenate([[0.0], self.recall, [1.0]])
        precision = np.concatenate([[0.0], self.precision, [0.0]])
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        steps = np.flatnonzero(np.diff(recall))
        return float(((recall[steps + 1] - recall[steps]) * falling[steps + 1]).sum())

    def eleven_points(self) -> float:
        """Mean of the best precision at recalls 0, 0.1, …, 1 and beyond: VOC up to 2009."""
        return float(self.at(np.linspace(0, 1, 11)).mean())

    def at(self, recalls: Floats) -> Floats:
        """The best precision at each recall and beyond."""
        falling = np.maximum.accumulate(self.precision[::-1])[::-1]
        places = np.searchsorted(self.recall, recalls - _ROUNDING)
        best: Floats = np.append(falling, 0.0)[places]
        return best


def evaluate_voc(content: Mapping[str, Any], predictions: Predictions) -> Result:
    """Box AP50 and AP75, each as the area and by 11 points.

    Args:
        content: JSON value in COCO's form; an object is difficult where it says `difficult`, or, in
            VOC files converted by others, `ignore` or `iscrowd`.
        predictions: of its images and categories.
    """
    at_50, at_75 = _curves(_truth(content), predictions)
    metrics = {
        "AP50": mean(curve.area() for curve in at_50.values()),
        "AP75": mean(curve.area() for curve in at_75.values()),
        "AP50 11-point": mean(curve.eleven_points() for curve in at_50.values()),
        "AP75 11-point": mean(curve.eleven_points() for curve in at_75.values()),
    }
    return Result("Box AP", "bbox", metrics, {i: _result(curve) for i, curve in at_50.items()})


def _result(curve: VocCurve) -> CategoryResult:
    area, recall = curve.area(), float(curve.recall.max(initial=0.0))
    return CategoryResult(area, area, recall, recall, curve.at(np.linspace(0, 1, RECALLS)))


@dataclass(slots=True)
class _Objects:
    """Those of one image and category: boxes [N, 4] x y width height, whether difficult [N]."""

    boxes: Floats
    difficult: NDArray[np.bool_]


_Truth = dict[int, dict[int, _Objects]]  # category id, then image id


def _truth(content: Mapping[str, Any]) -> _Truth:
    rows: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in content["annotations"]:
        rows[row["category_id"], row["image_id"]].append(row)
    truth: _Truth = defaultdict(dict)
    for (category_id, image_id), objects in rows.items():
        truth[category_id][image_id] = _Objects(
            np.array([row["bbox"] for row in objects], np.float64),
            np.array([is_difficult(row) for row in objects], bool),
        )
    return truth


def is_difficult(row: Mapping[str, Any]) -> bool:
    return any(row.get(key) for key in ("difficult", "ignore", "iscrowd"))


def _curves(truth: _Truth, predictions: Predictions) -> tuple[dict[int, VocCurve], ...]:
    """For each threshold by category; those without an object that must be found have none."""
    curves: tuple[dict[int, VocCurve], ...] = tuple({} for _ in THRESHOLDS)
    for category_id, images in sorted(truth.items()):
        wanted = sum(int((~objects.difficult).sum()) for objects in images.values())
        if not wanted:
            continue
        rows = np.flatnonzero(predictions.category_ids == category_id)
        rows = rows[np.argsort(-predictions.scores[rows], kind="stable")]
        found = predictions.take(rows)
        overlaps, nearest = _nearest(images, found)
        for threshold, of_threshold in zip(THRESHOLDS, curves, strict=True):
            hits = _hits(images, found.image_ids, overlaps, nearest, threshold)
            counted = hits[hits >= 0]
            right, shown = counted.cumsum(), np.arange(1, len(counted) + 1)
            of_threshold[category_id] = VocCurve(right / wanted, right / shown)
    return curves


def _nearest(images: Mapping[int, _Objects], found: Predictions) -> tuple[Floats, Ints]:
    """The object of its image that each detection overlaps most [K], and by how much [K]."""
    overlaps, nearest = np.zeros(len(found)), np.zeros(len(found), np.int64)
    order = np.argsort(found.image_ids, kind="stable")
    starts = np.flatnonzero(np.diff(found.image_ids[order], prepend=np.nan))
    for places in np.split(order, starts[1:]):
        objects = images.get(int(found.image_ids[places[0]])) if len(places) else None
        if objects is not None:
            each = box_overlaps(found.boxes[places], objects.boxes)
            overlaps[places], nearest[places] = each.max(axis=1), each.argmax(axis=1)
    return overlaps, nearest


def _hits(
    images: Mapping[int, _Objects],
    image_ids: Ints,
    overlaps: Floats,
    nearest: Ints,
    threshold: float,
) -> Ints:
    """1 for right, 0 for wrong, -1 for on a difficult object; best-scored first, as given."""
    hits = np.zeros(len(overlaps), np.int64)
    found: set[tuple[int, int]] = set()
    for place in np.flatnonzero(overlaps >= threshold):
        image_id, object_ = int(image_ids[place]), int(nearest[place])
        if images[image_id].difficult[object_]:
            hits[place] = -1
        elif (image_id, object_) not in found:
            found.add((image_id, object_))
            hits[place] = 1
    return hits


def box_overlaps(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union [N, M] of boxes [N, 4] and [M, 4], x y width height."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    ends, other_ends = boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]
    high = np.minimum(ends[:, None], other_ends[None])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas, other_areas = boxes[:, 2:].prod(axis=1), others[:, 2:].prod(axis=1)
    union = areas[:, None] + other_areas[None] - shared
    overlaps: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps
