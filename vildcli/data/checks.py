"""What can be wrong with training data, found before the first step rather than at night. No torch.

Annotations that are not trained on, of novel categories and of crowds, are exempt: they must not
influence anything, and so may hold anything.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vildcli.data.lvis import AnnotatedImage, Annotation, AnnotationSet
from vildcli.errors import DataError

_POINT = 2  # numbers
_SMALLEST_POLYGON = 3 * _POINT


def check_training_data(
    annotations: AnnotationSet,
    folder: Path,
    base_ids: Collection[int],
    *,
    drop_degenerate: bool,
) -> tuple[AnnotationSet, int]:
    """Check what will be trained on, by its form: no image and no mask is decoded.

    Args:
        folder: of the images; each folder in it is listed once.
        base_ids: categories that are trained on.
        drop_degenerate: leave out objects without area instead of refusing them.

    Returns:
        All images with only the annotations that are trained on, and how many were left out for
        having no area.

    Raises:
        DataError: image files are missing; no base annotation; a box or polygons without area; a
            mask that is missing, cannot be read or is of another size than its image. Names the
            file, the annotation and the image.
    """
    _refuse_missing_files(annotations, folder)
    ids = frozenset(base_ids)
    kept: dict[int, tuple[Annotation, ...]] = {}
    flat: list[str] = []
    for image in annotations.images:
        solid = []
        for annotation in annotations.annotations.get(image.id, ()):
            if annotation.category_id not in ids or annotation.iscrowd:
                continue
            if reason := _why_flat(annotation, image, annotations.path):
                flat.append(f"annotation {annotation.id} of {_named(image)}, {reason}")
            else:
                solid.append(annotation)
        if solid:
            kept[image.id] = tuple(solid)
    if flat and not drop_degenerate:
        raise DataError(
            f"{annotations.path}: objects of base categories without area: {len(flat)}; the first "
            f"is {flat[0]}.",
            hint="Give --drop-degenerate to leave them out, or correct the file.",
        )
    if not kept:
        raise DataError(
            f"{annotations.path} has no annotation of a base category.",
            hint="See --base: it says which categories are trained on.",
        )
    return replace(annotations, annotations=kept), len(flat)


def _refuse_missing_files(annotations: AnnotationSet, folder: Path) -> None:
    names: dict[Path, list[AnnotatedImage]] = defaultdict(list)
    for image in annotations.images:
        names[(folder / image.file_name).parent].append(image)
    missing: list[AnnotatedImage] = []
    for parent, images in names.items():
        try:
            there = frozenset(os.listdir(parent))
        except OSError:
            missing += images
            continue
        absent = [i for i in images if Path(i.file_name).name not in there]
        # Asked again one by one: a file system may fold case, or spell accents another way.
        missing += [i for i in absent if not (folder / i.file_name).exists()]
    if missing:
        ids = {image.id for image in missing}
        first = next(image for image in annotations.images if image.id in ids)
        raise DataError(
            f"{annotations.path}: {len(missing)} of {len(annotations.images)} image files are not "
            f"in {folder}; the first is {first.file_name} (image {first.id}).",
            hint=_where_they_may_be(first, folder),
        )


def _where_they_may_be(image: AnnotatedImage, folder: Path) -> str:
    for place in (folder.parent, folder / "images"):
        if (place / image.file_name).is_file():
            return f"It is in {place}: name that folder."
    if (folder / Path(image.file_name).name).is_file():
        return f"It is there as {Path(image.file_name).name}: correct the file names."
    return "Name the folder that the annotations' file names start from."


def _why_flat(annotation: Annotation, image: AnnotatedImage, path: Path) -> str | None:
    """Why an object has no area, or None.

    Raises:
        DataError: its box has one, and its segmentation cannot be read.
    """
    x1, y1, x2, y2 = annotation.box
    if x2 <= x1 or y2 <= y1:
        return f"whose box is {x2 - x1:g} x {y2 - y1:g} pixels"
    segmentation = annotation.segmentation
    fault = _fault(segmentation, [image.height, image.width])
    if fault is not None:
        raise DataError(
            f"{path}: the segmentation of annotation {annotation.id} of {_named(image)} {fault}.",
            hint="Masks are trained on: correct it, or take the annotation out.",
        )
    if isinstance(segmentation, list) and all(len(p) < _SMALLEST_POLYGON for p in segmentation):
        return "whose polygons have fewer than three points"
    return None


def _named(image: AnnotatedImage) -> str:
    return f"image {image.id} ({image.file_name})"


def _fault(segmentation: Any, size: list[int]) -> str | None:
    """What is wrong with the form of a segmentation."""
    if segmentation is None:
        return "is missing"
    if isinstance(segmentation, Mapping):
        return _fault_of_run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        return "is neither a list of polygons nor a run-length encoding"
    for polygon in segmentation:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            return "has a polygon that is not a list of numbers"
        if len(polygon) % _POINT:
            return f"has a polygon of {len(polygon)} numbers, which are not pairs of x and y"
        if not math.isfinite(sum(polygon)):
            return "has a polygon with a number that is not finite"
    return None


def _fault_of_run_lengths(encoding: Mapping[str, Any], size: list[int]) -> str | None:
    found, counts = encoding.get("size"), encoding.get("counts")
    if found != size:
        return f"is of {found} pixels, its image of {size}"
    if isinstance(counts, list):
        if not set(map(type, counts)) <= {int} or min(counts, default=0) < 0:
            return "has run lengths that are not whole numbers"
        if sum(counts) != size[0] * size[1]:
            return (
                f"has run lengths of {sum(counts)} pixels in all, its image has {size[0] * size[1]}"
            )
        return None
    return None if isinstance(counts, str) and counts else "has no run lengths"
