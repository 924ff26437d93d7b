"""The teacher's embeddings of proposals, computed once and read while training.

A folder of kind `teacher`: parts of at most 256 images, `parts/000000.safetensors`. An image is
keyed by the SHA-256 of its file: `boxes/<sha256>` [R, 4] (original image frame, float32) and
`embeddings/<sha256>` [R, D] (unit norm, float16), memory-mapped when read. Regions that the teacher
chose (`vildcli.teacher.chosen_regions`) have `weights/<sha256>` [R] (float32, 0-1) and
`is_true/<sha256>` [R] (bool) besides. A part's metadata lists its files as they were read: name,
hash, size, time. So any annotation file over the same images is served, a file that has changed is
noticed, and further images are further parts. A part is renamed into place when whole, so that an
interrupted run continues.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vildcli.console import Advance
from vildcli.data.images import DecodedImage, read_image
from vildcli.data.lvis import AnnotatedImage
from vildcli.errors import DataError
from vildcli.runs import file_sha256, refuse_newer, write_atomically
from vildcli.teacher.crops import ImageEncoder, embed_regions

PART_IMAGES = 256
PART_FORMAT = 1
_FORMAT_NAME = "vildcli-teacher-part"
_HASHING_THREADS = 4


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file as it is now. `name` is relative to the image folder."""

    name: str
    path: Path
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class TaughtRegions:
    """Regions of an image, and what the teacher makes of them.

    Attributes:
        boxes: [R, 4] original image frame.
        embeddings: [R, D] unit norm.
        weights: [R] in 0-1, how much each counts when distilled; None where all count alike.
        is_true: [R] bool, which are base ground truth, known where the weights are.
    """

    boxes: Tensor
    embeddings: Tensor
    weights: Tensor | None = None
    is_true: Tensor | None = None

    def tensors(self, sha256: str) -> dict[str, Tensor]:
        """As a part of the cache holds them."""
        named = {
            # Cloned, for proposals may share memory.
            "boxes": self.boxes.float().clone(),
            "embeddings": self.embeddings.half(),
            "weights": None if self.weights is None else self.weights.float().clone(),
            "is_true": None if self.is_true is None else self.is_true.clone(),
        }
        return {f"{kind}/{sha256}": t for kind, t in named.items() if t is not None}


def embed_proposals(
    propose: Callable[[AnnotatedImage, Tensor], Tensor], encoder: ImageEncoder
) -> Callable[[AnnotatedImage, Tensor], TaughtRegions]:
    """What fills a cache with the embeddings of given boxes.

    Args:
        propose: image and its pixels [3, H, W] uint8 to boxes [R, 4], original image frame.
    """

    def regions_of(image: AnnotatedImage, pixels: Tensor) -> TaughtRegions:
        boxes = propose(image, pixels).float()
        return TaughtRegions(boxes, embed_regions(pixels, boxes, encoder))

    return regions_of


def find_image_files(images: Sequence[AnnotatedImage], folder: Path) -> list[ImageFile]:
    """Look every image up, in order; nothing is read.

    Raises:
        DataError: files are missing.
    """
    files, missing = [], []
    for image in images:
        path = folder / image.file_name
        try:
            status = path.stat()
        except OSError:
            missing.append(image.file_name)
            continue
        files.append(ImageFile(image.file_name, path, status.st_size, status.st_mtime_ns))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} image files are not in {folder} "
            f"(first: {missing[0]}).",
            hint="Name the folder that the annotations' file names start from.",
        )
    return files


def fill_cache(
    folder: Path,
    images: Sequence[AnnotatedImage],
    image_folder: Path,
    *,
    regions_of: Callable[[AnnotatedImage, Tensor], TaughtRegions],
    advance: Advance,
) -> int:
    """Embed the images that a cache lacks, or whose files have changed.

    Args:
        folder: an opened run folder; its settings say which teacher, proposals and crops.
        images: in a fixed order; parts are cut from those that are lacking.
        regions_of: image and its pixels [3, H, W] uint8 to its regions.

    Returns:
        How many images were embedded.

    Raises:
        DataError: image files are missing, before the first is embedded; one cannot be decoded.
    """
    index = _read_index(folder)
    hashes = _hashes(index, find_image_files(images, image_folder))
    pending = [image for image, found in zip(images, hashes, strict=True) if found is None]
    advance(len(images) - len(pending))
    for start in range(0, len(pending), PART_IMAGES):
        tensors: dict[str, Tensor] = {}
        read: list[tuple[str, str, int, int]] = []
        for image in pending[start : start + PART_IMAGES]:
            decoded = _decode(image_folder / image.file_name)
            pixels = torch.from_numpy(decoded.pixels).permute(2, 0, 1)
            tensors |= regions_of(image, pixels).tensors(decoded.sha256)
            read.append((image.file_name, decoded.sha256, decoded.bytes, decoded.mtime_ns))
            advance()
        path = folder / "parts" / f"{index.next_part + start // PART_IMAGES:06d}.safetensors"
        # One key, for safetensors writes several in an order of its own.
        metadata = {_FORMAT_NAME: json.dumps({"format": PART_FORMAT, "files": read})}
        write_atomically(path, partial(save_file, tensors, metadata=metadata))
    return len(pending)


class TeacherCache:
    """Read access to a filled cache, by image id of one annotation file.

    It may hold more images than are asked for. It can be pickled: every process opens the parts
    for itself.

    Raises:
        DataError: a part is damaged, or an image is missing or has changed: distilling less than
            was asked for is the best-known way to lose half the accuracy without noticing.
    """

    def __init__(self, folder: Path, images: Sequence[AnnotatedImage], image_folder: Path) -> None:
        index = _read_index(folder)
        hashes = _hashes(index, find_image_files(images, image_folder))
        lacking = [i.file_name for i, found in zip(images, hashes, strict=True) if found is None]
        if changed := [name for name in lacking if name in index.names]:
            raise DataError(
                f"{image_folder / changed[0]} has changed since the teacher saw it "
                f"({len(changed)} of {len(images)} images have).",
                hint="Run `vildcli teach` again with the same options: it embeds what has changed.",
            )
        if lacking:
            raise DataError(
                f"The teacher cache {folder} lacks {len(lacking)} of {len(images)} images "
                f"(first: {lacking[0]}).",
                hint="Run `vildcli teach` with the same data to fill it.",
            )
        self._hashes = {i.id: found for i, found in zip(images, hashes, strict=True) if found}
        self._parts = {found: index.parts[found] for found in self._hashes.values()}
        self._open: dict[Path, tuple[Any, frozenset[str]]] = {}

    def __getitem__(self, image_id: int) -> tuple[Tensor, Tensor]:
        """Boxes [R, 4] in the original image frame and embeddings [R, D] float32."""
        return self.boxes(image_id), self._read("embeddings", image_id).to(torch.float32)

    def boxes(self, image_id: int) -> Tensor:
        """The boxes alone."""
        return self._read("boxes", image_id)

    def weights(self, image_id: int) -> Tensor | None:
        """How much each region counts when distilled, [R] float32 in 0-1; None: all alike.

        1 for base ground truth, else the teacher's confidence.
        """
        return self._read("weights", image_id) if self._has("weights", image_id) else None

    def is_true(self, image_id: int) -> Tensor | None:
        """Which regions are base ground truth, [R] bool; None where no weights are."""
        return self._read("is_true", image_id) if self._has("is_true", image_id) else None

    def _read(self, kind: str, image_id: int) -> Tensor:
        tensor: Tensor = self._part(image_id)[0].get_tensor(f"{kind}/{self._hashes[image_id]}")
        return tensor

    def _has(self, kind: str, image_id: int) -> bool:
        return f"{kind}/{self._hashes[image_id]}" in self._part(image_id)[1]

    def _part(self, image_id: int) -> tuple[Any, frozenset[str]]:
        """The part of an image, and the names of all that it holds."""
        path = self._parts[self._hashes[image_id]]
        if path not in self._open:
            file: Any = safe_open(path, framework="pt")
            self._open[path] = file, frozenset(file.keys())
        return self._open[path]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


@dataclass(frozen=True, slots=True)
class _Index:
    """What a cache holds.

    Attributes:
        parts: the part of each hash.
        seen: the hash of each file as it was read: name, size, time.
        names: of all files that were read.
    """

    parts: Mapping[str, Path]
    seen: Mapping[tuple[str, int, int], str]
    names: frozenset[str]
    next_part: int


def _read_index(folder: Path) -> _Index:
    parts: dict[str, Path] = {}
    seen: dict[tuple[str, int, int], str] = {}
    # Not the names that begin with a dot: a killed process was writing them.
    paths = sorted((folder / "parts").glob(f"{'[0-9]' * 6}.safetensors"))
    for path in paths:
        for name, sha256, size, mtime_ns in _read_files(path):
            parts[sha256] = path
            seen[name, size, mtime_ns] = sha256
    next_part = int(paths[-1].stem) + 1 if paths else 0
    return _Index(parts, seen, frozenset(name for name, _, _ in seen), next_part)


def _read_files(path: Path) -> list[tuple[str, str, int, int]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_FORMAT_NAME])
        refuse_newer(path, about["format"], PART_FORMAT, DataError)
        return [(name, sha256, size, time) for name, sha256, size, time in about["files"]]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged: {error}.", hint="Delete it and run `vildcli teach` again."
        ) from error


def _hashes(index: _Index, files: Sequence[ImageFile]) -> list[str | None]:
    """The entry of each file, None where there is none.

    Only a file that was renamed, touched or moved is read: one of unknown name, size or time, but
    of a size that the cache holds.
    """
    sizes = {size for _, size, _ in index.seen}
    unknown = [f for f in files if (f.name, f.bytes, f.mtime_ns) not in index.seen]
    candidates = [f.path for f in unknown if f.bytes in sizes]
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        hashed = dict(zip(candidates, pool.map(_hash, candidates), strict=True))
    found = [index.seen.get((f.name, f.bytes, f.mtime_ns), hashed.get(f.path)) for f in files]
    return [sha256 if sha256 in index.parts else None for sha256 in found]


def _hash(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _decode(path: Path) -> DecodedImage:
    try:
        return read_image(path)
    except DataError as error:
        raise DataError(
            str(error),
            hint="Replace the file or take the image out of --data; the same command continues.",
        ) from error
