"""What helps to find one's way in a dataset: saved views, duplicates, a selection, likeness."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vildcli.errors import DataError
from vildcli.labelling.duplicates import find_duplicates
from vildcli.labelling.records import read_part
from vildcli.labelling.thresholds import RunView
from vildcli.review.fiftyone_labels import DETECTIONS, FIELD, fields_of

FAILED_TAG = "failed"
LOW_CONFIDENCE = 0.5
MANY_BOXES = 20
SELECTION_FILE = "selection.json"
ASKED_VIEW = "asked-for"
MOST_REGIONS = 50_000  # that FiftyOne's own index can hold: it is in memory, and searched whole
_KEYS = {"images": "image_similarity", "regions": "region_similarity"}


def save_views(dataset: Any) -> None:
    """Save the views that are not there yet; they go on being computed as the dataset changes."""
    from fiftyone import ViewField

    boxes = ViewField(DETECTIONS).length()
    views = {
        "low-confidence": dataset.filter_labels(FIELD, ViewField("confidence") < LOW_CONFIDENCE),
        "many-boxes": dataset.match(boxes >= MANY_BOXES).sort_by(boxes, reverse=True),
        "novel-categories": dataset.filter_labels(FIELD, ~ViewField("is_base")),
        "failures": dataset.match_tags(FAILED_TAG),
        "near-duplicates": dataset.exists("duplicate_group").sort_by("duplicate_group"),
    }
    if len(dataset.exists("selection_rank")):
        views["selected"] = dataset.exists("selection_rank").sort_by("selection_rank")
    for name, view in views.items():
        if not dataset.has_saved_view(name):
            dataset.save_view(name, view)


def save_asked_view(
    name: str, view: RunView, conf: float | None, max_samples: int | None
) -> str | None:
    """Save what was asked for as a view of its own; its name, or None where it is everything.

    What people drew is in it whatever was asked for.
    """
    import fiftyone as fo
    from fiftyone import ViewField

    dataset, fields = fo.load_dataset(name), fields_of(view)
    conditions = [ViewField(fields[kind][0]).is_in(sorted(v)) for kind, v in view.where.items()]
    if conf is not None:
        conditions.append(ViewField("confidence") >= conf)
    asked = dataset if max_samples is None else dataset.limit(max_samples)
    if conditions:
        machine = conditions[0]
        for condition in conditions[1:]:
            machine &= condition
        drawn = ~ViewField("vildcli_label").exists()
        asked = asked.filter_labels(FIELD, machine | drawn, only_matches=bool(view.where))
    if asked is dataset:
        return None
    dataset.save_view(ASKED_VIEW, asked, overwrite=True)
    return ASKED_VIEW


def mark_duplicates(dataset: Any, run: Path) -> None:
    """Number the groups of images that show the same in `duplicate_group`."""
    found = find_duplicates(run)
    groups = {
        image_id: number
        for number, group in enumerate((*found.exact, *found.near), start=1)
        for image_id in group
    }
    _set_numbers(dataset, "duplicate_group", groups)


def mark_selection(dataset: Any, run: Path) -> None:
    """Write the places in the run's selection, from 1, to `selection_rank`.

    Raises:
        DataError: the file is no selection.
    """
    ranks = {id_: place for place, id_ in enumerate(read_selection(run), start=1)}
    _set_numbers(dataset, "selection_rank", ranks)


def read_selection(run: Path) -> tuple[int, ...]:
    """The image ids that `vildcli select` chose, best first; empty where it did not run.

    Raises:
        DataError: the file is no selection.
    """
    path = run / SELECTION_FILE
    if not path.is_file():
        return ()
    try:
        image_ids = json.loads(path.read_text(encoding="utf-8"))["image_ids"]
        if not all(type(id_) is int for id_ in image_ids):
            raise TypeError("an id is not a whole number")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no selection: {error}.", hint="Delete it, or run select again."
        ) from error
    return tuple(image_ids)


def _set_numbers(dataset: Any, field: str, numbers: dict[int, int]) -> None:
    """Let a field hold these numbers, by image id, and no others."""
    image_ids, old = dataset.values(["vildcli_image", field])
    new = [numbers.get(image_id) for image_id in image_ids]
    if new != old:
        dataset.set_values(field, new)


def index_similarity(dataset: Any, view: RunView, *, anew: bool) -> tuple[str, ...]:
    """Let the App sort by likeness, of images and, where the run kept embeddings, of regions.

    FiftyOne's brain does it, which is free but not open: without it there is no such search.

    Args:
        anew: whether the labels have changed since the last time.

    Returns:
        What has an index now: `images`, `regions`.
    """
    if find_spec("fiftyone.brain") is None:
        return ()
    made = []
    rows = {"images": _image_rows, "regions": _region_rows}
    for what, key in _KEYS.items():
        if dataset.has_brain_run(key):
            if not anew:
                made.append(what)
                continue
            dataset.delete_brain_run(key)
        if _make_index(
            dataset, key, FIELD if what == "regions" else None, rows[what](dataset, view)
        ):
            made.append(what)
    return tuple(made)


Rows = tuple[list[str], list[str] | None, NDArray[np.float32]]  # samples, labels, embeddings [N, D]


def _make_index(dataset: Any, key: str, field: str | None, rows: Iterator[Rows]) -> bool:
    """Put rows into a new index; none is made where there are none."""
    import fiftyone.brain as fob

    first = next(rows, None)
    if first is None:
        return False
    logging.getLogger("fiftyone").setLevel(logging.WARNING)
    index = fob.compute_similarity(
        dataset, patches_field=field, embeddings=False, backend="sklearn", brain_key=key
    )
    for samples, labels, embeddings in (first, *rows):
        index.add_to_index(
            embeddings, np.array(samples), label_ids=None if labels is None else np.array(labels)
        )
    index.save()
    return True


def _image_rows(dataset: Any, view: RunView) -> Iterator[Rows]:
    samples = dict(zip(*dataset.values(["vildcli_image", "id"]), strict=True))
    for unit in view.units:
        part = read_part(view.run, "images", unit)
        if "embedding" not in part.column_names:  # of an earlier vildcli
            return
        part = part.filter(pc.field("embedding").is_valid()).combine_chunks()
        if not len(part):
            continue
        ids = part.column("image_id").to_pylist()
        rows = _embeddings(part.column("embedding"))
        kept = [place for place, id_ in enumerate(ids) if id_ in samples]
        if kept:
            yield [samples[ids[place]] for place in kept], None, rows[kept]


def _region_rows(dataset: Any, view: RunView) -> Iterator[Rows]:
    if dataset.count(DETECTIONS) > MOST_REGIONS:
        return
    fields = ["vildcli_image", "id", f"{DETECTIONS}.id", f"{DETECTIONS}.vildcli_label"]
    labels = {
        (image_id, number): (sample, label)
        for image_id, sample, ids, numbers in zip(*dataset.values(fields), strict=True)
        for label, number in zip(ids or (), numbers or (), strict=True)
        if number is not None
    }
    for unit in view.units:
        stored = _stored_embeddings(view.run, unit)
        if stored is None:
            continue
        places, embeddings = stored
        part = read_part(view.run, "labels", unit, ["image_id", "label", "region"])
        rows = [
            (*labels[image_id, label], places[image_id, region])
            for image_id, label, region in zip(*_lists(part), strict=True)
            if (image_id, label) in labels
        ]
        if rows:
            samples, ids, kept = (list(column) for column in zip(*rows, strict=True))
            yield samples, ids, embeddings[kept]


def _stored_embeddings(
    run: Path, unit: int
) -> tuple[dict[tuple[int, int], int], NDArray[np.float32]] | None:
    """Rows of a unit's region embeddings, by image and region; None where none were kept."""
    part = read_part(run, "regions", unit, ["image_id", "region", "image_side", "text_side"])
    for side in ("image_side", "text_side"):
        column = part.column(side)
        if len(part) and not column.null_count:
            numbers = zip(*_lists(part.select(["image_id", "region"])), strict=True)
            return {key: place for place, key in enumerate(numbers)}, _embeddings(column)
    return None


def _embeddings(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """[N, D]; cosines ask for no length, so that those stored as int8 stay as they are."""
    values: NDArray[np.float32] = pc.list_flatten(column).to_numpy().astype(np.float32)
    return values.reshape(len(column), -1)


def _lists(table: pa.Table) -> Sequence[list[Any]]:
    return [column.to_pylist() for column in table.columns]
