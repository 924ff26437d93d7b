"""Which format a file or a folder is of, by its content."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from vildcli.errors import DataError
from vildcli.export.checks.fiftyone import METADATA, SAMPLES
from vildcli.export.checks.yolo import yolo_yaml
from vildcli.export.writing import export_header
from vildcli.labelling.plan import PLAN_FILE

_HEAD = 4096  # bytes
_XML_ROOTS = {"annotations": "cvat", "annotation": "voc"}


def format_of(path: Path) -> str:
    """The name of the format.

    Raises:
        DataError: it cannot be read, or looks like none of them.
    """
    try:
        form = _format_of_folder(path) if path.is_dir() else _format_of_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if form is None:
        raise DataError(
            f"{path} looks like no format that is exported.", hint="Name its format with --to."
        )
    return form


def _format_of_folder(path: Path) -> str | None:
    if (path / PLAN_FILE).is_file():
        raise DataError(
            f"{path} is a labelling run, and no export.", hint="Name a file or folder made of it."
        )
    header = export_header(path)
    if header is not None:
        return str(header["settings"]["to"])
    if yolo_yaml(path) is not None:
        return "yolo"
    if (path / METADATA).is_file() and (path / SAMPLES).is_file():
        return "fiftyone"
    is_voc = (path / "Annotations").is_dir() or next(path.rglob("*.xml"), None) is not None
    return "voc" if is_voc else None


def _format_of_file(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"<"):
        return _XML_ROOTS.get(_root_tag(path) or "")
    if start.startswith(b"["):
        return "coco" if b'"category_id"' in head else "labelstudio"
    if start.startswith(b"{"):
        return _format_of_object(path.read_bytes())
    if yolo_yaml(path) is not None:
        return "yolo"
    return "csv" if b"," in start.partition(b"\n")[0] else None


def _format_of_object(text: bytes) -> str | None:
    if b'"neg_category_ids"' in text:
        return "lvis"
    if b'"images"' in text or b'"annotations"' in text:
        return "coco"
    return "fiftyone" if b'"samples"' in text else None


def _root_tag(path: Path) -> str | None:
    try:
        return next((node.tag for _, node in ElementTree.iterparse(path, events=("start",))), None)
    except ElementTree.ParseError:
        return None
