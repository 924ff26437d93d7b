"""Vocabulary files as plain values: YAML, JSON, CSV and plain text become one kind of mapping.

Only syntax is judged here; what the keys mean is `files.py`'s business.
"""

from __future__ import annotations

import csv
import gc
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from vildcli.errors import VocabularyError

SYNONYM_SEPARATOR = "|"  # between synonyms in one CSV cell
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

# The C reader is ten times faster on LVIS's 1,203 categories.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_document(path: Path) -> dict[str, Any]:
    """Read a vocabulary file into plain values; a bare list becomes `{"categories": [...]}`.

    Raises:
        VocabularyError: unreadable, of an unknown kind, or of broken syntax, with its line.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise VocabularyError(
            f"{path} has the suffix {path.suffix}, which is no kind of vocabulary.",
            hint="Use .yaml, .json, .csv, or .txt with one name a line.",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VocabularyError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is not UTF-8 text.") from error
    document = reader(path, text)
    if isinstance(document, list):
        document = {"categories": document}
    if not isinstance(document, dict):
        raise VocabularyError(
            f"{path} holds no vocabulary.", hint="Only categories with a name are needed."
        )
    return document


def _read_yaml(path: Path, text: str) -> Any:
    try:
        with _without_collector():
            return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        if "\t" in "".join(text.splitlines()[line : line + 1]):
            raise VocabularyError(
                f"{path}, line {line + 1}: there is a tab.",
                hint="YAML is indented with spaces; replace it.",
            ) from error
        raise VocabularyError(f"{path}, line {line + 1}: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise VocabularyError(f"{path} is not YAML: {str(error).splitlines()[0]}.") from error


@contextmanager
def _without_collector() -> Iterator[None]:
    """Parsing makes many small objects and no cycles; looking for some takes most of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _StrictLoader(_SafeLoader):  # type: ignore[misc]
    """Safe, and refuses equal keys: PyYAML keeps the last of them, and half the names would go."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            problem = None
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key must be text"
            elif key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"the key '{key.value}' is there more than once"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_json(path: Path, text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise VocabularyError(
                f"{path}: a key is there more than once among {', '.join(values)}."
            )
        return values

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise VocabularyError(f"{path}, line {error.lineno}: {error.msg}.") from error


def _read_text(path: Path, text: str) -> Any:
    lines = (line.strip() for line in text.splitlines())
    return [{"name": line} for line in lines if line and not line.startswith("#")]


def _read_csv(path: Path, text: str) -> Any:
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise VocabularyError(f"{path} is not CSV: {error}.") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if "name" not in header:
        raise VocabularyError(
            f"{path} has no column 'name'.",
            hint="The first line names the columns, for example: id,name,synonyms",
        )
    return [
        _csv_row(path, line, header, row) for line, row in enumerate(rows[1:], start=2) if any(row)
    ]


def _csv_row(path: Path, line: int, header: list[str], row: list[str]) -> dict[str, Any]:
    if len(row) != len(header):
        raise VocabularyError(
            f"{path}, line {line}: {len(row)} cells under {len(header)} columns.",
            hint='Put a cell that holds a comma in double quotes: "hammer, claw".',
        )
    return {
        key: _csv_value(key, cell.strip())
        for key, cell in zip(header, row, strict=True)
        if cell.strip()
    }


def _csv_value(key: str, cell: str) -> Any:
    """A cell as the type its column has; what does not fit stays text for `files.py` to refuse."""
    convert: Callable[[str], Any] | None = {"id": int, "threshold": float}.get(key)
    if key == "synonyms":
        return _parts(cell.split(SYNONYM_SEPARATOR))
    if key == "base":
        return _TRUTH.get(cell.lower(), cell)
    try:
        return convert(cell) if convert else cell
    except ValueError:
        return cell


def _parts(cells: Iterable[str]) -> list[str]:
    return [cell.strip() for cell in cells if cell.strip()]


_READERS: dict[str, Callable[[Path, str], Any]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".json": _read_json,
    ".csv": _read_csv,
    ".txt": _read_text,
    "": _read_text,
}
