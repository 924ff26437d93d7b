"""A labelling run as CSV: one line a label."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from vildcli.export.geometry import Geometry
from vildcli.export.selection import Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.table import table_rows, table_schema
from vildcli.export.writing import write_file


def export_csv(selection: Selection, out: Path, *, geometry: Geometry = "box") -> ExportSummary:
    """Write the labels as UTF-8 with commas, a header line first, replacing what is there.

    A value that is not there is empty. With `geometry` polygon or rle, the column `segmentation`
    holds COCO's as JSON. An image without labels has no line.

    Raises:
        RunError: `out` cannot be written.
        DataError: a record is damaged, or an image is not under `images_root`.
    """
    counts: Counter[str] = Counter()

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            names = table_schema(selection, geometry).names
            rows = csv.DictWriter(file, names, lineterminator="\n")
            rows.writeheader()
            for row in table_rows(selection, geometry, counts):
                rows.writerow({name: _text(value) for name, value in row.items()})

    write_file(out, write)
    return selection.summary(out, counts)


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (bool, list, dict)) else value
