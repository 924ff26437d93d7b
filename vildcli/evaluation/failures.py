"""What became of each annotated object: found, given another name, or missed. No torch.

ViLD's authors tell two failures apart: novel objects for which there is no region at all, and novel
objects whose region gets another name. An object is

    missed         no region overlaps it with IoU 0.5 or more
    misclassified  of the regions that do, the surest is called something else, or nothing
    found          the surest is called what it is
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vildcli.evaluation.predictions import Floats
from vildcli.evaluation.voc import box_overlaps, is_difficult

MATCH_IOU = 0.5
Outcome = Literal["found", "misclassified", "missed"]
OUTCOMES: tuple[Outcome, ...] = ("found", "misclassified", "missed")
NO_NAME = -1  # category id of a region that was given no name, or one that the truth does not have


@dataclass(frozen=True, slots=True)
class NamedRegions:
    """Regions of one image with the best name of each.

    Attributes:
        boxes: [R, 4] x1 y1 x2 y2, pixels of the upright original image.
        category_ids: [R], NO_NAME where there is none.
        scores: [R] of that name; a region without a name comes after all others.
    """

    boxes: Floats
    category_ids: NDArray[np.int64]
    scores: Floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one object.

    Attributes:
        box: x y width height of the object.
        overlap: greatest IoU of any region.
        said: category id of the surest region that overlaps it enough; None where none does.
        region: that region's box, x1 y1 x2 y2.
        score: that region's.
    """

    image_id: int
    category_id: int
    box: tuple[float, ...]
    overlap: float
    said: int | None = None
    region: tuple[float, ...] | None = None
    score: float = 0.0

    @property
    def outcome(self) -> Outcome:
        if self.said is None:
            return "missed"
        return "found" if self.said == self.category_id else "misclassified"


class Judge:
    """Judges objects image by image; those of images that it is never shown are missed.

    Args:
        content: JSON value of the truth; crowds and difficult objects are left out.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._objects: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for row in content["annotations"]:
            if not is_difficult(row):
                self._objects[row["image_id"]].append(row)
        self._verdicts: dict[int, list[Verdict]] = {}

    def see(self, image_id: int, regions: NamedRegions) -> None:
        objects = self._objects.get(image_id, [])
        boxes = np.array([row["bbox"] for row in objects], np.float64).reshape(-1, 4)
        overlaps = box_overlaps(_xywh(regions.boxes), boxes)
        self._verdicts[image_id] = [
            _verdict(row, overlaps[:, i], regions) for i, row in enumerate(objects)
        ]

    def verdicts(self) -> tuple[Verdict, ...]:
        nothing = NamedRegions(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0))
        for image_id in self._objects.keys() - self._verdicts.keys():
            self.see(image_id, nothing)
        return tuple(v for image_id in self._objects for v in self._verdicts[image_id])


def _verdict(row: Mapping[str, Any], overlaps: Floats, regions: NamedRegions) -> Verdict:
    place = {
        "image_id": row["image_id"],
        "category_id": row["category_id"],
        "box": tuple(map(float, row["bbox"])),
        "overlap": float(overlaps.max(initial=0.0)),
    }
    near = np.flatnonzero(overlaps >= MATCH_IOU)
    if not len(near):
        return Verdict(**place)
    surest = near[regions.scores[near].argmax()]
    return Verdict(
        **place,
        said=int(regions.category_ids[surest]),
        region=tuple(regions.boxes[surest].tolist()),
        score=float(regions.scores[surest]),
    )


def _xywh(corners: Floats) -> Floats:
    corners = corners.reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def count_outcomes(
    verdicts: Iterable[Verdict], category_ids: Collection[int]
) -> dict[Outcome, int]:
    """How many objects of those categories had each outcome."""
    counts = Counter(v.outcome for v in verdicts if v.category_id in category_ids)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def confusions(verdicts: Iterable[Verdict], category_ids: Collection[int]) -> Counter[Any]:
    """How often an object of a category was called another: (true id, said id) to a count."""
    return Counter(
        (v.category_id, v.said)
        for v in verdicts
        if v.outcome == "misclassified" and v.category_id in category_ids
    )


def worst_failures(
    verdicts: Sequence[Verdict], category_ids: Collection[int], limit: int
) -> list[Verdict]:
    """Failures worth looking at: sure wrong names and large missed objects, by turns.

    Of one category and outcome, the second comes after the first of every other.
    """
    failed = [v for v in verdicts if v.outcome != "found" and v.category_id in category_ids]
    failed.sort(key=lambda v: -v.score if v.said is not None else -v.box[2] * v.box[3])
    rank: Counter[Any] = Counter()
    order = []
    for verdict in failed:
        key = (verdict.category_id, verdict.outcome)
        rank[key] += 1
        order.append((rank[key], verdict))
    order.sort(key=lambda pair: pair[0])
    wrong, missed = (
        [v for _, v in order if v.outcome == outcome] for outcome in ("misclassified", "missed")
    )
    pairs = itertools.zip_longest(wrong, missed)
    return [v for pair in pairs for v in pair if v is not None][:limit]
