"""The images of annotation sets and labelling runs as one list.

Annotation sets know no hash: images match by relative path, else by a file name that only one image
of each side has, else by hash where the files are at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vildcli.data.matching import ImageFile, match_images
from vildcli.errors import DataError, RunError
from vildcli.export.coco import coco_image
from vildcli.export.selection import Selection
from vildcli.labelling.records import OK
from vildcli.merging.inputs import Input, SetInput
from vildcli.runs import file_sha256


@dataclass(slots=True)
class SetImage:
    """One image of the result.

    Attributes:
        row: its COCO object; of a set as it was, but for the id.
        added_by: name of the first input that has it.
        sha256: where a run says so.
        members: of each input (its place) that has it, its id there.
    """

    row: dict[str, Any]
    added_by: str
    sha256: str | None = None
    members: dict[int, int] = field(default_factory=dict)

    @property
    def id(self) -> int:
        return int(self.row["id"])

    @property
    def size(self) -> tuple[int, int]:
        return self.row["width"], self.row["height"]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An image of one input: how it is matched, and what it would add."""

    file: ImageFile
    row: dict[str, Any]
    sha256: str | None


def merge_images(
    inputs: Sequence[Input], *, images_root: Path | None = None, renumber: bool = False
) -> list[SetImage]:
    """The images of all inputs; an image that several have keeps the first one's id and row.

    Args:
        images_root: folder that all file names start from; images that no name matches are matched
            by the hash of the files there.
        renumber: give free ids to images of later inputs whose own are taken.

    Raises:
        DataError: an image has two sizes or two hashes, or is not under `images_root`.
        RunError: an id stands for two images, and `renumber` is off.
    """
    merged: list[SetImage] = []
    by_id: dict[int, SetImage] = {}
    for place, source in enumerate(inputs):
        found = list(_candidates(source, images_root))
        ids = _match(merged, found, images_root)
        for candidate in found:
            own_id = candidate.file.id
            if own_id in ids:
                image = by_id[ids[own_id]]
                _refuse_other(image, candidate, source)
            else:
                image = _added(candidate, source, by_id, renumber)
                merged.append(image)
                by_id[image.id] = image
            image.sha256 = image.sha256 or candidate.sha256
            image.members[place] = own_id
    return merged


def _candidates(source: Input, images_root: Path | None) -> Iterator[_Candidate]:
    if isinstance(source, SetInput):
        for image, row in zip(source.annotations.images, source.content["images"], strict=True):
            yield _Candidate(ImageFile(image.id, (image.file_name,)), dict(row), None)
        return
    selection = Selection(source.view, images_root=images_root)
    for record in source.view.images():
        if record.status == OK:
            name = selection.name(record)
            names = dict.fromkeys((name, record.path, f"{record.source}/{record.path}"))
            row = coco_image(record, name)
            yield _Candidate(ImageFile(record.image_id, tuple(names)), row, record.sha256)


def _match(
    merged: Sequence[SetImage], found: Sequence[_Candidate], images_root: Path | None
) -> dict[int, int]:
    hashes = {candidate.file.id: candidate.sha256 for candidate in found}
    names = {candidate.file.id: candidate.file.paths[0] for candidate in found}
    by_id = {image.id: image for image in merged}

    @cache
    def hash_of_file(name: str) -> str | None:
        file = images_root / name if images_root is not None else None
        return file_sha256(file) if file is not None and file.is_file() else None

    return match_images(
        [candidate.file for candidate in found],
        [ImageFile(image.id, (_name(image.row),)) for image in merged],
        hash_of_image=lambda id_: hashes[id_] or hash_of_file(names[id_]),
        hash_of_truth=lambda id_: by_id[id_].sha256 or hash_of_file(_name(by_id[id_].row)),
    )


def _name(row: Mapping[str, Any]) -> str:
    """The file name of a row; of LVIS v1, the last two parts of its address."""
    return str(row.get("file_name") or "/".join(str(row["coco_url"]).split("/")[-2:]))


def _refuse_other(image: SetImage, candidate: _Candidate, source: Input) -> None:
    name, row = candidate.file.paths[0], candidate.row
    hint = "Merge labels of the very same images, not of scaled, turned or changed ones."
    said = row["width"] and row["height"] and all(image.size)  # 0 where a tool did not look
    if said and (row["width"], row["height"]) != image.size:
        raise DataError(
            f"{name} is {row['width']} x {row['height']} pixels in {source.name}, and "
            f"{image.size[0]} x {image.size[1]} in {image.added_by}.",
            hint=hint,
        )
    if image.sha256 and candidate.sha256 and image.sha256 != candidate.sha256:
        raise DataError(
            f"{name} is another file in {source.name} than in {image.added_by}: their SHA-256 are "
            f"{candidate.sha256[:12]}… and {image.sha256[:12]}….",
            hint=hint,
        )


def _added(
    candidate: _Candidate, source: Input, by_id: Mapping[int, SetImage], renumber: bool
) -> SetImage:
    row, taken = candidate.row, by_id.get(candidate.file.id)
    if taken is not None:
        if not renumber:
            raise RunError(
                f"The image id {taken.id} is {_name(taken.row)} in {taken.added_by} and "
                f"{_name(row)} in {source.name}.",
                hint=f"--renumber gives {_name(row)} another id; {source.name} keeps the old one.",
            )
        row = {**row, "id": max(by_id) + 1}
    return SetImage(row, source.name)
