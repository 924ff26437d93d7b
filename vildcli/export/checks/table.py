"""Checks of labels as CSV or Parquet: one row a label."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vildcli.errors import DataError
from vildcli.export.checks.problem import (
    Problem,
    corners_problem,
    is_number,
    numbers,
    parse_number,
    score_problem,
)
from vildcli.export.checks.reading import UnreadableError

_CORNERS = ("x1", "y1", "x2", "y2")
_PAIRS = (("image_id", "file_name"), ("category_id", "category"))
_BATCH = 4096


def check_csv(path: Path) -> Iterator[Problem]:
    """Columns, numbers, boxes, and one name for each id."""
    csv.field_size_limit(2**31 - 1)  # a mask can be long
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            columns = list(rows.fieldnames or ())
            values = ((f"{path.name}, row {n}", _typed(row)) for n, row in enumerate(rows, start=1))
            yield from _check_rows(path, columns, values)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError(Problem(path.name, f"is no CSV in UTF-8: {error}")) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def check_parquet(path: Path) -> Iterator[Problem]:
    """Columns, numbers, boxes, and one name for each id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        batches = (row for batch in file.iter_batches(_BATCH) for row in batch.to_pylist())
        values = ((f"{path.name}, row {n}", row) for n, row in enumerate(batches, start=1))
        yield from _check_rows(path, file.schema_arrow.names, values)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableError(Problem(path.name, f"is no Parquet: {error}")) from error


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """A CSV's texts as the numbers that they are; an empty one is not there."""
    typed: dict[str, Any] = {}
    for key, text in row.items():
        number = parse_number(text) if isinstance(text, str) else None
        is_name = key in ("file_name", "category", "segmentation")
        typed[key] = (text or None) if number is None or is_name else number
    return typed


def _check_rows(
    path: Path, columns: list[str], rows: Iterator[tuple[str, dict[str, Any]]]
) -> Iterator[Problem]:
    missing = [name for name in _CORNERS if name not in columns]
    missing += [" or ".join(pair) for pair in _PAIRS if not set(pair) & set(columns)]
    if missing:
        yield Problem(path.name, f"has no column {', '.join(missing)}")
        return
    names: dict[tuple[str, Any], Any] = {}
    for where, row in rows:
        yield from (Problem(where, what) for what in _row_problems(row))
        for key, name in _PAIRS:
            if row.get(key) is not None and row.get(name) is not None:
                first = names.setdefault((key, row[key]), row[name])
                if first != row[name]:
                    what = f"calls the {key} {row[key]:g} {row[name]!r}; before it was {first!r}"
                    yield Problem(where, what)


def _row_problems(row: dict[str, Any]) -> Iterator[str]:
    if None in row:
        yield "has more values than there are columns"
    values = [row.get(key) for key in _CORNERS]
    for key, value in zip(_CORNERS, values, strict=True):
        if not is_number(value):
            yield f"has the {key} {value!r}, not a number"
    if (corners := numbers(values)) is not None:
        width, height = (
            row.get(side) if is_number(row.get(side)) else None for side in ("width", "height")
        )
        yield from corners_problem(corners, width, height)
    for pair in _PAIRS:
        if all(row.get(key) is None for key in pair):
            yield f"has no {' or '.join(pair)}"
    for key in ("score", "text_score", "image_score"):
        yield from score_problem(row, key)
    if "segmentation" in row and not _holds_something(row["segmentation"]):
        yield "has an empty segmentation"


def _holds_something(segmentation: Any) -> bool:
    if isinstance(segmentation, str):
        try:
            return bool(json.loads(segmentation))
        except json.JSONDecodeError:
            return False
    return bool(segmentation)
