"""A labelling run as one Parquet file: one row a label."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vildcli import __version__
from vildcli.export.geometry import Geometry
from vildcli.export.selection import Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.table import table_rows, table_schema
from vildcli.export.writing import write_file

_ROW_GROUP = 16_384  # rows in memory at a time


def export_parquet(selection: Selection, out: Path, *, geometry: Geometry = "rle") -> ExportSummary:
    """Write the labels with typed columns, replacing what is there.

    With `geometry` polygon or rle, the column `segmentation` holds COCO's. An image without labels
    has no row.

    Raises:
        RunError: `out` cannot be written.
        DataError: a record is damaged, or an image is not under `images_root`.
    """
    counts: Counter[str] = Counter()
    metadata = {"vildcli": __version__, "run": selection.view.fingerprint}
    schema = table_schema(selection, geometry).with_metadata(metadata)

    def write(path: Path) -> None:
        rows = table_rows(selection, geometry, counts)
        with pq.ParquetWriter(path, schema, compression="zstd") as file:
            while group := list(itertools.islice(rows, _ROW_GROUP)):
                file.write_table(pa.Table.from_pylist(group, schema=schema))

    write_file(out, write)
    return selection.summary(out, counts)
