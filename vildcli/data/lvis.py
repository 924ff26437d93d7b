"""Reader of COCO and LVIS annotation files: images, categories, annotations in a JSON. No torch."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from vildcli.errors import DataError
from vildcli.vocabulary.category import Category

Segmentation = list[list[float]] | Mapping[str, Any]  # polygons, or a run-length encoding
_SMALLEST_POLYGON = 6  # numbers: three points


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image of an annotation set. `width` and `height` are pixels.

    Attributes:
        file_name: relative to the image folder; of LVIS v1, the last two parts of `coco_url`.
        negative_ids: categories that are known to be absent; empty in COCO.
        not_exhaustive_ids: categories of which some objects are not annotated; empty in COCO.
    """

    id: int
    file_name: str
    width: int
    height: int
    negative_ids: frozenset[int] = frozenset()
    not_exhaustive_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object. `box` is x1 y1 x2 y2 and `area` square pixels, in the upright original image."""

    id: int
    image_id: int
    category_id: int
    box: tuple[float, float, float, float]
    area: float
    segmentation: Segmentation | None
    iscrowd: bool


@dataclass(frozen=True, slots=True)
class AnnotationSet:
    """An annotation file, its annotations grouped by image id; images without any have no group."""

    path: Path
    images: tuple[AnnotatedImage, ...]
    categories: tuple[Category, ...]
    annotations: Mapping[int, tuple[Annotation, ...]]


def load_annotations(path: Path) -> AnnotationSet:
    """Read a COCO or LVIS annotation file.

    Raises:
        DataError: unreadable, a missing key, an id twice, or an id that nothing defines.
    """
    return annotation_set(read_content(path), path)


def annotation_set(content: Mapping[str, Any], path: Path) -> AnnotationSet:
    """The JSON value of an annotation file as an annotation set; raises as `load_annotations`."""
    images = tuple(_image(row, where) for row, where in _records(content, "images", path))
    categories = tuple(
        _category(row, where) for row, where in _records(content, "categories", path)
    )
    image_ids = _unique_ids(images, "image", path)
    category_ids = _unique_ids(categories, "category", path)
    annotations: dict[int, list[Annotation]] = defaultdict(list)
    for row, where in _records(content, "annotations", path):
        annotation = _annotation(row, where)
        _check_known(annotation.image_id, image_ids, "image_id", where)
        _check_known(annotation.category_id, category_ids, "category_id", where)
        annotations[annotation.image_id].append(annotation)
    return AnnotationSet(path, images, categories, {k: tuple(v) for k, v in annotations.items()})


def read_content(path: Path) -> dict[str, Any]:
    """Read the JSON value of an annotation file and see that its three lists are there.

    Raises:
        DataError: no such file, not JSON, or not an annotation file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{path} is not an annotation file: it has no list '{key}'.",
                hint="Name a COCO or LVIS file with images, annotations and categories.",
            )
    return dict(content)


def annotation_mask(annotation: Annotation, height: int, width: int) -> NDArray[np.bool_]:
    """Fill the annotation's polygons, or decode its run lengths, to [H, W].

    Raises:
        DataError: no segmentation, or one that does not fit the image.
    """
    segmentation = annotation.segmentation
    if segmentation is None:
        raise DataError(f"Annotation {annotation.id} has no segmentation.")
    try:
        if isinstance(segmentation, Mapping):
            return _decoded(segmentation, annotation, height, width)
        polygons = [p for p in segmentation if len(p) >= _SMALLEST_POLYGON]
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return np.asarray(coco_mask.decode(merged), dtype=bool)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The segmentation of annotation {annotation.id} cannot be read: {error}."
        ) from error


def _decoded(
    encoding: Mapping[str, Any], annotation: Annotation, height: int, width: int
) -> NDArray[np.bool_]:
    if list(encoding["size"]) != [height, width]:
        raise DataError(
            f"The mask of annotation {annotation.id} is {encoding['size']}, "
            f"its image [{height}, {width}]."
        )
    whole = dict(encoding)
    if isinstance(whole["counts"], list):
        whole = coco_mask.frPyObjects(whole, height, width)
    return np.asarray(coco_mask.decode(whole), dtype=bool)


def _records(
    content: Mapping[str, Any], key: str, path: Path
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Rows of one list, each with the words that say where it stands."""
    for i, row in enumerate(content[key]):
        where = f"{path}, {key}[{i}]"
        if not isinstance(row, dict):
            raise DataError(f"{where} is not an object.")
        yield row, where


def _image(row: Mapping[str, Any], where: str) -> AnnotatedImage:
    return AnnotatedImage(
        id=_integer(row, "id", where),
        file_name=_file_name(row, where),
        width=_integer(row, "width", where),
        height=_integer(row, "height", where),
        negative_ids=frozenset(row.get("neg_category_ids", ())),
        not_exhaustive_ids=frozenset(row.get("not_exhaustive_category_ids", ())),
    )


def _file_name(row: Mapping[str, Any], where: str) -> str:
    if "file_name" in row:
        return str(row["file_name"])
    url = str(_value(row, "coco_url", where))
    return "/".join(url.split("/")[-2:])


def _category(row: Mapping[str, Any], where: str) -> Category:
    name = str(_value(row, "name", where))
    return Category(
        id=_integer(row, "id", where),
        name=name,
        synset=row.get("synset"),
        synonyms=tuple(s for s in row.get("synonyms", ()) if s != name),
        definition=row.get("def"),
        frequency=row.get("frequency"),
    )


def _annotation(row: Mapping[str, Any], where: str) -> Annotation:
    x, y, width, height = _box(row, where)
    return Annotation(
        id=_integer(row, "id", where),
        image_id=_integer(row, "image_id", where),
        category_id=_integer(row, "category_id", where),
        box=(x, y, x + width, y + height),
        area=float(row.get("area", width * height)),
        segmentation=row.get("segmentation"),
        iscrowd=bool(row.get("iscrowd", 0)),
    )


def _box(row: Mapping[str, Any], where: str) -> list[float]:
    numbers = _value(row, "bbox", where)
    try:
        box = [float(n) for n in numbers]
    except (TypeError, ValueError):
        box = []
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise DataError(f"{where} has the bbox {numbers!r}, not four numbers x, y, width, height.")
    return box


def _value(row: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in row:
        raise DataError(f"{where} has no '{key}'.")
    return row[key]


def _integer(row: Mapping[str, Any], key: str, where: str) -> int:
    value = _value(row, key, where)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where} has the {key} {value!r}, not a whole number.")
    return value


def _unique_ids(
    rows: tuple[AnnotatedImage, ...] | tuple[Category, ...], what: str, path: Path
) -> frozenset[int]:
    ids: set[int] = set()
    for row in rows:
        if row.id in ids:
            raise DataError(f"{path} has the {what} id {row.id} more than once.")
        ids.add(row.id)
    return frozenset(ids)


def _check_known(value: int, known: frozenset[int], key: str, where: str) -> None:
    if value not in known:
        raise DataError(f"{where} has the {key} {value}, which the file does not define.")
