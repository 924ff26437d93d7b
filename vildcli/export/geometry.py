"""A label's region in the forms that other tools know. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from vildcli.labelling.masks import (
    box_to_polygon,
    crop_to_rle,
    join_rings,
    mask_to_polygons,
    object_mask,
)
from vildcli.labelling.records import ImageRecord, LabelRecord

Geometry = Literal["box", "polygon", "rle"]
GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)
Corners = tuple[float, float, float, float]


def short(value: float) -> float:
    """The shortest number that is the same float32: records hold no more, and files stay small."""
    return float(str(np.float32(value)))


def cut_box(label: LabelRecord, image: ImageRecord) -> Corners:
    """x1 y1 x2 y2 cut at the image's borders, pixels; without area there, of a pixel near it."""
    x1, y1, _, _, x2, y2, _, _ = map(short, box_to_polygon(label.box, image.height, image.width))
    return x1, y1, x2, y2


def coco_segmentation(
    label: LabelRecord, image: ImageRecord, geometry: Geometry
) -> tuple[float, Any]:
    """The area in pixels and COCO's `segmentation`, never empty; of a box, its rectangle."""
    if geometry == "box":
        x1, y1, x2, y2 = cut_box(label, image)
        return (x2 - x1) * (y2 - y1), [[x1, y1, x2, y1, x2, y2, x1, y2]]
    size = image.height, image.width
    crop, corner = object_mask(label.mask, label.mask_box, *size)
    area = int(crop.sum())
    if geometry == "polygon":
        return area, mask_to_polygons(label.mask, label.mask_box, *size)
    return area, crop_to_rle(crop, corner, *size)


def outline(label: LabelRecord, image: ImageRecord) -> list[tuple[float, float]]:
    """The mask as one polygon, points x y in pixels; its parts hang together by lines of no width.

    For formats where an object has one polygon: nothing of it is lost.
    """
    parts = mask_to_polygons(label.mask, label.mask_box, image.height, image.width)
    rings = [np.reshape(part, (-1, 2)) for part in parts]
    joined = join_rings(rings) if len(rings) > 1 else rings[0]
    points: Sequence[Sequence[float]] = joined.tolist()
    return [(x, y) for x, y in points]
