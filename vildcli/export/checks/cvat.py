"""Checks of CVAT's XML for images."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from vildcli.export.checks.problem import (
    Problem,
    Unique,
    corners_problem,
    parse_number,
    points_of,
    polygon_problem,
)
from vildcli.export.checks.reading import reading_xml

_SHAPES = ("box", "polygon", "mask")
_SIDES = ("xtl", "ytl", "xbr", "ybr")
_PLACES = ("left", "top", "width", "height")


def check_cvat(path: Path) -> Iterator[Problem]:
    """What CVAT refuses, or drops without a word; read image by image."""
    ids, names = Unique(), Unique()
    declared: dict[str, set[str]] | None = None
    with reading_xml(path):
        for number, (_, node) in enumerate(_elements(path)):
            if node.tag == "meta":
                declared = _declared(node)
            elif node.tag == "image":
                where = f"image {node.get('id', number)} ({node.get('name', '')})"
                yield from _check_image(node, where, ids, names, declared or {})
                node.clear()
    if declared is None:
        yield Problem("meta", "is missing: no label is declared")


def _elements(path: Path) -> Iterator[tuple[str, ElementTree.Element]]:
    return ElementTree.iterparse(path, events=("end",))


def _declared(meta: ElementTree.Element) -> dict[str, set[str]]:
    """The attributes of each label."""
    return {
        label.findtext("name") or "": {a.findtext("name") or "" for a in label.iter("attribute")}
        for label in meta.iter("label")
    }


def _check_image(
    node: ElementTree.Element,
    where: str,
    ids: Unique,
    names: Unique,
    declared: dict[str, set[str]],
) -> Iterator[Problem]:
    problems = []
    for key, seen in (("id", ids), ("name", names)):
        if not node.get(key):
            problems.append(f"has no {key}")
        else:
            problems += seen.problem(node.get(key), key, where)
    size = parse_number(node.get("width")), parse_number(node.get("height"))
    for side, pixels in zip(("width", "height"), size, strict=True):
        if (pixels or 0) <= 0:
            problems.append(f"has the {side} {node.get(side)!r}, not a number of pixels")
    yield from (Problem(where, what) for what in problems)
    for number, shape in enumerate((s for s in node if s.tag in _SHAPES), start=1):
        place = f"{where}, {shape.tag} {number}"
        yield from (Problem(place, what) for what in _label_problems(shape, declared))
        yield from (Problem(place, what) for what in _CHECKS[shape.tag](shape, *size))


def _label_problems(shape: ElementTree.Element, declared: dict[str, set[str]]) -> Iterator[str]:
    label = shape.get("label")
    if label not in declared:
        yield f"has the label {label!r}, which the meta does not declare"
        return
    for attribute in shape.iter("attribute"):
        if attribute.get("name") not in declared[label]:
            yield f"has the attribute {attribute.get('name')!r}, which its label does not declare"


def _box_problems(
    shape: ElementTree.Element, width: float | None, height: float | None
) -> Iterator[str]:
    corners = [parse_number(shape.get(side)) for side in _SIDES]
    values = [value for value in corners if value is not None]
    if len(values) < len(_SIDES):
        side = _SIDES[corners.index(None)]
        yield f"has the {side} {shape.get(side)!r}, not a number"
    else:
        yield from corners_problem(values, width, height)


def _polygon_problems(
    shape: ElementTree.Element, width: float | None, height: float | None
) -> Iterator[str]:
    pairs = [point.split(",") for point in (shape.get("points") or "").split(";")]
    points = points_of([[parse_number(text) for text in pair] for pair in pairs], width=2)
    if points is None:
        yield "has points that are not x,y;x,y"
    else:
        yield from polygon_problem(points, width, height)


def _mask_problems(
    shape: ElementTree.Element, width: float | None, height: float | None
) -> Iterator[str]:
    texts = [shape.get(key) or "" for key in _PLACES]
    runs = [text.strip() for text in (shape.get("rle") or "").split(",")]
    if not all(text.isdecimal() and text.isascii() for text in (*texts, *runs)):
        yield "has a mask that is no list of run lengths with its left, top, width and height"
        return
    left, top, own_width, own_height = map(int, texts)
    lengths = [int(run) for run in runs]
    if sum(lengths) != own_width * own_height:
        yield f"has a mask whose runs add up to {sum(lengths)}, not {own_width * own_height}"
    elif not any(lengths[1::2]):
        yield "has an empty mask"
    else:
        corners = left, top, left + own_width, top + own_height
        yield from (w.replace("box", "mask") for w in corners_problem(corners, width, height))


_CHECKS = {"box": _box_problems, "polygon": _polygon_problems, "mask": _mask_problems}
