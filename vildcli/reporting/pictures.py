"""Pictures of a report as JPEG: labels cut out with what is around them, whole images. No torch.

Every image is decoded once, however many of its labels are shown.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from vildcli.data.images import read_image
from vildcli.errors import DataError
from vildcli.labelling.masks import full_frame, object_mask
from vildcli.labelling.plan import image_path
from vildcli.labelling.records import (
    MASK_SIDE,
    ImageRecord,
    iter_images,
    iter_labelled_images,
    read_part,
)
from vildcli.labelling.thresholds import RunView
from vildcli.reporting.tally import Example
from vildcli.review.drawing import category_colour, draw_labels
from vildcli.review.sheet import draw_image

CROP_SIDE = 176  # pixels
_AROUND = 1.6  # sides of a cut-out, by the longer side of the box
_SMALLEST = 48  # pixels of the image that a cut-out shows at least
_QUALITY = 80


@dataclass(slots=True)
class Pictures:
    """What could be drawn.

    Attributes:
        crops: JPEG of each label.
        paths: path of each label's image, relative to its source.
        images: JPEG of each whole image, by id.
        missing: why an image could not be read, by id.
    """

    crops: dict[Example, bytes] = field(default_factory=dict)
    paths: dict[Example, str] = field(default_factory=dict)
    images: dict[int, bytes] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)


def draw_pictures(
    view: RunView,
    examples: Iterable[Example],
    places: Mapping[int, int],
    images_root: Path | None = None,
) -> Pictures:
    """Draw labels and whole images.

    Args:
        examples: labels to cut out.
        places: the unit of each image that is drawn whole, by id.
        images_root: folder that the images have moved to.
    """
    pictures = Pictures()
    by_unit: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        by_unit[example.unit].append(example)
    for unit in sorted(by_unit):
        _draw_crops(pictures, view, unit, by_unit[unit], images_root)
    for unit in sorted(set(places.values())):
        wanted = {image_id for image_id, place in places.items() if place == unit}
        for image in iter_labelled_images(view.run, [unit]):
            if image.image.image_id in wanted:
                try:
                    picture = draw_image(view, image, images_root)
                except DataError as error:
                    pictures.missing[image.image.image_id] = str(error)
                else:
                    pictures.images[image.image.image_id] = _jpeg(picture)
    return pictures


def _draw_crops(
    pictures: Pictures,
    view: RunView,
    unit: int,
    examples: list[Example],
    images_root: Path | None,
) -> None:
    records = {image.image_id: image for image in iter_images(view.run, [unit])}
    image_ids = {example.image_id for example in examples}
    regions, moved = _regions(view, unit, image_ids), _moved_boxes(view, unit, image_ids)
    by_image: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        by_image[example.image_id].append(example)
    for image_id, own in by_image.items():
        record = records[image_id]
        pictures.paths.update(dict.fromkeys(own, record.path))
        try:
            whole = _read(view, record, images_root)
        except DataError as error:
            pictures.missing[image_id] = str(error)
            continue
        for example in own:
            region = regions[image_id, example.region]
            box = moved.get((image_id, example.label)) or region["box"]
            pictures.crops[example] = _jpeg(_cut(whole, box, region, example.category_id))


def _read(view: RunView, record: ImageRecord, images_root: Path | None) -> Image.Image:
    path = image_path(view.run, record, images_root)
    return Image.fromarray(read_image(path, record.path).pixels)


def _regions(view: RunView, unit: int, image_ids: set[int]) -> dict[tuple[int, int], Any]:
    columns = ("image_id", "region", "box", "mask")
    own = _of_images(read_part(view.run, "regions", unit, columns), image_ids)
    return {(row["image_id"], row["region"]): row for row in own.to_pylist()}


def _moved_boxes(view: RunView, unit: int, image_ids: set[int]) -> dict[tuple[int, int], Any]:
    """Boxes of labels whose name has moved them away from their region's."""
    own = _of_images(read_part(view.run, "labels", unit), image_ids)
    return {(row["image_id"], row["label"]): row.get("box") for row in own.to_pylist()}


def _of_images(table: pa.Table, image_ids: set[int]) -> pa.Table:
    wanted = pa.array(sorted(image_ids), pa.int64())
    return table.filter(pc.is_in(table.column("image_id"), value_set=wanted))


def _cut(
    image: Image.Image, box: Sequence[float], region: Mapping[str, Any], category_id: int
) -> Image.Image:
    """A label with what is around it, the longer side `CROP_SIDE`; the mask is its region's."""
    x1, y1, x2, y2 = box
    half = max(_AROUND * max(x2 - x1, y2 - y1), _SMALLEST) / 2
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    left, right = _within(middle[0], half, image.width)
    upper, lower = _within(middle[1], half, image.height)
    scale = CROP_SIDE / max(right - left, lower - upper)
    size = (max(1, round((right - left) * scale)), max(1, round((lower - upper) * scale)))
    cut = image.resize(size, Image.Resampling.BILINEAR, box=(left, upper, right, lower))
    factors = (size[0] / (right - left), size[1] / (lower - upper)) * 2
    corner = (left, upper) * 2

    def placed(sides: Sequence[float]) -> list[float]:
        return [(a - b) * f for a, b, f in zip(sides, corner, factors, strict=True)]

    mask = np.frombuffer(region["mask"], np.uint8).reshape(MASK_SIDE, MASK_SIDE)
    frame = full_frame(
        *object_mask(mask, placed(region["box"]), size[1], size[0]), size[1], size[0]
    )
    colours = [category_colour(category_id)]
    return draw_labels(cut, [placed(box)], [frame], [""], colours=colours)


def _within(middle: float, half: float, length: int) -> tuple[float, float]:
    """A stretch about a middle, moved and cut so that it lies in the image, a pixel at least."""
    low = min(max(0.0, middle - half), length - 1.0)
    return low, max(min(float(length), middle + half), low + 1.0)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
