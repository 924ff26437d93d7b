"""Corrections out of FiftyOne into an annotation set, with what they say of the machine's labels.

records ─┐
         ├─ compare ─▶ corrected image ─▶ annotations, one image in memory at a time
dataset ─┘                           └─▶ tally: changes, precision per category
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from vildcli.errors import NothingToDoError, VocabularyError
from vildcli.export.coco import coco_category, coco_image, coco_info, json_text, write_list
from vildcli.export.geometry import coco_segmentation, cut_box, short
from vildcli.export.lvis import MOST_NEGATIVES, Occurrences
from vildcli.export.selection import Selection
from vildcli.export.writing import write_file
from vildcli.labelling.masks import crop_to_rle
from vildcli.labelling.records import OK, ImageRecord
from vildcli.labelling.thresholds import RunView
from vildcli.review.corrections import (
    Box,
    CategoryNames,
    CategoryPrecision,
    CorrectedImage,
    CorrectedLabel,
    Problems,
    ReviewedLabel,
    Tally,
    compare,
)
from vildcli.review.fiftyone_dataset import batches, database_errors, dataset_name, open_dataset
from vildcli.review.fiftyone_labels import fields_of, reviewed_images
from vildcli.vocabulary.category import Category, Vocabulary

Form = Literal["lvis", "coco"]
_GEOMETRY_CHANGES = frozenset({"moved", "reshaped", "added"})


@dataclass(frozen=True, slots=True)
class PullSummary:
    """What was brought back.

    Attributes:
        images: reviewed ones, which the file holds; `tagged` of them by a tag.
        unreviewed: images of the dataset that nobody tagged or changed.
        foreign: samples of the dataset that are not of the run.
        labels: in the file; `kept` of them as the machine had them.
        precision: of the machine's labels on the reviewed images, 0-1; None where there are none.
        categories: the same of each category.
    """

    out: Path
    dataset: str
    images: int
    tagged: int
    unreviewed: int
    foreign: int
    labels: int
    kept: int
    moved: int
    reshaped: int
    relabelled: int
    reattributed: int
    added: int
    deleted: int
    approved: int
    precision: float | None
    categories: tuple[CategoryPrecision, ...]


def pull_corrections(
    view: RunView,
    out: Path,
    *,
    name: str | None = None,
    form: Form = "lvis",
    images_root: Path | None = None,
    vocabulary: Vocabulary | None = None,
    tagged_only: bool = False,
) -> PullSummary:
    """Write the reviewed images of a run's dataset as an annotation set, replacing what is there.

    Args:
        out: the JSON file; whole or not there at all.
        name: of the dataset; default as a review calls it.
        form: LVIS's says of which categories an image was not reviewed in full, and which are not
            in it; COCO's cannot.
        images_root: folder that file names are relative to; default the run's sources.
        vocabulary: names and ids of the run's vocabulary and of what people added.
        tagged_only: leave out images that are known to be reviewed by changes alone.

    Raises:
        NothingToDoError: nobody has reviewed anything.
        DataError: a correction has an unknown name or lies outside its image.
        VocabularyError: `vocabulary` lacks a category of the run.
        VildError: the dataset is not there, is not of this run, or the database stops answering.
        RunError: `out` cannot be written.
    """
    categories = _categories(view, vocabulary)
    with database_errors():
        dataset = open_dataset(view, name or dataset_name(view))
        pull = _Pull(Selection(view, images_root), dataset, form, categories, tagged_only)
        write_file(out, pull.write)
        known = len(dataset.exists("vildcli_image"))
        return _summary(out, pull, known, foreign=len(dataset) - known)


def _categories(view: RunView, vocabulary: Vocabulary | None) -> tuple[Category, ...]:
    if vocabulary is None:
        return view.vocabulary.categories
    names = {category.id: category.name for category in vocabulary.categories}
    for category in view.vocabulary.categories:
        if names.get(category.id) != category.name:
            raise VocabularyError(
                f"Vocabulary '{vocabulary.name}' lacks the run's category {category.id}, "
                f"'{category.name}'.",
                hint=f"Copy {view.run / 'vocabulary.yaml'} and add the new names to the copy.",
            )
    return vocabulary.categories


def _summary(out: Path, pull: _Pull, known: int, foreign: int) -> PullSummary:
    tally = pull.tally
    given = tally.given.total()
    return PullSummary(
        out=out,
        dataset=pull.dataset.name,
        images=tally.images,
        tagged=tally.tagged,
        unreviewed=known - tally.images,
        foreign=foreign,
        labels=tally.labels,
        kept=tally.kept,
        moved=tally.changes["moved"],
        reshaped=tally.changes["reshaped"],
        relabelled=tally.changes["relabelled"],
        reattributed=tally.changes["reattributed"],
        added=tally.changes["added"],
        deleted=tally.deleted,
        approved=tally.changes["approved"],
        precision=tally.right.total() / given if given else None,
        categories=tally.precisions(pull.selection.view.categories),
    )


@dataclass(slots=True)
class _Pull:
    """Writes the file in one pass over records and dataset, and counts."""

    selection: Selection
    dataset: Any
    form: Form
    categories: tuple[Category, ...]
    tagged_only: bool
    tally: Tally = field(default_factory=Tally)
    problems: Problems = field(default_factory=Problems)
    occurrences: Occurrences = field(default_factory=Occurrences)
    images: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            self._write(file)

    def _write(self, file: TextIO) -> None:
        names = CategoryNames(self.categories)
        annotations = self.occurrences.counted(self._annotations(self._reviewed(names)))
        file.write('{"info": ' + json_text(self._info()) + ',\n"licenses": []')
        write_list(file, "annotations", annotations)
        self.problems.refuse(names)  # raised here, nothing comes into place
        if not self.images:
            raise NothingToDoError(
                f"Nobody has reviewed an image of the FiftyOne dataset '{self.dataset.name}' yet.",
                hint="Tag samples 'reviewed' in the App, or correct a label.",
            )
        write_list(file, "images", self.images)
        category = self.occurrences.category if self.form == "lvis" else coco_category
        write_list(file, "categories", map(category, self.categories))
        file.write("}\n")

    def _info(self) -> dict[str, Any]:
        info = coco_info(self.selection)
        said = f"{info['description']}, corrected by people"
        return {**info, "description": said, "reviewed": True}

    def _reviewed(self, names: CategoryNames) -> Iterator[CorrectedImage]:
        view = self.selection.view
        fields = fields_of(view)
        readable = (image for image in view.labelled_images() if image.image.status == OK)
        for batch in batches(readable):
            now = reviewed_images(self.dataset, fields, batch)
            for image in batch:
                if image.image.image_id in now:
                    corrected = compare(image, now[image.image.image_id], names)
                    wanted = corrected.is_tagged or not self.tagged_only
                    if corrected.is_reviewed and wanted:
                        yield corrected

    def _annotations(self, reviewed: Iterable[CorrectedImage]) -> Iterator[dict[str, Any]]:
        number = 0
        for corrected in reviewed:
            self.problems.look_at(corrected)
            if self.problems:
                continue
            self.tally.add(corrected)
            self.images.append(self._image(corrected))
            for label in corrected.labels:
                number += 1
                yield _annotation(number, corrected.image.image, label)

    def _image(self, corrected: CorrectedImage) -> dict[str, Any]:
        record = corrected.image.image
        row = coco_image(record, self.selection.name(record))
        if self.form == "coco":
            return row
        return {
            **row,
            "neg_category_ids": _negatives(corrected, self.categories),
            "not_exhaustive_category_ids": _not_exhaustive(corrected, self.selection.view),
        }


def _negatives(corrected: CorrectedImage, categories: tuple[Category, ...]) -> list[int]:
    """Categories that a person has seen to be absent, the ones that the machine had claimed first.

    Of an image without a tag only those are known.
    """
    present = {label.category_id for label in corrected.labels}
    claimed = {record.category_id for record in corrected.deleted}
    claimed |= {label.record.category_id for label in corrected.labels if label.record is not None}
    absent = sorted(claimed - present)
    if corrected.is_tagged:
        stored = {record.category_id for record in corrected.image.labels}
        others = [c.id for c in categories if c.id not in present | claimed | stored]
        some = random.Random(corrected.image.image.image_id)
        absent += some.sample(others, min(len(others), max(0, MOST_NEGATIVES - len(absent))))
    return sorted(absent)


def _not_exhaustive(corrected: CorrectedImage, view: RunView) -> list[int]:
    """Categories with labels of which there may be more: all, where nobody tagged the image.

    Else those with labels that reach their threshold, and that nobody was shown.
    """
    present = {label.category_id for label in corrected.labels if label.category_id is not None}
    if not corrected.is_tagged:
        return sorted(present)
    shown = (label for label in view.shown(corrected.image))
    unseen = {label.category_id for label in shown if label.label not in corrected.now.given}
    return sorted(present & unseen)


def _annotation(number: int, image: ImageRecord, label: CorrectedLabel) -> dict[str, Any]:
    if label.record is not None and label.changes.isdisjoint(_GEOMETRY_CHANGES):
        x1, y1, x2, y2 = cut_box(label.record, image)
        area, segmentation = coco_segmentation(label.record, image, "rle")
    else:
        x1, y1, x2, y2 = _cut(label.label.box, image)
        area, segmentation = _drawn_segmentation(label.label, image)
    row = {
        "id": number,
        "image_id": image.image_id,
        "category_id": label.category_id,
        "bbox": [x1, y1, short(x2 - x1), short(y2 - y1)],
        "area": area,
        "segmentation": segmentation,
        "iscrowd": 0,
        "changes": sorted(label.changes),
    }
    if label.record is not None:
        row["vildcli_label"] = label.record.label
    if label.label.attributes:
        row["attributes"] = dict(label.label.attributes)
    return row


def _cut(box: Box, image: ImageRecord) -> Box:
    x1, y1, x2, y2 = box
    left, right = (short(min(max(x, 0), image.width)) for x in (x1, x2))
    top, bottom = (short(min(max(y, 0), image.height)) for y in (y1, y2))
    return left, top, right, bottom


def _drawn_segmentation(label: ReviewedLabel, image: ImageRecord) -> tuple[float, Any]:
    """Area in pixels and COCO's `segmentation`: the mask stretched over the box, or the box."""
    x1, y1, x2, y2 = _cut(label.box, image)
    if label.mask is not None:
        height, width = label.mask.shape
        left, across = _cells(label.box[0], label.box[2], width, (x1, x2))
        top, down = _cells(label.box[1], label.box[3], height, (y1, y2))
        crop = label.mask[np.ix_(down.clip(0, height - 1), across.clip(0, width - 1))]
        crop &= ((down >= 0) & (down < height))[:, None] & (across >= 0) & (across < width)
        if crop.any():
            return int(crop.sum()), crop_to_rle(crop, (left, top), image.height, image.width)
    return (x2 - x1) * (y2 - y1), [[x1, y1, x2, y1, x2, y2, x1, y2]]


def _cells(
    low: float, high: float, size: int, part: tuple[float, float]
) -> tuple[int, NDArray[np.int64]]:
    """The first pixel of a part of a box's side, and the mask's cell at each pixel's centre.

    A pixel whose centre lies outside the box has none of the mask's `size` cells.
    """
    first = int(np.floor(part[0]))
    centres = np.arange(first, max(int(np.ceil(part[1])), first + 1)) + 0.5
    return first, np.floor((centres - low) / (high - low) * size).astype(np.int64)
