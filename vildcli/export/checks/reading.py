"""Reading a file that may hold anything."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vildcli.errors import DataError
from vildcli.export.checks.problem import Problem


class UnreadableError(Exception):
    """The file is not of its format at all; `problem` says where it ends to be."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(Problem(path.name, f"is not UTF-8 at byte {error.start}")) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"{path.name}, line {error.lineno} column {error.colno}"
        raise UnreadableError(Problem(where, f"is no JSON: {error.msg}")) from error
    except (ValueError, RecursionError) as error:  # a number or a nesting without end
        raise UnreadableError(Problem(path.name, f"is no JSON to read: {error}")) from error


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file; nothing from outside is loaded."""
    with reading_xml(path):
        return ElementTree.parse(path).getroot()


@contextmanager
def reading_xml(path: Path) -> Iterator[None]:
    """Say of an XML file where it ends to be one, or why it cannot be read."""
    try:
        yield
    except ElementTree.ParseError as error:
        line, column = error.position
        where = f"{path.name}, line {line} column {column + 1}"
        raise UnreadableError(Problem(where, f"is no XML: {error}")) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
