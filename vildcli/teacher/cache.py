"""The teacher's embeddings of proposals, computed once and read while training.

A folder of kind `teacher`: parts of 256 images, `parts/000000.safetensors`, each with `boxes/<image
id>` [R, 4] (original image frame, float32) and `embeddings/<image id>` [R, D] (unit norm, float16);
memory-mapped when read. A part is renamed into place when whole, so that an interrupted run
continues. A missing image fails before training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vildcli.console import Advance
from vildcli.errors import DataError
from vildcli.runs import write_atomically
from vildcli.teacher.crops import ImageEncoder, embed_regions

PART_IMAGES = 256


def fill_cache(
    folder: Path,
    image_ids: Sequence[int],
    *,
    read: Callable[[int], Tensor],
    propose: Callable[[Tensor], Tensor],
    encoder: ImageEncoder,
    advance: Advance,
) -> None:
    """Compute what is missing of a cache.

    Args:
        folder: an opened run folder; its settings say which teacher, proposals and crops.
        image_ids: in a fixed order; parts are cut from it.
        read: image id to [3, H, W] uint8.
        propose: image to boxes [R, 4], original image frame.
    """
    for part, ids in _parts(image_ids):
        path = _part_path(folder, part)
        if path.exists():
            advance(len(ids))
            continue
        tensors = {}
        for image_id in ids:
            image = read(image_id)
            boxes = propose(image)
            tensors[f"boxes/{image_id}"] = boxes.float().contiguous()
            tensors[f"embeddings/{image_id}"] = embed_regions(image, boxes, encoder).half()
            advance()
        write_atomically(path, partial(save_file, tensors))


def _parts(image_ids: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    for start in range(0, len(image_ids), PART_IMAGES):
        yield start // PART_IMAGES, image_ids[start : start + PART_IMAGES]


def _part_path(folder: Path, part: int) -> Path:
    return folder / "parts" / f"{part:06d}.safetensors"


class TeacherCache:
    """Read access to a filled cache.

    Raises:
        DataError: a part is damaged, or an image is missing: distilling less than was asked for is
            the best-known way to lose half the accuracy without noticing.
    """

    def __init__(self, folder: Path, image_ids: Sequence[int]) -> None:
        self._files: dict[str, Any] = {}
        for path in sorted((folder / "parts").glob("*.safetensors")):
            try:
                file: Any = safe_open(path, framework="pt")
            except SafetensorError as error:
                raise DataError(
                    f"{path} is damaged: {error}.", hint="Delete it, teach again."
                ) from error
            for key in file.keys():  # noqa: SIM118  a safetensors handle is no mapping
                self._files[key] = file
        missing = [i for i in image_ids if f"embeddings/{i}" not in self._files]
        if missing:
            raise DataError(
                f"The teacher cache {folder} lacks {len(missing)} of {len(image_ids)} images "
                f"(first: image {missing[0]}).",
                hint="Run `vildcli teach` with the same data to fill it.",
            )

    def __getitem__(self, image_id: int) -> tuple[Tensor, Tensor]:
        """Boxes [R, 4] in the original image frame and embeddings [R, D] float32."""
        file = self._files[f"boxes/{image_id}"]
        boxes: Tensor = file.get_tensor(f"boxes/{image_id}")
        embeddings: Tensor = file.get_tensor(f"embeddings/{image_id}")
        return boxes, embeddings.to(torch.float32)
