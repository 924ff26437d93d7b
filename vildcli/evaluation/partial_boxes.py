"""Does a score say how well a box fits? CLIP's high scores for parts of objects, shown. No torch.

Each region is held against the object it overlaps most, and the score of that object's true name is
averaged by overlap. A system whose scores measure localisation gives little to a box that covers a
tenth of its object; CLIP on crops does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vildcli.evaluation.predictions import Floats
from vildcli.evaluation.voc import box_overlaps, is_difficult

BINS = 10
INSIDE = 0.9  # share of its own area from which a box counts as lying inside the object


@dataclass(frozen=True, slots=True)
class OverlapBin:
    """Regions whose IoU with their object is in [low, high).

    Attributes:
        regions: how many; of them, `inside` lie inside the object: parts of it.
        score: mean score of the object's name, 0-1; None of none.
        inside_score: the same of those inside.
    """

    low: float
    high: float
    regions: int
    score: float | None
    inside: int
    inside_score: float | None


class OverlapScores:
    """Collects scores by overlap, image by image.

    Args:
        content: JSON value of the truth; crowds and difficult objects are left out.
        columns: column of each category id in the scores; objects of others are left out.
    """

    def __init__(self, content: Mapping[str, Any], columns: Mapping[int, int]) -> None:
        self._objects: dict[int, list[Mapping[str, Any]]] = {}
        for row in content["annotations"]:
            if row["category_id"] in columns and not is_difficult(row):
                self._objects.setdefault(row["image_id"], []).append(row)
        self._columns = columns
        self._sums = np.zeros((2, BINS))  # all, and those inside
        self._counts = np.zeros((2, BINS), np.int64)

    def see(self, image_id: int, boxes: Floats, scores: Floats) -> None:
        """Add regions: boxes [R, 4] x1 y1 x2 y2, scores [R, C]."""
        objects = self._objects.get(image_id)
        if not objects or not len(boxes):
            return
        truth = np.array([row["bbox"] for row in objects], np.float64)
        columns = np.array([self._columns[row["category_id"]] for row in objects])
        regions = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        overlaps = box_overlaps(regions, truth)
        nearest = overlaps.argmax(axis=1)
        rows = np.arange(len(regions))
        overlap, score = overlaps[rows, nearest], scores[rows, columns[nearest]]
        inside = _share_inside(regions, truth[nearest]) >= INSIDE
        bins = np.minimum((overlap * BINS).astype(int), BINS - 1)
        touching = overlap > 0
        for kind, chosen in enumerate((touching, inside)):
            np.add.at(self._sums[kind], bins[chosen], score[chosen])
            np.add.at(self._counts[kind], bins[chosen], 1)

    def bins(self) -> tuple[OverlapBin, ...]:
        return tuple(
            OverlapBin(
                low=i / BINS,
                high=(i + 1) / BINS,
                regions=int(self._counts[0, i]),
                score=self._mean(0, i),
                inside=int(self._counts[1, i]),
                inside_score=self._mean(1, i),
            )
            for i in range(BINS)
        )

    def _mean(self, kind: int, i: int) -> float | None:
        count = self._counts[kind, i]
        return float(self._sums[kind, i] / count) if count else None


def _share_inside(boxes: Floats, objects: Floats) -> Floats:
    """What share of each box [N, 4] (x y width height) lies in its object [N, 4]."""
    low = np.maximum(boxes[:, :2], objects[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], objects[:, :2] + objects[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    areas = boxes[:, 2:].prod(axis=1)
    share: Floats = np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)
    return share
