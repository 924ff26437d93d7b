"""Scenes as an LVIS v1 annotation file, exhaustive: an image's negatives are all that it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from vildcli.world.scenes import Mask, Scene, SceneObject
from vildcli.world.sprites import Sprite


def lvis_content(
    scenes: Iterable[tuple[str, Scene]], sprites: Sequence[Sprite], *, with_colours: bool
) -> dict[str, Any]:
    """Annotate named scenes; ids count from 1 in their order.

    Args:
        scenes: file names and what was drawn.
        sprites: all categories.
        with_colours: whether an annotation says `"attributes": {"colour": "red"}`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (file_name, scene) in enumerate(scenes, start=1):
        images.append(_image(image_id, file_name, scene, sprites))
        for found in scene.objects:
            annotation = _annotation(len(annotations) + 1, image_id, found)
            colour = {"attributes": {"colour": found.colour}} if with_colours else {}
            annotations.append(annotation | colour)
    instances = Counter(a["category_id"] for a in annotations)
    shown_in = Counter(c for _, c in {(a["image_id"], a["category_id"]) for a in annotations})
    return {
        "info": {"description": "The small world of vildcli"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [_category(s, shown_in[s.id], instances[s.id]) for s in sprites],
    }


def encode_mask(mask: Mask) -> dict[str, Any]:
    """Encode [H, W] bool as a compressed RLE that JSON can hold."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _image(
    image_id: int, file_name: str, scene: Scene, sprites: Sequence[Sprite]
) -> dict[str, Any]:
    present = {found.sprite.id for found in scene.objects}
    height, width = scene.pixels.shape[:2]
    return {
        "id": image_id,
        "file_name": file_name,
        "coco_url": file_name,  # LVIS v1 names its images here alone
        "width": width,
        "height": height,
        "neg_category_ids": [s.id for s in sprites if s.id not in present],
        "not_exhaustive_category_ids": [],
    }


def _annotation(annotation_id: int, image_id: int, found: SceneObject) -> dict[str, Any]:
    x0, y0, x1, y1 = found.box
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": found.sprite.id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(np.count_nonzero(found.mask)),
        "segmentation": encode_mask(found.mask),
        "iscrowd": 0,
    }


def _category(sprite: Sprite, images: int, instances: int) -> dict[str, Any]:
    return {
        "id": sprite.id,
        "name": sprite.name,
        "synset": sprite.synset,
        "synonyms": [sprite.name],
        "def": sprite.definition,
        "frequency": sprite.frequency,
        "image_count": images,
        "instance_count": instances,
    }
