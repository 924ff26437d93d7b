"""Proposals that another tool made: a COCO JSON of boxes.

    [{"image_id": 7, "bbox": [x, y, width, height], "score": 0.9}, …]    results, matched by id
    {"images": [{"id": 1, "file_name": …}, …], "annotations": […]}       matched by file name

A results list knows no file names, so an id that the data does not have means that it belongs to
other data. An annotation file may hold more images than are asked for; a box without a score is
somebody's and counts as certain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vildcli.data.lvis import AnnotationSet
from vildcli.data.matching import ImageFile, match_images
from vildcli.errors import DataError

_HINT = "Give a COCO results list (image_id, bbox, score) or a COCO annotation file."
_Box = tuple[float, float, float, float, float]  # x1 y1 x2 y2 score


def read_boxes(path: Path, data: AnnotationSet, *, count: int) -> dict[int, Tensor]:
    """The boxes of each image of an annotation set, best first.

    Args:
        count: boxes an image that are kept.

    Returns:
        By the data's image id, [R, 4] x1 y1 x2 y2, original image frame, float32. An image is
        without boxes only where an annotation file lists it without any.

    Raises:
        DataError: unreadable, a row that is no box, boxes of other data, images without boxes.
    """
    content = _read_json(path)
    if isinstance(content, list):
        boxes = _boxes_by_id(content, f"{path}, row {{}}", scored=True)
        _refuse_other_data(boxes, path, data)
        listed = set(boxes)
    else:
        theirs = _boxes_by_id(content["annotations"], f"{path}, annotations[{{}}]", scored=False)
        pairs = _match(content["images"], path, data)
        boxes = {mine: theirs[other] for mine, other in pairs.items() if other in theirs}
        listed = set(pairs)
    if not boxes:
        raise DataError(f"{path} has no box of an image of {data.path}.", hint=_HINT)
    _refuse_gaps(listed, path, data)
    return {image.id: _best(boxes.get(image.id, ()), count) for image in data.images}


def _read_json(path: Path) -> Any:
    """A list, or an object with lists `images` and `annotations`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    if isinstance(content, list):
        return content
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} is not a file of boxes: it has no list '{key}'.", hint=_HINT)
    return content


def _boxes_by_id(rows: Sequence[Any], where: str, *, scored: bool) -> dict[int, list[_Box]]:
    """Boxes by image id; crowds, which are no objects, left out."""
    boxes: dict[int, list[_Box]] = {}
    for i, row in enumerate(rows):
        place = where.format(i)
        if not isinstance(row, dict) or not isinstance(row.get("image_id"), int):
            raise DataError(f"{place} has no image_id that is a whole number.", hint=_HINT)
        if not row.get("iscrowd"):
            score = _score(row, place, required=scored)
            boxes.setdefault(row["image_id"], []).append((*_corners(row, place), score))
    return boxes


def _corners(row: Mapping[str, Any], place: str) -> tuple[float, float, float, float]:
    numbers = row.get("bbox")
    try:
        x, y, width, height = (float(n) for n in numbers or ())
    except (TypeError, ValueError):
        x = y = width = height = math.nan
    if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) < 0:
        raise DataError(
            f"{place} has the bbox {numbers!r}, not four numbers x, y, width, height.", hint=_HINT
        )
    return x, y, x + width, y + height


def _score(row: Mapping[str, Any], place: str, *, required: bool) -> float:
    score = row.get("score", None if required else 1.0)
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        raise DataError(f"{place} has the score {score!r}, not a number.", hint=_HINT)
    return float(score)


def _match(rows: Sequence[Any], path: Path, data: AnnotationSet) -> dict[int, int]:
    """The file's id of each image of the data."""
    theirs = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("id"), int):
            raise DataError(f"{path}, images[{i}] has no id that is a whole number.", hint=_HINT)
        name = row.get("file_name") or "/".join(str(row.get("coco_url", "")).split("/")[-2:])
        theirs.append(ImageFile(row["id"], (str(name),)))
    return match_images([ImageFile(i.id, (i.file_name,)) for i in data.images], theirs)


def _refuse_other_data(boxes: Mapping[int, Any], path: Path, data: AnnotationSet) -> None:
    unknown = sorted(boxes.keys() - {image.id for image in data.images})
    if unknown:
        raise DataError(
            f"{path} has boxes of {len(unknown)} images that {data.path} does not have "
            f"(first: image_id {unknown[0]}).",
            hint="A results list is matched by image id: give one that was made for --data.",
        )


def _refuse_gaps(listed: set[int], path: Path, data: AnnotationSet) -> None:
    without = [image.file_name for image in data.images if image.id not in listed]
    if without:
        raise DataError(
            f"{path} has no box of {len(without)} of {len(data.images)} images of {data.path} "
            f"(first: {without[0]}).",
            hint="Make boxes for all; an annotation file may list an image that has none.",
        )


def _best(boxes: Sequence[_Box], count: int) -> Tensor:
    ranked = sorted(boxes, key=lambda box: -box[4])[:count]
    return torch.tensor([box[:4] for box in ranked], dtype=torch.float32).reshape(-1, 4)
