"""Checks of annotation files, whoever made them: what is wrong in them, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vildcli.export.checks.coco import check_coco, check_lvis
from vildcli.export.checks.cvat import check_cvat
from vildcli.export.checks.detection import format_of
from vildcli.export.checks.fiftyone import check_fiftyone
from vildcli.export.checks.labelstudio import check_labelstudio
from vildcli.export.checks.problem import Problem
from vildcli.export.checks.reading import UnreadableError
from vildcli.export.checks.table import check_csv, check_parquet
from vildcli.export.checks.voc import check_voc
from vildcli.export.checks.yolo import check_yolo
from vildcli.export.writing import export_header

CHECKS: dict[str, Callable[[Path], Iterator[Problem]]] = {
    "coco": check_coco,
    "lvis": check_lvis,
    "yolo": check_yolo,
    "voc": check_voc,
    "labelstudio": check_labelstudio,
    "cvat": check_cvat,
    "csv": check_csv,
    "parquet": check_parquet,
    "fiftyone": check_fiftyone,
}


def check_export(path: str | Path, form: str | None = None) -> tuple[str, list[Problem]]:
    """Check a file or folder of any format that is exported.

    Args:
        form: its format; by default what its content looks like.

    Returns:
        The format, and what is wrong, in the order of the file.

    Raises:
        DataError: it cannot be read, or is of no known format.
    """
    path = Path(path)
    found = form or format_of(path)
    problems = [*_half_export(path)]
    try:
        problems.extend(CHECKS[found](path))
    except UnreadableError as error:
        problems.append(error.problem)
    return found, problems


def _half_export(path: Path) -> Iterator[Problem]:
    header = export_header(path) if path.is_dir() else None
    if header is not None and not header["arguments"].get("whole", True):
        yield Problem("run.json", "says that the export was ended before all was written")
