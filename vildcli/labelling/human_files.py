"""A file of labels that people made, matched with the images of a run. No torch.

Images match by relative path, else by a file name that nothing else has, else by the hash of files
that lie beside the labels. Categories need not: what people drew is a box around something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vildcli.data.lvis import AnnotatedImage, Annotation, AnnotationSet, load_annotations
from vildcli.data.matching import ImageFile, match_images
from vildcli.data.members import split_member
from vildcli.errors import DataError
from vildcli.labelling.copies import image_digest
from vildcli.labelling.sources import FoundImage, FoundImages, Key
from vildcli.runs import file_sha256

_FOLDERS = (".", "images")  # beside the file, where its images may lie


@dataclass(frozen=True, slots=True)
class HumanLabels:
    """What people labelled of the images of a run.

    Attributes:
        sha256: of the file.
        found: for an image of the run, by source and path, that of the file which it is.
    """

    path: Path
    sha256: str
    annotations: AnnotationSet
    found: Mapping[Key, AnnotatedImage]

    def drawn(self, key: Key) -> tuple[Annotation, ...]:
        """The objects that people drew on an image of the run."""
        image = self.found.get(key)
        return () if image is None else self.annotations.annotations.get(image.id, ())

    def is_labelled(self, key: Key) -> bool:
        """Whether people drew anything on it: tools list images that nobody has opened yet."""
        return bool(self.drawn(key))

    @property
    def unmatched(self) -> int:
        """Labelled images of the file that are none of the run."""
        there = {image.id for image in self.found.values()}
        return sum(image_id not in there for image_id in self.annotations.annotations)


def match_human_labels(path: Path, images: FoundImages) -> HumanLabels:
    """Read a COCO or LVIS file and find its images among those of a run.

    Raises:
        DataError: unreadable, without any object, or of other images.
    """
    annotations = load_annotations(path)
    if not annotations.annotations:
        raise DataError(f"{path} has no annotations.", hint="Leave --labels out.")
    found = _match(annotations, path.parent, images)
    labels = HumanLabels(path, file_sha256(path), annotations, found)
    if not any(labels.is_labelled(key) for key in found):
        count = len(annotations.annotations)
        raise DataError(
            f"None of the {count} labelled images of {path} is among the "
            f"{len(images.images)} images found.",
            hint="Name the folder that its file names are relative to, or other labels.",
        )
    return labels


def _match(
    annotations: AnnotationSet, folder: Path, images: FoundImages
) -> dict[Key, AnnotatedImage]:
    theirs = {image.id: image for image in annotations.images}
    files = _files(annotations.images, folder)
    sizes = {file.stat().st_size for file in files.values()}

    @cache
    def hash_of_image(place: int) -> str | None:
        image = images.images[place]
        if image.bytes not in sizes:  # most are not even read
            return None
        return image_digest(images.roots[image.source] / image.path)

    def hash_of_truth(image_id: int) -> str | None:
        return image_digest(files[image_id]) if image_id in files else None

    matched = match_images(
        [
            ImageFile(place, _spellings(image, images.roots[image.source]))
            for place, image in enumerate(images.images)
        ],
        [ImageFile(image.id, (image.file_name,)) for image in annotations.images],
        hash_of_image=hash_of_image,
        hash_of_truth=hash_of_truth,
    )
    return {images.images[place].key: theirs[id_] for place, id_ in matched.items()}


def _spellings(image: FoundImage, root: Path) -> tuple[str, ...]:
    """What its path may be: labels may start at the source, one above it, or in an archive."""
    member = split_member(root / image.path)[1]
    inside = () if member is None else (member,)
    return image.path, f"{image.source}/{image.path}", *inside


def _files(images: Sequence[AnnotatedImage], folder: Path) -> dict[int, Path]:
    """Those image files of the labels that lie beside them, by id."""
    found = {}
    for image in images:
        for beside in _FOLDERS:
            file = folder / beside / image.file_name
            if file.is_file():
                found[image.id] = file
    return found
