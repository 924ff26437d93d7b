"""The labelled reference set: what a choice is to help with, and what it must not be. No torch.

The published experiments take the evaluation set itself, which chooses training images by the very
labels that are reported on. A reference set here is a held-out part of the labelled data: none of
its images is in the pool, and none is evaluated on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.data.lvis import AnnotatedImage, AnnotationSet, load_annotations
from vildcli.data.matching import match_categories
from vildcli.errors import DataError
from vildcli.runs import file_sha256
from vildcli.vocabulary.category import Category

VALIDATED_ON = "validated_on"  # in a model's provenance: the hash of what it was validated on
WHY = "choosing by it makes what is measured on it afterwards too good"
HINT = "Hold out another part, or give --as-published: the published experiments do so."
_WHERE = "Give --reference-images DIR."
_BESIDE = "Put them beside the file: whether the two sets share images is told by their files."
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """One labelled image.

    Attributes:
        boxes: x1 y1 x2 y2 of every object that is no crowd, pixels of the upright image.
        columns: of the run's vocabulary, one a box.
    """

    file: Path
    boxes: tuple[tuple[float, float, float, float], ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference set in the words of a run.

    Attributes:
        sha256: of its file.
        left_out: annotations of categories that the run did not look for.
    """

    path: Path
    images: tuple[ReferenceImage, ...]
    sha256: str
    left_out: int


def read_reference(
    path: Path,
    folder: Path | None,
    categories: Sequence[Category],
    *,
    matched_only: bool = False,
) -> Reference:
    """Read a reference set for a vocabulary.

    Args:
        path: COCO or LVIS JSON.
        folder: of its images; None looks beside the file.
        categories: of the run's vocabulary, in its order.
        matched_only: leave annotations of other categories out instead of refusing them.

    Raises:
        DataError: nothing is annotated, categories differ, or images are missing.
    """
    annotations = load_annotations(path)
    columns = _columns(annotations, categories)
    objects = [a for group in annotations.annotations.values() for a in group if not a.iscrowd]
    if not objects:
        raise DataError(
            f"{path} has no annotated object, so nothing can be helped.",
            hint="Give a labelled, held-out part of your data as --reference.",
        )
    unknown = [a for a in objects if a.category_id not in columns]
    if unknown and (not matched_only or len(unknown) == len(objects)):
        raise _other_categories(path, annotations, {a.category_id for a in unknown}, columns)
    root = folder or find_folder(annotations)
    _refuse_missing(annotations, root)
    images = tuple(
        ReferenceImage(
            root / image.file_name,
            *_known(annotations, image, columns),
        )
        for image in annotations.images
    )
    return Reference(path, images, file_sha256(path), len(unknown))


def refuse_pool(reference: Reference, hashes: Mapping[str, str], run: Path) -> None:
    """Refuse a reference set whose images are themselves to choose from.

    Args:
        hashes: name of each candidate by the SHA-256 of its file.

    Raises:
        DataError: some are.
    """
    there = [image for image in reference.images if file_sha256(image.file) in hashes]
    if there:
        raise DataError(
            f"{len(there)} of the {len(reference.images)} images of {reference.path} are in the "
            f"pool of {run}; the first is {hashes[file_sha256(there[0].file)]}.",
            hint=f"They are labelled: take them out of the pool with --reviewed {reference.path}.",
        )


def refuse_evaluation(
    reference: Reference, evaluation: Path | None, provenance: Mapping[str, Any]
) -> None:
    """Refuse a reference set that is evaluated on.

    Args:
        evaluation: the annotation set that is, where the user names it.
        provenance: of the model: what it was validated on while it trained.

    Raises:
        DataError: it is the same file, or shares an image with it.
    """
    if provenance.get(VALIDATED_ON) == reference.sha256:
        raise DataError(f"{reference.path} is what the model was validated on: {WHY}.", hint=HINT)
    if evaluation is None:
        return
    if file_sha256(evaluation) == reference.sha256:
        raise DataError(f"{reference.path} is the evaluation set: {WHY}.", hint=HINT)
    hashes = _hashes(load_annotations(evaluation))
    shared = [image for image in reference.images if file_sha256(image.file) in hashes]
    if shared:
        raise DataError(
            f"{len(shared)} of the {len(reference.images)} images of {reference.path} are in the "
            f"evaluation set {evaluation}, the first is {shared[0].file.name}: {WHY}.",
            hint=HINT,
        )


def find_folder(annotations: AnnotationSet, hint: str = _WHERE) -> Path:
    """The folder of an annotation file's images: beside it, by its name, or called images.

    Raises:
        DataError: the first image is in none of these.
    """
    beside = annotations.path.parent
    first = annotations.images[0].file_name
    for folder in (beside / annotations.path.stem, beside, beside / "images"):
        if (folder / first).is_file():
            return folder
    raise DataError(
        f"The images of {annotations.path} are not beside it: there is no {first}.", hint=hint
    )


def _hashes(annotations: AnnotationSet) -> frozenset[str]:
    if not annotations.images:
        return frozenset()
    root = find_folder(annotations, _BESIDE)
    _refuse_missing(annotations, root, _BESIDE)
    return frozenset(file_sha256(root / image.file_name) for image in annotations.images)


def _columns(annotations: AnnotationSet, categories: Sequence[Category]) -> dict[int, int]:
    """The column of each of the file's categories that the run looked for."""
    if not annotations.images:
        raise DataError(
            f"{annotations.path} has no images.",
            hint="Give a labelled, held-out part of your data as --reference.",
        )
    found = match_categories(categories, annotations.categories)
    places = {category.id: place for place, category in enumerate(categories)}
    return {theirs: places[own] for own, theirs in reversed(found.items())}


def _known(
    annotations: AnnotationSet, image: AnnotatedImage, columns: Mapping[int, int]
) -> tuple[tuple[tuple[float, float, float, float], ...], tuple[int, ...]]:
    kept = [
        a
        for a in annotations.annotations.get(image.id, ())
        if not a.iscrowd and a.category_id in columns
    ]
    return tuple(a.box for a in kept), tuple(columns[a.category_id] for a in kept)


def _other_categories(
    path: Path, annotations: AnnotationSet, unknown: set[int], columns: Mapping[int, int]
) -> DataError:
    names = [c.name for c in annotations.categories if c.id in unknown]
    shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
    return DataError(
        f"{path} has objects of {len(names)} categories that the run did not look for: {shown}.",
        hint="Give --matched-only to leave them out, or label with the reference's names."
        if columns
        else "Label with the reference's names: not one of them is in the run's vocabulary.",
    )


def _refuse_missing(annotations: AnnotationSet, root: Path, hint: str = _WHERE) -> None:
    missing = [i for i in annotations.images if not (root / i.file_name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(annotations.images)} images of {annotations.path} are not "
            f"in {root}; the first is {missing[0].file_name}.",
            hint=hint,
        )
