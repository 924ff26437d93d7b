"""Checks of Label Studio tasks: regions of predictions and annotations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vildcli.export.brush import brush_size
from vildcli.export.checks.problem import (
    Problem,
    Unique,
    corners_problem,
    is_whole,
    numbers,
    points_of,
    polygon_problem,
    score_problem,
)
from vildcli.export.checks.reading import read_json

_PERCENT = 100
_REGIONS = ("rectanglelabels", "polygonlabels", "brushlabels")


def check_labelstudio(path: Path) -> Iterator[Problem]:
    """What Label Studio shows nothing of, or shows elsewhere."""
    content = read_json(path)
    if not isinstance(content, list):
        yield Problem(path.name, "is no list of tasks")
        return
    for number, task in enumerate(content):
        where = f"task {number}"
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not data:
            yield Problem(where, "has no data")
            continue
        if not any(isinstance(value, str) and value for value in data.values()):
            yield Problem(where, "has no image in its data")
        for kind in ("predictions", "annotations"):
            yield from _check_sets(task.get(kind) or [], f"{where}, {kind}")


def _check_sets(sets: Any, where: str) -> Iterator[Problem]:
    if not isinstance(sets, list):
        yield Problem(where, "is no list")
        return
    for number, one in enumerate(sets):
        place = f"{where}[{number}]"
        result = one.get("result") if isinstance(one, dict) else None
        if not isinstance(result, list):
            yield Problem(place, "has no list of results")
            continue
        yield from (Problem(place, what) for what in score_problem(one))
        ids = Unique()
        for index, region in enumerate(result):
            inner = f"{place}.result[{index}]"
            if not isinstance(region, dict):
                yield Problem(inner, "is no object")
                continue
            yield from (Problem(inner, what) for what in _region_problems(region, inner, ids))


def _region_problems(region: dict[str, Any], where: str, ids: Unique) -> Iterator[str]:
    for key in ("from_name", "to_name", "type"):
        if not region.get(key):
            yield f"has no {key}"
    kind, value = region.get("type"), region.get("value")
    if not isinstance(value, dict):
        yield "has no value"
        return
    yield from score_problem(region)
    if kind not in _REGIONS:
        return  # choices, numbers and others, which may hang on a region by its id
    yield from ids.problem(region.get("id"), "id", where)
    labels = value.get(kind)
    if not isinstance(labels, list) or not all(isinstance(x, str) and x for x in labels or [0]):
        yield f"has no {kind} in its value"
    width, height = region.get("original_width"), region.get("original_height")
    if is_whole(width) and is_whole(height) and width > 0 and height > 0:
        yield from _SHAPES[kind](value, width, height)
    else:
        yield "has no original_width and original_height"


def _rectangle_problems(value: dict[str, Any], width: int, height: int) -> Iterator[str]:
    sides = numbers([value.get(key) for key in ("x", "y", "width", "height")])
    if sides is None:
        yield "has no x, y, width and height in its value"
    elif not value.get("rotation"):
        x, y, w, h = sides
        corners = _pixels([x, y, x + w, y + h], width, height)
        yield from corners_problem(corners, width, height)


def _polygon_problems(value: dict[str, Any], width: int, height: int) -> Iterator[str]:
    points = points_of(value.get("points"), width=2)
    if points is None:
        yield "has no points in its value"
    else:
        yield from polygon_problem(points * (width, height) / _PERCENT, width, height)


def _brush_problems(value: dict[str, Any], width: int, height: int) -> Iterator[str]:
    try:
        rle = bytes(value["rle"]) if isinstance(value.get("rle"), list) else b""
    except (TypeError, ValueError):
        rle = b""
    if not rle:
        yield "has no rle of bytes in its value"
        return
    size, is_empty = brush_size(rle)
    if size != width * height * 4:
        yield f"has a brush of {size} bytes, not 4 x {width} x {height}"
    elif is_empty:
        yield "has an empty brush"


def _pixels(percents: list[float], width: int, height: int) -> list[float]:
    return [p * side / _PERCENT for p, side in zip(percents, (width, height) * 2, strict=True)]


_SHAPES = {
    "rectanglelabels": _rectangle_problems,
    "polygonlabels": _polygon_problems,
    "brushlabels": _brush_problems,
}
