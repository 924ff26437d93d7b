"""What a check finds, and the questions that all formats share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

_LARGEST = 2**63
_TOLERANCE = 1.0  # pixels that a box may reach beyond its image: others round


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: such as `annotations[3] (id 17)` or `labels/a.txt:2`.
        what: a sentence about it without the first word, such as `has no bbox`.
    """

    where: str
    what: str


def is_whole(value: Any) -> TypeGuard[int]:
    """An integer that every reader can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST


def is_number(value: Any) -> TypeGuard[float]:
    """Finite, and of a size that means something."""
    return (isinstance(value, float) and abs(value) < _LARGEST) or is_whole(value)


def numbers(values: Any, count: int | None = None) -> list[float] | None:
    """The values where they are a list of finite numbers, of so many, else None."""
    if not isinstance(values, (list, tuple)) or not all(map(is_number, values)):
        return None
    return list(values) if count in (None, len(values)) else None


def parse_number(text: str | None) -> float | None:
    """The finite number that a text says, else None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def score_problem(row: Mapping[str, Any], key: str = "score") -> Iterator[str]:
    """A score may be missing; one that is there is in 0-1."""
    value = row.get(key)
    if value is not None and not (is_number(value) and 0 <= value <= 1):
        yield f"has the {key} {value!r}, not 0 to 1"


def corners_problem(
    corners: Sequence[float], width: float | None, height: float | None
) -> Iterator[str]:
    """Of x1 y1 x2 y2 in pixels: no area, or outside the image where its size is known."""
    x1, y1, x2, y2 = corners
    if x2 <= x1 or y2 <= y1:
        yield f"has a box without area ({_shown(corners)})"
    elif width is not None and height is not None:
        least, most = min(x1, y1), max(x2 - width, y2 - height)
        if least < -_TOLERANCE or most > _TOLERANCE:
            yield f"has a box ({_shown(corners)}) that leaves its image of {width:g} x {height:g}"


def points_of(values: Any, width: int | None = None) -> NDArray[np.float64] | None:
    """A list of x y x y …, or of lists of `width`, as points [n, 2]; None where it is neither."""
    if not isinstance(values, list):
        return None
    try:
        points = np.asarray(values)
    except ValueError:  # lists of different lengths
        return None
    if points.dtype.kind not in "iuf" or points.shape[1:] != (() if width is None else (width,)):
        return None
    if points.size % 2 or not np.isfinite(points).all():
        return None
    return points.reshape(-1, 2).astype(np.float64)


def polygon_problem(
    points: NDArray[np.float64], width: float | None, height: float | None
) -> Iterator[str]:
    """Of points [n, 2] in pixels: no area, or outside the image where its size is known."""
    if len(points) < 3 or _area(points) == 0:
        yield "has a polygon without area"
    elif width is not None and height is not None:
        corners = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        found = corners_problem(corners, width, height)
        yield from (what.replace("box", "polygon") for what in found)


def _area(points: NDArray[np.float64]) -> float:
    """Twice the area within the points, its sign that of their direction."""
    x, y = (points - points[0]).T
    return float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))


class Unique:
    """Says where a value was first that should be there once."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def problem(self, value: Any, what: str, where: str) -> Iterator[str]:
        first = self._first.setdefault(repr(value), where)
        if first != where:
            yield f"has the {what} {value!r}, as {first} has"


def _shown(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
