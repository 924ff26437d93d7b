"""The records of one image in several labelling runs, as the rows of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vildcli.errors import DataError
from vildcli.labelling.plan import PlannedImage
from vildcli.labelling.records import OK, SCHEMAS, read_part
from vildcli.labelling.run import VOCABULARY_FILE
from vildcli.merging.inputs import RunInput
from vildcli.merging.overlap import Floats, as_boxes, keep_best
from vildcli.merging.summary import OVERLAPS, Counts

_PLAIN = ("image_id", "region", "proposal", "box", "objectness", "mask")  # of regions
_WAITING = 4  # units of a run that are kept in memory


@dataclass(frozen=True, slots=True)
class ImageRows:
    """What one run has of one image: tables in the schemas of `records`."""

    images: pa.Table
    regions: pa.Table
    labels: pa.Table

    @property
    def status(self) -> str:
        return str(self.images.column("status")[0].as_py())


class RunParts:
    """Reads a run image by image, a few units in memory at a time."""

    def __init__(self, run: RunInput, plan: Sequence[PlannedImage], ids: Mapping[int, int]) -> None:
        """Args:
        ids: the result's id for each of the run's categories.
        """
        self.run = run
        self._ids = ids
        self._unit_of = {image.image_id: image.unit for image in plan}
        self._units: dict[int, dict[str, _Sliced]] = {}

    def rows(self, image_id: int) -> ImageRows:
        """What the run has of a finished image, its labels' categories those of the result.

        Raises:
            DataError: a part is damaged, or a label's category is not in the vocabulary.
        """
        unit = self._unit_of[image_id]
        if unit not in self._units:
            while len(self._units) >= _WAITING:
                self._units.pop(next(iter(self._units)))
            path = self.run.path
            self._units[unit] = {t: _Sliced(_whole(read_part(path, t, unit), t)) for t in SCHEMAS}
        tables = self._units[unit]
        labels = self._with_ids(tables["labels"].of(image_id))
        return ImageRows(tables["images"].of(image_id), tables["regions"].of(image_id), labels)

    def _with_ids(self, labels: pa.Table) -> pa.Table:
        own = labels.column("category_id").to_pylist()
        if unknown := [id_ for id_ in own if id_ not in self._ids]:
            raise DataError(
                f"{self.run.path / VOCABULARY_FILE} lacks category {unknown[0]} of the labels.",
                hint="Thresholds may be edited there; categories may not.",
            )
        return _with(labels, category_id=[self._ids[id_] for id_ in own])


def merge_rows(
    image: PlannedImage,
    found: Sequence[tuple[str, ImageRows]],
    *,
    nms_iou: float,
    keep_regions: bool,
    counts: Counts,
) -> ImageRows:
    """One image's rows of the result.

    Args:
        image: of the result's plan.
        found: name of the run, and what it has; at least one.
        nms_iou: overlap above which the better of two runs' labels stays.
        keep_regions: keep all regions with their embeddings, or the labelled ones without.

    Returns:
        Regions by falling objectness, those that are alike in all but their number once; labels by
        falling score.
    """
    regions = _every([rows.regions for _, rows in found])
    labels = _every([rows.labels for _, rows in found])
    starts = np.cumsum([0, *(len(rows.regions) for _, rows in found)])
    rows_of = [
        start + np.searchsorted(_column(rows.regions, "region"), _column(rows.labels, "region"))
        for start, (_, rows) in zip(starts, found, strict=False)
    ]
    region_rows = np.concatenate(rows_of).astype(np.int64)
    owners = np.repeat(np.arange(len(found)), [len(rows.labels) for _, rows in found])
    scores = _column(labels, "score").astype(np.float64)
    kept = keep_best(_label_boxes(labels, regions, region_rows), scores, owners, nms_iou)
    _count(counts, found, owners, kept)
    first = _first_alike(regions) if len(found) > 1 else np.arange(len(regions))
    chosen = np.unique(first if keep_regions else first[region_rows[kept]])
    objectness = _column(regions, "objectness")[chosen]
    chosen = chosen[np.argsort(-objectness, kind="stable")]
    number = np.full(len(regions), -1)
    number[chosen] = np.arange(len(chosen))
    best = np.flatnonzero(kept)
    best = best[np.argsort(-scores[best], kind="stable")]
    return ImageRows(
        _of_plan(next((rows for _, rows in found if rows.status == OK), found[0][1]), image),
        _with(
            regions.take(chosen) if keep_regions else _without_sides(regions.take(chosen)),
            image_id=np.full(len(chosen), image.image_id),
            region=np.arange(len(chosen)),
        ),
        _with(
            labels.take(best),
            image_id=np.full(len(best), image.image_id),
            label=np.arange(len(best)),
            region=number[first[region_rows[best]]],
        ),
    )


class _Sliced:
    """A part whose rows lie together image by image."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        ids = table.column("image_id").to_numpy()
        starts = np.flatnonzero(np.diff(ids, prepend=np.nan))
        ends = np.append(starts, len(ids))[1:]
        self._places = {
            int(ids[start]): (int(start), int(end - start))
            for start, end in zip(starts, ends, strict=True)
        }

    def of(self, image_id: int) -> pa.Table:
        return self._table.slice(*self._places.get(image_id, (0, 0)))


def _whole(table: pa.Table, name: str) -> pa.Table:
    """With all columns of today's schema, null where an older vildcli wrote none."""
    schema = SCHEMAS[name]
    columns = [
        table.column(field.name)
        if field.name in table.schema.names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, names=schema.names).combine_chunks()


def _every(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows; of embeddings that are stored in two ways none."""
    if len({table.schema for table in tables}) > 1:
        tables = [_without_sides(table) for table in tables]
    return pa.concat_tables(tables).combine_chunks()


def _without_sides(regions: pa.Table) -> pa.Table:
    for field in SCHEMAS["regions"]:
        if field.name not in _PLAIN:
            place = regions.schema.get_field_index(field.name)
            regions = regions.set_column(place, field, pa.nulls(len(regions), field.type))
    return regions


def _label_boxes(labels: pa.Table, regions: pa.Table, rows: NDArray[np.int64]) -> Floats:
    """[K, 4]: the label's own box where its name moved it, else its region's."""
    of_regions = _column(regions, "box", flat=True).reshape(-1, 4)[rows].tolist()
    own = labels.column("box").to_pylist()
    return as_boxes([box or other for box, other in zip(own, of_regions, strict=True)])


def _first_alike(regions: pa.Table) -> NDArray[np.int64]:
    """For each region the first one that is the same: box, proposal, objectness and mask."""
    columns = [
        _bytes(_column(regions, "box", flat=True).reshape(-1, 4)),
        _bytes(_column(regions, "proposal", flat=True).reshape(-1, 4)),
        _column(regions, "objectness").tolist(),
        regions.column("mask").to_pylist(),
    ]
    first: dict[Any, int] = {}
    keys = zip(*columns, strict=True)
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], np.int64)


def _bytes(rows: NDArray[Any]) -> list[bytes]:
    return [row.tobytes() for row in rows]


def _column(table: pa.Table, name: str, *, flat: bool = False) -> NDArray[Any]:
    column = table.column(name)
    values: NDArray[Any] = (pc.list_flatten(column) if flat else column).to_numpy()
    return values


def _count(
    counts: Counts,
    found: Sequence[tuple[str, ImageRows]],
    owners: NDArray[np.int64],
    kept: NDArray[np.bool_],
) -> None:
    for place, (name, _) in enumerate(found):
        own = owners == place
        counts.given[name] += int(own.sum())
        counts.kept[name] += int((own & kept).sum())
    counts.left_out[OVERLAPS] += int((~kept).sum())


def _of_plan(rows: ImageRows, image: PlannedImage) -> pa.Table:
    return _with(rows.images, image_id=[image.image_id], source=[image.source], path=[image.path])


def _with(table: pa.Table, **columns: Any) -> pa.Table:
    for name, values in columns.items():
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(place, field, pa.array(values, field.type))
    return table
