"""Checks of a YOLO data set: `data.yaml` and its label files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vildcli.export.checks.problem import Problem, parse_number, polygon_problem
from vildcli.export.checks.reading import UnreadableError, read_text

_YAMLS = ("data.yaml", "dataset.yaml")
_BOX, _BOX_AND_CONFIDENCE, _SMALLEST_POLYGON = 5, 6, 7  # columns
_TOLERANCE = 1e-3  # of an image's side that a box may reach beyond it


def yolo_yaml(path: Path) -> Path | None:
    """The YAML that a path names, or that a folder has."""
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    return next((path / name for name in _YAMLS if (path / name).is_file()), None)


def check_yolo(path: Path) -> Iterator[Problem]:
    """What Ultralytics and other readers refuse, drop or misread."""
    file = yolo_yaml(path)
    if file is None:
        yield Problem(path.name, f"has no {_YAMLS[0]}")
        return
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        yield Problem(file.name, f"is no YAML: {' '.join(str(error).split())}")
        return
    if not isinstance(content, dict):
        yield Problem(file.name, "is no mapping")
        return
    yield from (Problem(file.name, what) for what in _yaml_problems(content))
    yield from _check_files(file.parent, _number_of_names(content))


def _yaml_problems(content: dict[Any, Any]) -> Iterator[str]:
    yield from (
        f"has no {part}, which Ultralytics needs"
        for part in ("train", "val")
        if part not in content
    )
    names = content.get("names")
    if isinstance(names, dict) and list(names) != list(range(len(names))):
        yield "has names that do not count from 0 on"
    elif not isinstance(names, (dict, list)) or not names:
        yield "has no names"
    number = _number_of_names(content)
    if "nc" in content and content["nc"] != number:
        yield f"has nc {content['nc']!r} for {number} names"
    ids = content.get("vildcli_ids")
    if ids is not None and (not isinstance(ids, list) or len(ids) != number):
        yield f"has vildcli_ids that are not {number}"


def _number_of_names(content: dict[Any, Any]) -> int:
    names = content.get("names")
    return len(names) if isinstance(names, (dict, list)) else 0


def _check_files(folder: Path, names: int) -> Iterator[Problem]:
    labels, images = folder / "labels", folder / "images"
    if not labels.is_dir():
        yield Problem("labels", "is no folder")
        return
    stems = _stems(images) if images.is_dir() else None
    for path in _files(labels):
        place = path.relative_to(folder).as_posix()
        if path.suffix != ".txt":
            continue
        if stems is not None and path.relative_to(labels).with_suffix("").as_posix() not in stems:
            yield Problem(place, "has no image")
        yield from _check_labels(path, place, names)


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (Path(root, name) for name in sorted(files))


def _stems(images: Path) -> set[str]:
    return {path.relative_to(images).with_suffix("").as_posix() for path in _files(images)}


def _check_labels(path: Path, place: str, names: int) -> Iterator[Problem]:
    try:
        lines = read_text(path).splitlines()
    except UnreadableError as error:
        where = place + error.problem.where.removeprefix(path.name)
        yield Problem(where, error.problem.what)
        return
    columns = set()
    for number, line in enumerate(lines, start=1):
        if fields := line.split():
            columns.add(len(fields) >= _SMALLEST_POLYGON)
            yield from (
                Problem(f"{place}:{number}", what) for what in _line_problems(fields, names)
            )
    if len(columns) > 1:
        yield Problem(place, "has boxes and polygons, which Ultralytics takes for polygons all")


def _line_problems(fields: list[str], names: int) -> Iterator[str]:
    if not fields[0].isascii() or not fields[0].isdecimal() or int(fields[0]) >= names:
        yield f"has the class {fields[0]!r} of {names} from 0 on"
    numbers = [parse_number(text) for text in fields[1:]]
    values = [value for value in numbers if value is not None]
    if len(values) < len(numbers):
        yield f"has {fields[1 + numbers.index(None)]!r}, not a number"
    elif len(fields) not in (_BOX, _BOX_AND_CONFIDENCE) and (
        len(fields) < _SMALLEST_POLYGON or len(fields) % 2 == 0
    ):
        yield f"has {len(fields)} columns: neither a box nor a polygon"
    elif not all(0 <= value <= 1 for value in values):
        wrong = next(value for value in values if not 0 <= value <= 1)
        yield f"has {wrong:g}, not a share in 0 to 1"
    elif len(fields) < _SMALLEST_POLYGON:
        yield from _box_problems(values[:4])
    else:
        yield from polygon_problem(np.reshape(values, (-1, 2)), None, None)


def _box_problems(values: list[float]) -> Iterator[str]:
    x, y, width, height = values
    if width == 0 or height == 0:
        yield "has a box without area"
    elif any(
        place - side / 2 < -_TOLERANCE or place + side / 2 > 1 + _TOLERANCE
        for place, side in ((x, width), (y, height))
    ):
        yield "has a box that leaves its image"
