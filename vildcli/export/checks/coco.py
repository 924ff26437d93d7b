"""Checks of COCO and LVIS JSON: annotation files, and lists of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vildcli.export.checks.problem import (
    Problem,
    Unique,
    corners_problem,
    is_number,
    is_whole,
    numbers,
    points_of,
    polygon_problem,
    score_problem,
)
from vildcli.export.checks.reading import read_json

Row = dict[str, Any]
_FREQUENCIES = ("r", "c", "f")


def check_coco(path: Path) -> Iterator[Problem]:
    """What pycocotools, FiftyOne and trainers stumble over, or get wrong without a word."""
    content = read_json(path)
    if isinstance(content, list):
        yield from _check_results(content)
    elif isinstance(content, dict):
        yield from _check_content(content)
    else:
        yield Problem(path.name, "is neither an annotation file nor a list of results")


def check_lvis(path: Path) -> Iterator[Problem]:
    """What COCO asks, and what makes it LVIS."""
    content = read_json(path)
    if not isinstance(content, dict):
        yield Problem(path.name, "is no annotation file")
        return
    yield from _check_content(content, crowds=False)
    yield from _check_federation(content)
    yield from _check_counts(content)


def _check_results(rows: list[Any]) -> Iterator[Problem]:
    for where, row in _each(rows, "results"):
        for key in ("image_id", "category_id"):
            if not is_whole(row.get(key)):
                yield Problem(where, f"has the {key} {row.get(key)!r}, not a whole number")
        if not is_number(row.get("score")):
            yield Problem(where, f"has the score {row.get('score')!r}, not a number")
        if "bbox" not in row and "segmentation" not in row:
            yield Problem(where, "has neither bbox nor segmentation")
        yield from (Problem(where, what) for what in _region_problems(row, None))


def _check_content(content: Row, *, crowds: bool = True) -> Iterator[Problem]:
    for key in ("images", "annotations", "categories"):
        rows = content.get(key)
        if not isinstance(rows, list):
            yield Problem(key, "is no list" if key in content else "is missing")
            continue
        others = (place for place, row in enumerate(rows) if not isinstance(row, dict))
        yield from (Problem(f"{key}[{place}]", "is no object") for place in others)
    images, categories = _list(content, "images"), _list(content, "categories")
    yield from _check_images(images)
    yield from _check_categories(categories)
    by_id = {row["id"]: row for _, row in _each(images, "") if is_whole(row.get("id"))}
    known = {row["id"] for _, row in _each(categories, "") if is_whole(row.get("id"))}
    ids = Unique()
    for where, row in _each(_list(content, "annotations"), "annotations"):
        problems = [*_id_problems(row, ids, where, "annotation")]
        problems += _annotation_problems(row, by_id, known)
        if crowds and row.get("iscrowd") not in (0, 1):
            problems.append(f"has the iscrowd {row.get('iscrowd')!r}, not 0 or 1")
        yield from (Problem(where, what) for what in problems)


def _each(rows: list[Any], name: str) -> Iterator[tuple[str, Row]]:
    for place, row in enumerate(rows):
        if isinstance(row, dict):
            own = f" (id {row['id']})" if "id" in row else ""
            yield f"{name}[{place}]{own}", row


def _list(content: Row, key: str) -> list[Any]:
    value = content.get(key)
    return value if isinstance(value, list) else []


def _id_problems(row: Row, ids: Unique, where: str, kind: str) -> Iterator[str]:
    value = row.get("id")
    if not is_whole(value):
        yield f"has the id {value!r}, not a whole number" if "id" in row else "has no id"
        return
    if value == 0 and kind in _ZERO:
        yield f"has the id 0, {_ZERO[kind]}"
    yield from ids.problem(value, "id", where)


_ZERO = {
    "annotation": "which pycocotools takes for unmatched",
    "category": "which several readers take for the background",
}


def _check_images(images: list[Any]) -> Iterator[Problem]:
    ids, names = Unique(), Unique()
    for where, row in _each(images, "images"):
        problems = [*_id_problems(row, ids, where, "image")]
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            # LVIS of 2020 has coco_url in its place.
            problems += [] if row.get("coco_url") else ["has no file_name"]
        else:
            problems += names.problem(name, "file_name", where)
        problems += [
            f"has the {side} {row.get(side)!r}, not a number of pixels"
            for side in ("width", "height")
            if not (is_whole(row.get(side)) and row[side] > 0)
        ]
        yield from (Problem(where, what) for what in problems)


def _check_categories(categories: list[Any]) -> Iterator[Problem]:
    ids, names = Unique(), Unique()
    for where, row in _each(categories, "categories"):
        problems = [*_id_problems(row, ids, where, "category")]
        name = row.get("name")
        if not isinstance(name, str) or not name.strip():
            problems.append("has no name")
        else:
            problems += names.problem(name, "name", where)
        yield from (Problem(where, what) for what in problems)


def _annotation_problems(
    row: Row, images: Mapping[int, Row], categories: set[int]
) -> Iterator[str]:
    image = images.get(row["image_id"]) if is_whole(row.get("image_id")) else None
    if image is None:
        yield f"has the image_id {row.get('image_id')!r}, which no image has"
    if not is_whole(row.get("category_id")) or row["category_id"] not in categories:
        yield f"has the category_id {row.get('category_id')!r}, which no category has"
    if not (is_number(row.get("area")) and row["area"] > 0):
        yield f"has the area {row.get('area')!r}, not a number above 0"
    if "bbox" not in row:
        yield "has no bbox"
    yield from score_problem(row)
    yield from _region_problems(row, image)


def _region_problems(row: Row, image: Row | None) -> Iterator[str]:
    size = _size(image)
    if "bbox" in row:
        yield from _bbox_problems(row["bbox"], size)
    if "segmentation" in row:
        yield from _segmentation_problems(row["segmentation"], size)


def _size(image: Row | None) -> tuple[int, int] | None:
    """Height and width, where they are known."""
    height, width = _whole(image or {}, "height"), _whole(image or {}, "width")
    return None if height is None or width is None else (height, width)


def _bbox_problems(bbox: Any, size: tuple[int, int] | None) -> Iterator[str]:
    sides = numbers(bbox, 4)
    if sides is None:
        yield f"has the bbox {bbox!r}, not x y width height"
        return
    x, y, w, h = sides
    height, width = size or (None, None)
    yield from corners_problem((x, y, x + w, y + h), width, height)


def _segmentation_problems(value: Any, size: tuple[int, int] | None) -> Iterator[str]:
    if isinstance(value, list) and value:
        for polygon in value:
            yield from _polygon_problems(polygon, size)
    elif isinstance(value, dict) and {"size", "counts"} <= value.keys():
        yield from _rle_problems(value, size)
    else:
        yield "has an empty segmentation" if not value else "has a segmentation of no known form"


def _polygon_problems(polygon: Any, size: tuple[int, int] | None) -> Iterator[str]:
    points = points_of(polygon)
    if points is not None and len(points) > 2:
        height, width = size or (None, None)
        yield from polygon_problem(points, width, height)
    elif isinstance(polygon, list) and numbers(polygon) is not None:
        yield f"has a polygon of {len(polygon)} numbers, not of 3 points or more"
    else:
        yield "has a polygon that is no list of numbers"


def _rle_problems(rle: Row, size: tuple[int, int] | None) -> Iterator[str]:
    written = rle["size"]
    if not isinstance(written, list) or len(written) != 2 or not all(map(is_whole, written)):
        yield f"has a mask of the size {written!r}, not height and width"
        return
    if size is not None and tuple(written) != size:
        yield f"has a mask of {written[1]} x {written[0]} in an image of {size[1]} x {size[0]}"
    counts = _run_lengths(rle["counts"])
    if counts is None:
        yield "has a mask whose counts are no run lengths"
    elif counts.sum() != written[0] * written[1]:
        yield f"has a mask whose counts add up to {counts.sum()}, not {written[0] * written[1]}"
    elif not counts[1::2].any():
        yield "has an empty mask"


def _run_lengths(counts: Any) -> np.ndarray | None:
    """The runs of COCO's compressed or plain counts; None where they are neither."""
    if isinstance(counts, list) and all(map(is_whole, counts)):
        runs = np.array(counts, np.int64)
    elif isinstance(counts, str) and counts and counts.isascii():
        runs = _uncompressed(np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48)
    else:
        return None
    return runs if len(runs) and (runs >= 0).all() else None


def _uncompressed(symbols: np.ndarray) -> np.ndarray:
    """COCO's string: 5 bits a symbol, lowest first; later ones differ from the last but one."""
    if (symbols < 0).any() or (symbols > 63).any() or symbols[-1] & 0x20:
        return np.array([-1])
    ends = np.flatnonzero(symbols & 0x20 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 12:
        return np.array([-1])
    places = np.arange(len(symbols)) - np.repeat(starts, lengths)
    values = np.add.reduceat((symbols & 0x1F) << (5 * places), starts)
    negative = symbols[ends] & 0x10 != 0
    values[negative] -= np.int64(1) << (5 * lengths[negative])
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _check_federation(content: Row) -> Iterator[Problem]:
    """What an image says of categories that it does not show, or not all of."""
    known = {_whole(row, "id") for _, row in _each(_list(content, "categories"), "")}
    present = _occurrences(content)
    for where, row in _each(_list(content, "images"), "images"):
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = row.get(key)
            if not isinstance(ids, list):
                yield Problem(where, f"has no {key}")
                continue
            unknown = [id_ for id_ in ids if not is_whole(id_) or id_ not in known]
            if unknown:
                yield Problem(where, f"has {unknown[0]!r} in {key}, which no category has")
        absent = _list(row, "neg_category_ids")
        if both := [i for i in absent if is_whole(i) and (_whole(row, "id"), i) in present]:
            yield Problem(where, f"has {both[0]} in neg_category_ids and an annotation of it")


def _check_counts(content: Row) -> Iterator[Problem]:
    present = _occurrences(content)
    counted = {
        "instance_count": Counter(category for _, category in present.elements()),
        "image_count": Counter(category for _, category in present),
    }
    for where, row in _each(_list(content, "categories"), "categories"):
        if row.get("frequency") not in _FREQUENCIES:
            yield Problem(where, f"has the frequency {row.get('frequency')!r}, not r, c or f")
        for key, found in counted.items():
            number = found[_whole(row, "id")]
            if key in row and row[key] != number:
                yield Problem(where, f"has the {key} {row[key]!r}; there are {number}")


def _occurrences(content: Row) -> Counter[tuple[int | None, int | None]]:
    """How often a category is annotated in an image."""
    rows = (row for _, row in _each(_list(content, "annotations"), ""))
    return Counter((_whole(row, "image_id"), _whole(row, "category_id")) for row in rows)


def _whole(row: Row, key: str) -> int | None:
    value = row.get(key)
    return value if is_whole(value) else None
