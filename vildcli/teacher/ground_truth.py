"""Base ground truth: the only boxes that adaptation and the choice of regions may look at.

Annotations of novel categories are left out here, once, so that nothing after it can leak them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vildcli.data.base_categories import base_flags
from vildcli.data.lvis import Annotation, AnnotationSet
from vildcli.errors import DataError
from vildcli.vocabulary.category import Category


@dataclass(frozen=True, slots=True)
class BaseTruth:
    """Base categories, and their objects: no crowds, each with area.

    Attributes:
        is_base: [C] of the data's categories.
        categories: the base ones, in the data's order.
        objects: by image id; images without any have no entry.
        fingerprint: of all this, by file name.
    """

    is_base: tuple[bool, ...]
    categories: tuple[Category, ...]
    objects: Mapping[int, tuple[Annotation, ...]]
    fingerprint: str

    def boxes(self, image_id: int) -> Tensor:
        """[G, 4] original image frame."""
        found = [annotation.box for annotation in self.objects.get(image_id, ())]
        return torch.tensor(found, dtype=torch.float32).reshape(-1, 4)


def base_truth(annotations: AnnotationSet, base: str | None) -> BaseTruth:
    """What of an annotation set is base.

    Args:
        base: a vocabulary, `all`, or None for what LVIS does not call rare.

    Raises:
        DataError: nothing says which categories are base, or none is.
    """
    is_base = base_flags(annotations.categories, base)
    pairs = zip(annotations.categories, is_base, strict=True)
    categories = tuple(category for category, flag in pairs if flag)
    if not categories:
        raise DataError(
            f"{annotations.path} has no base category.",
            hint="Name the base categories: --base coco-48, all, or a vocabulary file.",
        )
    ids = {category.id for category in categories}
    objects = {
        image.id: found
        for image in annotations.images
        if (found := solid_objects(annotations.annotations.get(image.id, ()), ids))
    }
    return BaseTruth(tuple(is_base), categories, objects, _fingerprint(annotations, objects))


def solid_objects(group: Sequence[Annotation], category_ids: set[int]) -> tuple[Annotation, ...]:
    """The objects of some categories that can be looked at: no crowds, each with area."""
    return tuple(
        a
        for a in group
        if a.category_id in category_ids
        and not a.iscrowd
        and a.box[2] > a.box[0]
        and a.box[3] > a.box[1]
    )


def _fingerprint(annotations: AnnotationSet, objects: Mapping[int, tuple[Annotation, ...]]) -> str:
    names = {category.id: category.name for category in annotations.categories}
    files = {image.id: image.file_name for image in annotations.images}
    rows = [(files[i], names[a.category_id], a.box) for i, group in objects.items() for a in group]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:16]
