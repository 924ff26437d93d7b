"""Image folders of a classification task, and their embeddings, kept unit by unit.

pool/**.jpg               to choose from
labelled/apple/**.jpg     one folder a class; the reference set has the same ones
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.console import Progress
from vildcli.data.images import read_image
from vildcli.errors import DataError
from vildcli.labelling.sources import find_images
from vildcli.runs import write_atomically
from vildcli.teacher.crops import ImageEncoder, cut_crops, encode_crops

UNIT = 256  # images of a part


@dataclass(frozen=True, slots=True)
class Folder:
    """The images of a folder, sorted.

    Attributes:
        classes: the class of each image; empty for a pool, whose own folders say nothing.
    """

    root: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedded:
    """The images of a folder that could be read.

    Attributes:
        rows: their places in the folder.
        embeddings: [N, D] unit norm, float32.
        hashes: SHA-256 of their files.
        failed: why the others could not be, by place.
    """

    rows: tuple[int, ...]
    embeddings: Tensor
    hashes: tuple[str, ...]
    failed: dict[int, str]


def find_pool(root: Path) -> Folder:
    """The images of a folder; raises as `find_images` does."""
    return Folder(root, _files(root))


def find_classes(root: Path) -> Folder:
    """The images of a folder with one folder a class.

    Raises:
        DataError: an image is in no class, or there are fewer than two classes.
        NothingToDoError: there is no image.
    """
    files = _files(root)
    parts = [file.relative_to(root.absolute()).parts for file in files]
    loose = [part[0] for part in parts if len(part) == 1]
    if loose:
        raise DataError(
            f"{root} has images in no class folder: {len(loose)}; the first is {loose[0]}.",
            hint="Put each image into a folder that is named for its class.",
        )
    classes = tuple(part[0] for part in parts)
    if len(set(classes)) < 2:
        raise DataError(f"{root} has the class {classes[0]} alone.", hint="Give two or more.")
    return Folder(root, files, classes)


def refuse_other_classes(labelled: Folder, reference: Folder) -> None:
    """Refuse a reference set of other classes.

    Raises:
        DataError: it has some that the labelled images lack.
    """
    unknown = sorted({*reference.classes} - {*labelled.classes})
    if unknown:
        raise DataError(
            f"{reference.root} has classes that {labelled.root} lacks: {', '.join(unknown[:5])}.",
            hint="Both need the same folders.",
        )


def embed_folder(
    folder: Folder, encoder: ImageEncoder, work: Path, *, progress: Progress
) -> Embedded:
    """Embed whole images as the encoder's own preprocessing shows them, or go on doing so.

    Args:
        work: where parts are kept; they are of these files and this encoder alone.
    """
    parts = work / f"embeddings-{_key(folder, encoder)}"
    rows: list[int] = []
    hashes: list[str] = []
    failed: dict[int, str] = {}
    kept: list[Tensor] = []
    with progress(f"Embedding {folder.root.name}", len(folder.files)) as advance:
        for start in range(0, len(folder.files), UNIT):
            files = folder.files[start : start + UNIT]
            part = parts / f"{start // UNIT:06d}.safetensors"
            if not part.exists():
                _write_part(part, files, encoder)
            embeddings, said = _read_part(part)
            kept.append(embeddings)
            rows += [start + row for row in said["rows"]]
            hashes += said["hashes"]
            failed |= {start + int(row): reason for row, reason in said["failed"].items()}
            advance(len(files))
    return Embedded(tuple(rows), torch.cat(kept), tuple(hashes), failed)


def _files(root: Path) -> tuple[Path, ...]:
    found = find_images([str(root)])
    return tuple(found.roots[image.source] / image.path for image in found.images)


def _write_part(part: Path, files: Sequence[Path], encoder: ImageEncoder) -> None:
    rows: list[int] = []
    hashes: list[str] = []
    failed: dict[int, str] = {}
    crops: list[Tensor] = []
    for row, file in enumerate(files):
        try:
            image = read_image(file)
        except DataError as error:
            failed[row] = str(error)
            continue
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
        whole = torch.tensor([[0.0, 0.0, image.width, image.height]])
        crops.append(cut_crops(pixels, whole, 1.0, encoder.recipe)[0])
        rows.append(row)
        hashes.append(image.sha256)
    size = encoder.recipe.size
    stacked = torch.stack(crops) if crops else torch.zeros(0, 3, size, size, dtype=torch.uint8)
    with torch.inference_mode():
        embeddings = normalize(encode_crops(stacked.to(encoder.device), encoder), dim=-1)
    said = {"rows": rows, "hashes": hashes, "failed": failed}
    metadata = {"said": json.dumps(said)}
    tensors = {"embeddings": embeddings.clone()}
    write_atomically(part, lambda path: save_file(tensors, path, metadata))


def _read_part(part: Path) -> tuple[Tensor, dict[str, Any]]:
    with safe_open(part, framework="pt") as file:
        return file.get_tensor("embeddings"), json.loads((file.metadata() or {})["said"])


def _key(folder: Folder, encoder: ImageEncoder) -> str:
    digest = hashlib.sha256(f"{encoder.identity} {encoder.recipe.as_dict()}".encode())
    for file in folder.files:
        status = file.stat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
