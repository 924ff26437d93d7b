"""Checks of PASCAL VOC: a folder of its kit, or one XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from vildcli.export.checks.problem import Problem, Unique, parse_number
from vildcli.export.checks.reading import UnreadableError, read_text, read_xml

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def check_voc(path: Path) -> Iterator[Problem]:
    """What VOC's own rules and readers of it trip over."""
    if path.is_file():
        yield from _check_file(path, path.name, Unique(), None)
        return
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    images = path / "JPEGImages"
    names, stems = Unique(), set()
    for file in sorted(folder.rglob("*.xml")):
        stems.add(file.relative_to(folder).with_suffix("").as_posix())
        place = file.relative_to(path).as_posix()
        yield from _check_file(file, place, names, images if images.is_dir() else None)
    if not stems and folder == path:
        yield Problem(folder.name, "holds no annotation")
    for file in sorted((path / "ImageSets" / "Main").glob("*.txt")):
        yield from _check_list(file, file.relative_to(path).as_posix(), stems)


def _check_list(path: Path, place: str, stems: set[str]) -> Iterator[Problem]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        # Lists of one category say 1, 0 or -1 behind the name.
        if line.strip() and not {line.strip(), line.split()[0]} & stems:
            yield Problem(f"{place}:{number}", f"names {line.strip()!r}, which has no annotation")


def _check_file(path: Path, place: str, names: Unique, images: Path | None) -> Iterator[Problem]:
    try:
        root = read_xml(path)
    except UnreadableError as error:
        where = place + error.problem.where.removeprefix(path.name)
        yield Problem(where, error.problem.what)
        return
    if root.tag != "annotation":
        yield Problem(place, f"holds <{root.tag}>, not <annotation>")
        return
    yield from (Problem(place, what) for what in _image_problems(root, place, names, images))
    width, height = (parse_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    for number, node in enumerate(root.iter("object"), start=1):
        where = f"{place}, object {number}"
        yield from (Problem(where, what) for what in _object_problems(node, width, height))


def _image_problems(
    root: ElementTree.Element, place: str, names: Unique, images: Path | None
) -> Iterator[str]:
    name = (root.findtext("filename") or "").strip()
    if not name:
        yield "has no filename"
    else:
        yield from names.problem(name, "filename", place)
        if images is not None and not (images / name).exists():
            yield f"has no image JPEGImages/{name}"
    for side in ("width", "height"):
        text = root.findtext(f"size/{side}")
        if (parse_number(text) or 0) <= 0:
            yield f"has the {side} {text!r}, not a number of pixels"


def _object_problems(
    node: ElementTree.Element, width: float | None, height: float | None
) -> Iterator[str]:
    if not (node.findtext("name") or "").strip():
        yield "has no name"
    if (node.findtext("difficult") or "0").strip() not in ("0", "1"):
        yield f"has the difficult {node.findtext('difficult')!r}, not 0 or 1"
    texts = [node.findtext(f"bndbox/{side}") for side in _SIDES]
    for side, text in zip(_SIDES, texts, strict=True):
        if parse_number(text) is None:
            yield f"has the {side} {text!r}, not a number"
    values = [value for value in map(parse_number, texts) if value is not None]
    if len(values) < len(_SIDES):
        return
    xmin, ymin, xmax, ymax = values
    if xmax < xmin or ymax < ymin:
        yield f"has a box that ends before it begins ({xmin:g} {ymin:g} {xmax:g} {ymax:g})"
    elif min(xmin, ymin) < 1:
        yield f"has a box from {xmin:g} {ymin:g} on; VOC counts pixels from 1"
    elif (width or xmax) < xmax or (height or ymax) < ymax:
        yield f"has a box to {xmax:g} {ymax:g} in an image of {width:g} x {height:g}"
