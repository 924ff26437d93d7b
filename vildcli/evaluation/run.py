"""A labelling run held against an annotation set: read from its records. No torch, no image.

A run keeps one best name a region from a low floor on, scored in a context: its average precision
is that of the labels, and a lower bound of the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vildcli.data.matching import ImageFile, match_categories, match_images
from vildcli.errors import DataError
from vildcli.evaluation.failures import NO_NAME, Judge, NamedRegions, Verdict
from vildcli.evaluation.phrases import listed
from vildcli.evaluation.predictions import Floats, Predictions, RunLengths, concatenate
from vildcli.evaluation.proposals import proposals_of_image
from vildcli.evaluation.report import Seen, Subject
from vildcli.evaluation.truth import Truth
from vildcli.labelling.masks import mask_to_rle
from vildcli.labelling.plan import image_path
from vildcli.labelling.records import OK, ImageRecord, LabelledImage, LabelRecord, read_part
from vildcli.labelling.thresholds import RunView, view_run
from vildcli.runs import file_sha256, read_run
from vildcli.vocabulary.category import Category


@dataclass(frozen=True, slots=True)
class MatchedRun:
    """The part of a run that has truth, before any label is read.

    Attributes:
        truth: cut down to the images and names that the run looked at.
        image_ids, category_ids: the truth's id for each of the run's that has one; several of the
            run's categories may mean one of the truth's.
        notes: what was left out, with counts.
    """

    view: RunView
    truth: Truth
    image_ids: Mapping[int, int]
    category_ids: Mapping[int, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """The part of a run that has truth, in the truth's own ids.

    Attributes:
        truth: cut down to the images and names that the run looked at.
        predictions: all labels of those, or the shown ones.
        image_ids, category_ids: the truth's id for each of the run's that has one.
        is_base: what the run says of the truth's categories, where it says anything.
        provenance: of what made the run.
        notes: what was left out, with counts, and how the run's policy differs from evaluation.
    """

    run: Path
    view: RunView
    truth: Truth
    predictions: Predictions
    image_ids: Mapping[int, int]
    category_ids: Mapping[int, int]
    is_base: Mapping[int, bool]
    provenance: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredRegions:
    """Regions of one image that a run kept.

    Attributes:
        image_id: the truth's.
        boxes, proposals: [R, 4] x1 y1 x2 y2, pixels of the upright original image.
        objectness: [R] in 0-1.
    """

    image_id: int
    boxes: Floats
    proposals: Floats
    objectness: Floats


def match_run(
    run: Path, truth: Truth, *, conf: float | None = None, images: Path | None = None
) -> MatchedRun:
    """Match the images and categories of a run with those of an annotation set.

    Args:
        run: a labelling run, complete or not.
        truth: of some of its images and names.
        conf: score from which labels are shown, as for `view_run`.
        images: folder of the truth's images: what no name matches is matched by hash.

    Raises:
        RunError: `run` cannot be read.
        DataError: no image or no name of the run is in the truth, or an image has two sizes.
    """
    view = view_run(run, conf=conf)
    records = tuple(view.images())
    image_ids = _match_images(records, truth, images)
    category_ids = match_categories(view.vocabulary.categories, truth.annotations.categories)
    _refuse_nothing(run, truth, records, image_ids, view.vocabulary.categories, category_ids)
    found = truth.restricted(image_ids.values(), category_ids.values())
    _refuse_other_sizes(records, found, image_ids)
    notes = (*truth.notes, *_notes(view, records, truth, image_ids, category_ids))
    return MatchedRun(view, found, image_ids, category_ids, notes)


def read_evaluated_run(
    run: Path, truth: Truth, *, conf: float | None = None, images: Path | None = None
) -> EvaluatedRun:
    """Match a run with an annotation set and read its labels.

    Args:
        run, truth, images: as for `match_run`.
        conf: read only labels from this score on; None reads all that are stored.

    Raises:
        RunError, DataError: as `match_run` does.
    """
    matched = match_run(run, truth, conf=conf, images=images)
    view, image_ids = matched.view, matched.image_ids
    collected = _Labels(matched.truth, image_ids, matched.category_ids)
    for image in view.labelled_images():
        if image.image.image_id in image_ids:
            collected.add(image, image.labels if conf is None else view.shown(image))
    header = read_run(run, "labelling")
    return EvaluatedRun(
        run=run,
        view=view,
        truth=matched.truth,
        predictions=collected.predictions(),
        image_ids=image_ids,
        category_ids=matched.category_ids,
        is_base=collected.is_base,
        provenance=_provenance(header),
        notes=(*matched.notes, *_policy(run, header["settings"], conf)),
    )


def iter_stored_regions(found: EvaluatedRun) -> Iterator[StoredRegions]:
    """The regions of every image that has truth; of a run without --keep-regions, labelled ones."""
    columns = ["image_id", "box", "proposal", "objectness"]
    for unit in found.view.units:
        table = read_part(found.run, "regions", unit, columns)
        ids = table.column("image_id").to_numpy()
        values = {name: np.array(table.column(name).to_pylist()) for name in columns[1:]}
        for image_id in np.unique(ids).tolist():
            if image_id not in found.image_ids:
                continue
            rows = np.flatnonzero(ids == image_id)
            yield StoredRegions(
                found.image_ids[image_id],
                values["box"][rows].astype(np.float64),
                values["proposal"][rows].astype(np.float64),
                values["objectness"][rows].astype(np.float64),
            )


def subject_of_run(
    found: EvaluatedRun, *, proposals: bool = False, images: Path | None = None
) -> Subject:
    """A run ready to be reported on: its labels, or the recall of its proposals.

    Args:
        proposals: read proposals, and no labels.
        images: folder of the truth's images; default where the run found its own.
    """
    header = read_run(found.run, "labelling")
    seen = Seen(str(found.run), found.provenance, found.is_base, knows_all=False)
    subject = Subject(seen, header["settings"].get("system"), found.truth, notes=found.notes)
    if not proposals:
        return replace(
            subject,
            predictions=found.predictions,
            verdicts=judge_run(found),
            files=_files(found, images),
        )
    kept = header["settings"].get("keep_regions")
    note = () if kept else ("The run kept labelled regions only: recall is theirs.",)
    return replace(subject, proposals=_proposals(found), notes=(*found.notes[:-1], *note))


def _files(found: EvaluatedRun, images: Path | None) -> dict[int, Path]:
    if images is not None:
        return {i.id: images / i.file_name for i in found.truth.annotations.images}
    return {
        found.image_ids[record.image_id]: image_path(found.run, record)
        for record in found.view.images()
        if record.image_id in found.image_ids
    }


def _proposals(found: EvaluatedRun) -> Predictions:
    any_category = found.truth.annotations.categories[0].id
    return concatenate(
        [
            proposals_of_image(r.image_id, any_category, r.proposals, r.objectness)
            for r in iter_stored_regions(found)
        ]
    )


def judge_run(found: EvaluatedRun) -> tuple[Verdict, ...]:
    """What became of each object of the truth, by the run's labels and the regions it kept."""
    judge = Judge(found.truth.content)
    stored = {regions.image_id: regions.boxes for regions in iter_stored_regions(found)}
    rows = found.predictions
    for image_id in found.image_ids.values():
        own = np.flatnonzero(rows.image_ids == image_id)
        corners = rows.boxes[own].copy()
        corners[:, 2:] += corners[:, :2]
        others = stored.get(image_id, np.empty((0, 4)))
        nameless = np.full(len(others), NO_NAME, np.int64)
        judge.see(
            image_id,
            NamedRegions(
                np.concatenate([corners, others]),
                np.concatenate([rows.category_ids[own], nameless]),
                np.concatenate([rows.scores[own], np.full(len(others), -1.0)]),
            ),
        )
    return judge.verdicts()


class _Labels:
    """Collects labels as predictions in the truth's ids."""

    def __init__(
        self, truth: Truth, image_ids: Mapping[int, int], category_ids: Mapping[int, int]
    ) -> None:
        self._image_ids, self._category_ids = image_ids, category_ids
        self._masks: list[RunLengths] | None = [] if "segm" in truth.iou_types else None
        self._rows: list[tuple[int, int, float]] = []
        self._boxes: list[tuple[float, float, float, float]] = []
        self.is_base: dict[int, bool] = {}

    def add(self, image: LabelledImage, labels: Sequence[LabelRecord]) -> None:
        for label in labels:
            category_id = self._category_ids.get(label.category_id)
            if category_id is None:
                continue
            self.is_base[category_id] = label.is_base
            x1, y1, x2, y2 = label.box
            self._rows.append((self._image_ids[image.image.image_id], category_id, label.score))
            self._boxes.append((x1, y1, x2 - x1, y2 - y1))
            if self._masks is not None:
                height, width = image.image.height, image.image.width
                self._masks.append(mask_to_rle(label.mask, label.mask_box, height, width))

    def predictions(self) -> Predictions:
        columns = list(zip(*self._rows, strict=True)) or [(), (), ()]
        return Predictions(
            np.array(columns[0], np.int64),
            np.array(columns[1], np.int64),
            np.array(self._boxes, np.float64).reshape(-1, 4),
            np.array(columns[2], np.float64),
            self._masks,
        )


def _match_images(
    records: Sequence[ImageRecord], truth: Truth, images: Path | None
) -> dict[int, int]:
    hashes = {record.image_id: record.sha256 for record in records}
    names = {image.id: image.file_name for image in truth.annotations.images}

    @cache
    def hash_of_truth(image_id: int) -> str | None:
        file = images / names[image_id] if images else None
        return file_sha256(file) if file and file.is_file() else None

    return match_images(
        [ImageFile(r.image_id, (r.path, f"{r.source}/{r.path}")) for r in records],
        [ImageFile(id_, (name,)) for id_, name in names.items()],
        hash_of_image=hashes.get,
        hash_of_truth=hash_of_truth,
    )


def _refuse_nothing(
    run: Path,
    truth: Truth,
    records: Sequence[ImageRecord],
    image_ids: Mapping[int, int],
    categories: Sequence[Category],
    category_ids: Mapping[int, int],
) -> None:
    if not image_ids:
        raise DataError(
            f"None of the {len(records)} images of {run} is in {truth.path}.",
            hint="Images match by relative path, by file name or, with --images DIR, by the hash "
            "of the file.",
        )
    if not category_ids:
        raise DataError(
            f"None of the {len(categories)} names of {run} is in {truth.path}.",
            hint="Names match by name or synonym: relabel the run with the truth's own names.",
        )


def _refuse_other_sizes(
    records: Sequence[ImageRecord], truth: Truth, image_ids: Mapping[int, int]
) -> None:
    sizes = {image.id: (image.width, image.height) for image in truth.annotations.images}
    for record in records:
        there = sizes.get(image_ids.get(record.image_id, -1))
        here = (record.width, record.height)
        if record.status == OK and there is not None and here != there:
            raise DataError(
                f"{record.path} is {here[0]} x {here[1]} pixels in the run, and {there[0]} x "
                f"{there[1]} in {truth.path}.",
                hint="Label the very images that were annotated, not scaled or turned copies.",
            )


def _notes(
    view: RunView,
    records: Sequence[ImageRecord],
    truth: Truth,
    image_ids: Mapping[int, int],
    category_ids: Mapping[int, int],
) -> Iterator[str]:
    if not view.is_complete:
        yield f"{view.run} is not complete: {view.progress_text}."
    if foreign := len(records) - len(image_ids):
        yield f"{foreign} of {len(records)} images of the run have no truth and are left out."
    wanted = len(truth.annotations.images)
    if missing := wanted - len(image_ids):
        yield f"{missing} of {wanted} images of the truth are not in the run and are left out."
    failed = sum(r.status != OK for r in records if r.image_id in image_ids)
    if failed:
        yield f"{failed} failed images count as images without labels."
    names = view.vocabulary.categories
    if unknown := [c.name for c in names if c.id not in category_ids]:
        yield (
            f"{len(unknown)} of {len(names)} names of the run are not in the truth; their labels "
            f"are left out: {listed(unknown)}."
        )
    own = truth.annotations.categories
    asked = set(category_ids.values())
    if unasked := [c.name for c in own if c.id not in asked]:
        yield (
            f"{len(unasked)} of {len(own)} categories of the truth were not looked for by the run "
            f"and are left out: {listed(unasked)}."
        )


def _policy(run: Path, settings: Mapping[str, Any], conf: float | None) -> Iterator[str]:
    """In what the run's labels differ from the publication's detections."""
    floor = settings.get("floor", 0) if conf is None else conf
    most = settings.get("max_det", "any number of")
    parts = ["one name a region", f"scores from {floor:g} on", f"at most {most} labels an image"]
    if (nms := settings.get("nms", "none")) != "none":
        parts.append(f"{nms} suppression")
    if settings.get("context", "none") != "none":
        parts.append("scored in a context")
    yield (
        f"Labels are not the publication's detections ({', '.join(parts)}): this is the average "
        f"precision of {run.name}, not its model's; that is evaluate --model."
    )


def _provenance(header: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the run remembers of its model, else what its settings say of its proposals."""
    known: Mapping[str, Any] = header["arguments"].get("provenance") or {}
    proposals = header["settings"].get("proposals")
    return known or ({"proposals": proposals} if proposals else {})
