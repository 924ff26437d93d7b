"""What people changed: the labels of an image as they are now, held against the records. No torch.

An image counts as reviewed when somebody tagged it `reviewed` or `approved`, or changed anything
on it. Of a reviewed image every label that was left alone is taken as right.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vildcli.errors import DataError
from vildcli.labelling.masks import mask_over_box
from vildcli.labelling.records import LabelledImage, LabelRecord
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import match_key

Box = tuple[float, float, float, float]
Change = Literal["moved", "reshaped", "relabelled", "reattributed", "added", "approved"]
REVIEWED_TAGS = frozenset({"reviewed", "approved"})
APPROVED_TAG, REJECTED_TAG = "approved", "rejected"
RIGHT_IOU = 0.5  # with the box that a person left, from which the machine's was right
MASK_SIDE = 128  # cells that a mask's longer side has at most in the dataset
_SAME_PLACE = 0.1  # pixels by which sides may differ that nobody moved: programs round
_SMALLEST_SIDE = 0.01  # pixels of a box that somebody can have meant
_SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True)
class ReviewedLabel:
    """A label as it is in the dataset now.

    Attributes:
        number: of the label in the records; None for what a person drew.
        box: x1 y1 x2 y2 in pixels of the upright original image, any part of it outside.
        mask: over the box; None where there is none.
        attributes: value of each attribute set.
    """

    number: int | None
    name: str
    box: Box
    mask: NDArray[np.bool_] | None = None
    tags: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReviewedImage:
    """An image as it is in the dataset now.

    Attributes:
        sample: its id in FiftyOne.
        given: numbers of the labels that were ever put there.
    """

    sample: str
    tags: frozenset[str]
    given: frozenset[int]
    labels: tuple[ReviewedLabel, ...]


@dataclass(frozen=True, slots=True)
class CorrectedLabel:
    """One label as people left it.

    Attributes:
        record: what the machine had said; None for what a person drew.
        category_id: None where no category is called so.
        changes: what people did to it; empty where it was left alone.
    """

    label: ReviewedLabel
    record: LabelRecord | None
    category_id: int | None
    changes: frozenset[Change]


@dataclass(frozen=True, slots=True)
class CorrectedImage:
    """One image as people left it; `deleted` are the labels that they took away or rejected."""

    image: LabelledImage
    now: ReviewedImage
    labels: tuple[CorrectedLabel, ...]
    deleted: tuple[LabelRecord, ...]

    @property
    def is_tagged(self) -> bool:
        return not REVIEWED_TAGS.isdisjoint(self.now.tags)

    @property
    def is_reviewed(self) -> bool:
        return self.is_tagged or bool(self.deleted) or any(label.changes for label in self.labels)

    @property
    def given(self) -> Iterator[LabelRecord]:
        """The machine's labels that people saw."""
        return (label for label in self.image.labels if label.label in self.now.given)

    def right(self) -> frozenset[int]:
        """Numbers of the machine's labels that kept their name and, by `RIGHT_IOU`, their place."""
        size = self.image.image.width, self.image.image.height
        return frozenset(
            label.record.label
            for label in self.labels
            if label.record is not None
            and label.category_id == label.record.category_id
            and box_iou(label.label.box, cut_record(label.record, size)) >= RIGHT_IOU
        )


class CategoryNames:
    """The ids of names: a category's own name, else one that is spelled alike, else a synonym."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.names = [category.name for category in categories]
        self._exact = {category.name: category.id for category in categories}
        synonyms = {match_key(s): c.id for c in reversed(categories) for s in c.synonyms}
        names = {match_key(c.name): c.id for c in reversed(categories)}  # of two the first
        self._alike = synonyms | names

    def find(self, name: str) -> int | None:
        return self._exact.get(name, self._alike.get(match_key(name)))

    def nearest(self, name: str) -> str | None:
        """The name that is spelled most like one that is not there."""
        return next(iter(difflib.get_close_matches(name, self.names, n=1)), None)


def compare(
    image: LabelledImage,
    now: ReviewedImage,
    names: CategoryNames,
) -> CorrectedImage:
    """Match the labels of an image, as they are now, to the records, by their numbers.

    Of several labels with one number, copies that a person made, the first is the record's own.
    """
    records = {label.label: label for label in image.labels if label.label in now.given}
    size = image.image.width, image.image.height
    labels: list[CorrectedLabel] = []
    for label in now.labels:
        if REJECTED_TAG in label.tags:
            continue
        record = records.pop(label.number, None) if label.number is not None else None
        category_id = names.find(label.name)
        changes = _changes(label, record, category_id, size)
        labels.append(CorrectedLabel(label, record, category_id, changes))
    return CorrectedImage(image, now, tuple(labels), tuple(records.values()))


def cut_record(label: LabelRecord, size: tuple[int, int]) -> Box:
    """The record's box cut at the borders of its image of that width and height."""
    (x1, x2), (y1, y2) = (
        tuple(min(max(side, 0.0), float(limit)) for side in label.box[start::2])
        for start, limit in enumerate(size)
    )
    return x1, y1, x2, y2


def _changes(
    label: ReviewedLabel, record: LabelRecord | None, category_id: int | None, size: tuple[int, int]
) -> frozenset[Change]:
    approved: frozenset[Change] = frozenset({"approved"} if APPROVED_TAG in label.tags else ())
    if record is None:
        return approved | {"added"}
    box = cut_record(record, size)
    given = {attribute.set: attribute.name for attribute in record.attributes}
    is_done: dict[Change, bool] = {
        "moved": float(np.abs(np.subtract(label.box, box)).max()) > _SAME_PLACE,
        "reshaped": not _is_same_mask(label.mask, record, box),
        "relabelled": category_id != record.category_id,
        "reattributed": dict(label.attributes) != given,
    }
    return approved | {change for change, done in is_done.items() if done}


def _is_same_mask(mask: NDArray[np.bool_] | None, record: LabelRecord, box: Box) -> bool:
    if mask is None:
        return False
    given = mask_over_box(record.mask, record.mask_box, box, MASK_SIDE)
    return mask.shape == given.shape and bool((mask == given).all())


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / both if both > 0 else 1.0  # of boxes without area nothing can be said


@dataclass(slots=True)
class Problems:
    """What cannot be brought back, gathered over all images before anything is said."""

    unknown: Counter[str] = field(default_factory=Counter)
    unknown_place: str = ""
    outside: int = 0
    outside_place: str = ""

    def __bool__(self) -> bool:
        return bool(self.unknown or self.outside)

    def look_at(self, corrected: CorrectedImage) -> None:
        image = corrected.image.image
        for label in corrected.labels:
            if label.category_id is None:
                self.unknown_place = self.unknown_place or image.path
                self.unknown[label.label.name] += 1
            if label.changes & {"moved", "added"} and not has_area(
                label.label.box, (image.width, image.height)
            ):
                self.outside += 1
                self.outside_place = self.outside_place or _outside(corrected, label.label)

    def refuse(self, names: CategoryNames) -> None:
        """Say what was found.

        Raises:
            DataError: a name that the vocabulary lacks, or a box that lies outside its image.
        """
        if self.unknown:
            shown = ", ".join(
                f"'{name}' ({number})" for name, number in self.unknown.most_common(_SHOWN_NAMES)
            )
            more = len(self.unknown) - _SHOWN_NAMES
            first = next(iter(self.unknown))
            near = names.nearest(first)
            raise DataError(
                f"Labels have names that the vocabulary lacks: {shown}"
                f"{f' and {more} more' if more > 0 else ''}; the first is on {self.unknown_place}.",
                hint=f"Rename them in FiftyOne{f' (to {near!r}?)' if near else ''}, or give a "
                "vocabulary that has them beside the run's as --vocab.",
            )
        if self.outside:
            others = f" ({self.outside} labels do)" if self.outside > 1 else ""
            raise DataError(
                f"{self.outside_place}{others}.",
                hint="Move or delete it in FiftyOne, and pull again.",
            )


def has_area(box: Box, size: tuple[int, int]) -> bool:
    """Whether any of a box lies within an image of that width and height."""
    x1, y1, x2, y2 = box
    across, down = min(x2, size[0]) - max(x1, 0), min(y2, size[1]) - max(y1, 0)
    return across >= _SMALLEST_SIDE and down >= _SMALLEST_SIDE


def _outside(corrected: CorrectedImage, label: ReviewedLabel) -> str:
    image = corrected.image.image
    x1, y1, x2, y2 = label.box
    return (
        f"{image.path}: the box {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f} of '{label.name}' covers "
        f"nothing of its image of {image.width} x {image.height} pixels"
    )


@dataclass(frozen=True, slots=True)
class CategoryPrecision:
    """How many of the machine's labels of a category, on reviewed images, were right."""

    category_id: int
    name: str
    labels: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.labels


@dataclass(slots=True)
class Tally:
    """What people changed, added up over the reviewed images."""

    images: int = 0
    tagged: int = 0
    labels: int = 0
    kept: int = 0
    deleted: int = 0
    changes: Counter[Change] = field(default_factory=Counter)
    given: Counter[int] = field(default_factory=Counter)
    right: Counter[int] = field(default_factory=Counter)

    def add(self, corrected: CorrectedImage) -> None:
        self.images += 1
        self.tagged += corrected.is_tagged
        self.labels += len(corrected.labels)
        self.kept += sum(label.changes <= {"approved"} for label in corrected.labels)
        self.deleted += len(corrected.deleted)
        for label in corrected.labels:
            self.changes.update(label.changes)
        right = corrected.right()
        for record in corrected.given:
            self.given[record.category_id] += 1
            self.right[record.category_id] += record.label in right

    def precisions(self, categories: Mapping[int, Category]) -> tuple[CategoryPrecision, ...]:
        """Of the categories that the machine found, the commonest first."""
        rows = (
            CategoryPrecision(id_, categories[id_].name, number, self.right[id_])
            for id_, number in self.given.items()
        )
        return tuple(sorted(rows, key=lambda row: (-row.labels, row.name)))
