"""The records of a labelling run: schemas, parts, and reading them back as plain values. No torch.

    plan.parquet           the sorted image list, each row with its unit
    vocabulary.yaml        the names that category ids stand for
    regions/000007.parquet one row a region   ┐ one part a unit, renamed into place when whole;
    labels/000007.parquet  one row a label    │ images/ last: its file is the unit's commit mark
    images/000007.parquet  one row an image   ┘
    regions/head.safetensors   what scoring kept regions needs besides the words

Columns, units and ranges: docs/records.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vildcli.errors import DataError, RunError
from vildcli.runs import write_atomically

RECORD_FORMAT = 1
HEAD_FILE = "regions/head.safetensors"  # written and read by head.py, which imports torch
MASK_SIDE = 28
OK, FAILED = "ok", "failed"

_BOX = pa.list_(pa.float32(), 4)
_EMBEDDING = pa.list_(pa.float16())
SCHEMAS: dict[str, pa.Schema] = {
    "images": pa.schema(
        [
            ("image_id", pa.int64()),
            ("source", pa.string()),
            ("path", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sha256", pa.string()),
            ("bytes", pa.int64()),
            ("mtime_ns", pa.int64()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("embedding", _EMBEDDING),
        ]
    ),
    "regions": pa.schema(
        [
            ("image_id", pa.int64()),
            ("region", pa.int32()),
            ("proposal", _BOX),
            ("box", _BOX),
            ("objectness", pa.float32()),
            ("mask", pa.binary(MASK_SIDE * MASK_SIDE)),
            ("text_side", _EMBEDDING),
            ("image_side", _EMBEDDING),
            ("box_code", _BOX),
        ]
    ),
    "labels": pa.schema(
        [
            ("image_id", pa.int64()),
            ("label", pa.int32()),
            ("region", pa.int32()),
            ("category_id", pa.int64()),
            ("is_base", pa.bool_()),
            ("score", pa.float32()),
            ("text_score", pa.float32()),
            ("image_score", pa.float32()),
            (
                "attributes",
                pa.list_(
                    pa.struct(
                        [
                            ("set", pa.string()),
                            ("name", pa.string()),
                            ("score", pa.float32()),
                            ("joint", pa.float32()),
                        ]
                    )
                ),
            ),
            ("box", _BOX),
        ]
    ),
}
_LABELLED_REGION = (
    "image_id",
    "region",
    "box",
    "objectness",
    "mask",
)  # no embeddings: they are large


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of the plan, as found. `width` and `height` are of the upright image, pixels."""

    image_id: int
    source: str
    path: str
    width: int
    height: int
    sha256: str
    bytes: int
    mtime_ns: int
    status: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class AttributeScore:
    """The best value of one attribute set. `joint` is the label's score times this one, 0-1."""

    set: str
    name: str
    score: float
    joint: float


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """One label with the region it points to.

    `box` is x1 y1 x2 y2 in pixels of the upright original image; `mask` is [28, 28] uint8,
    probability x 255 relative to `mask_box`, which is `box` unless the name moved that (EZSD);
    scores are in 0-1.
    """

    label: int
    region: int
    category_id: int
    is_base: bool
    score: float
    text_score: float | None
    image_score: float | None
    attributes: tuple[AttributeScore, ...]
    box: tuple[float, float, float, float]
    objectness: float
    mask: NDArray[np.uint8]
    mask_box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    image: ImageRecord
    labels: tuple[LabelRecord, ...]


_IMAGE_COLUMNS = tuple(field.name for field in fields(ImageRecord))  # later ones are left alone


def region_schema(embeddings: str) -> pa.Schema:
    """The schema of a unit's regions: embeddings as `float16`, or as `int8`."""
    schema = SCHEMAS["regions"]
    if embeddings == "float16":
        return schema
    small = pa.list_(pa.int8())
    return pa.schema([f.with_type(small) if f.type == _EMBEDDING else f for f in schema])


def part_path(run: Path, table: str, unit: int) -> Path:
    return run / table / f"{unit:06d}.parquet"


def write_part(run: Path, table: str, unit: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one part whole: beside its place, then renamed."""
    write_table(part_path(run, table, unit), SCHEMAS[table], rows)


def write_table(
    path: Path,
    schema: pa.Schema,
    rows: Sequence[Mapping[str, Any]],
    *,
    keep_other: bool = False,
) -> None:
    """Write rows as Parquet that carries the record format.

    Args:
        keep_other: leave a file that is there already as it is.
    """
    _write(path, pa.Table.from_pylist(list(rows), schema=schema), keep_other=keep_other)


def write_batches(
    run: Path, unit: int, schema: pa.Schema, batches: Sequence[pa.RecordBatch]
) -> None:
    """Write the regions of a unit, one record batch an image."""
    _write(part_path(run, "regions", unit), pa.Table.from_batches(batches, schema))


def write_part_table(run: Path, table: str, unit: int, content: pa.Table) -> None:
    """Write one part whole, of rows that were read from other parts."""
    _write(part_path(run, table, unit), content)


def _write(path: Path, content: pa.Table, *, keep_other: bool = False) -> None:
    stamped = content.replace_schema_metadata({"format": str(RECORD_FORMAT)})
    write_atomically(
        path,
        lambda beside: _write_parquet(stamped, beside),
        keep_other=keep_other,
    )


def _write_parquet(content: pa.Table, path: Path) -> None:
    try:
        pq.write_table(content, path, compression="zstd", use_dictionary=_repeating(content.schema))
    except OSError as error:  # Arrow's text is about itself: what the system says is kept alone
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno)) from error


def _repeating(schema: pa.Schema) -> bool | list[str]:
    """The leaf columns that a dictionary may shorten, or all.

    No number of a region's float16 embedding comes twice as a rule, and without a dictionary they
    are read in a quarter of the time.
    """
    if "text_side" not in schema.names:
        return True
    return [
        f"{f.name}.list.element" if f.type.num_fields else f.name
        for f in schema
        if f.type != _EMBEDDING
    ]


def read_part(run: Path, table: str, unit: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One part of a run, or some of its columns; raises as `read_table` does."""
    return read_table(part_path(run, table, unit), columns)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file of records.

    Raises:
        DataError: missing or damaged.
        RunError: of a newer format.
    """
    try:
        file = pq.ParquetFile(path)
        _refuse_newer(path, file.schema_arrow.metadata)
        return file.read(columns=columns)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.", hint="Run the same detect command again.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is damaged: {error}.", hint="Delete it and run the same detect command again."
        ) from error


def _refuse_newer(path: Path, metadata: Mapping[bytes, bytes] | None) -> None:
    written = int((metadata or {}).get(b"format", b"0"))
    if written > RECORD_FORMAT:
        raise RunError(
            f"{path} has format {written}; this vildcli reads up to {RECORD_FORMAT}.",
            hint="Update vildcli.",
        )


def done_units(run: Path) -> list[int]:
    """Units whose commit mark is there, ascending."""
    return sorted(int(path.stem) for path in (run / "images").glob("[0-9]*.parquet"))


def is_done(run: Path, unit: int) -> bool:
    """Whether a unit needs no work: its commit mark is there, and so is what it vouches for."""
    return all(part_path(run, table, unit).exists() for table in SCHEMAS)


def iter_images(run: Path, units: Sequence[int] | None = None) -> Iterator[ImageRecord]:
    """Every image of the finished (or given) units in plan order, one unit in memory at a time."""
    for unit in done_units(run) if units is None else units:
        for row in read_part(run, "images", unit, _IMAGE_COLUMNS).to_pylist():
            yield ImageRecord(**row)


def iter_labelled_images(run: Path, units: Sequence[int] | None = None) -> Iterator[LabelledImage]:
    """Every image of the finished (or given) units with its labels, best first, unit by unit.

    A reader that goes through a run twice while it grows gives the units it started with.
    """
    for unit in done_units(run) if units is None else units:
        regions = _regions_by_key(read_part(run, "regions", unit, _LABELLED_REGION))
        labels: dict[int, list[LabelRecord]] = {}
        for row in read_part(run, "labels", unit).to_pylist():
            image_id = row.pop("image_id")
            attributes = tuple(AttributeScore(**a) for a in row.pop("attributes") or ())
            region, moved = regions[image_id, row["region"]], row.pop("box", None)
            if moved is not None:
                region = {**region, "box": tuple(moved)}
            labels.setdefault(image_id, []).append(
                LabelRecord(**row, attributes=attributes, **region)
            )
        for row in read_part(run, "images", unit, _IMAGE_COLUMNS).to_pylist():
            yield LabelledImage(ImageRecord(**row), tuple(labels.get(row["image_id"], ())))


def _regions_by_key(table: pa.Table) -> dict[tuple[int, int], dict[str, Any]]:
    return {
        (row["image_id"], row["region"]): {
            "box": tuple(row["box"]),
            "objectness": row["objectness"],
            "mask": np.frombuffer(row["mask"], np.uint8).reshape(MASK_SIDE, MASK_SIDE),
            "mask_box": tuple(row["box"]),
        }
        for row in table.to_pylist()
    }
