"""Which images of a unit go through the model together, and what happens where they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from vildcli.errors import RunError
from vildcli.types import Regions

Image = TypeVar("Image")
_WAITING = 2  # batches' worth of images that may wait for others of their canvas
_FIRST_BATCH = {"cuda": 16}  # images that --batch auto starts with
_SMALL_BATCH = 8  # elsewhere


class RegionDetector(Protocol):
    """Finds regions, before any word is said."""

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        """Regions of each image, embeddings rounded to float16.

        Args:
            images: each [3, H, W] uint8 RGB, upright.
        """

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Size of the frame that an image of this size is seen in: equal ones make a batch."""


def first_batch(device: str) -> int:
    """Images a batch to start with on a kind of device, where memory may turn out to be less."""
    return _FIRST_BATCH.get(device, _SMALL_BATCH)


def batches_by_canvas(
    images: Iterable[Image], canvas: Callable[[Image], Hashable], size: Callable[[], int]
) -> Iterator[list[Image]]:
    """Put images of one canvas together, `size()` at a time; what is left over comes at the end.

    What shares a batch follows from the images and their order alone.
    """
    waiting: dict[Hashable, list[Image]] = {}
    for image in images:
        key = canvas(image)
        waiting.setdefault(key, []).append(image)
        if len(waiting[key]) >= size():
            yield waiting.pop(key)
        elif sum(map(len, waiting.values())) > _WAITING * size():
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


@dataclass(slots=True)
class Forward:
    """Runs batches; where one does not fit into memory, it and all that follow become smaller.

    Attributes:
        size: images a batch, at most.
        may_shrink: False where the user chose the size.
        shrunk: told the sizes before and after.
    """

    detector: RegionDetector
    size: int
    may_shrink: bool = False
    shrunk: Callable[[int, int], None] = lambda before, after: None

    def __call__(self, images: Sequence[Tensor]) -> list[Regions]:
        """Regions of each image.

        Raises:
            RunError: they do not fit into memory, and may not be fewer.
        """
        found: list[Regions] = []
        while len(found) < len(images):
            some = images[len(found) : len(found) + self.size]
            regions = self._try(some)
            if regions is None:
                self._shrink(len(some))
                continue
            assert len(regions) == len(some), f"{len(some)} images, regions of {len(regions)}"
            found += regions
        return found

    def _try(self, images: Sequence[Tensor]) -> list[Regions] | None:
        """None where memory ran out; by then the traceback, which held the tensors, is gone."""
        try:
            return self.detector.regions(images)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _shrink(self, tried: int) -> None:
        if tried == 1:
            raise RunError(
                "A single image is more than the memory of the device holds.",
                hint="Give fewer --regions or another --device.",
            )
        if not self.may_shrink:
            raise RunError(
                f"A batch of {tried} images is more than the memory of the device holds.",
                hint="Give a smaller --batch, or --batch auto; the same command continues.",
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size = tried // 2
        self.shrunk(tried, self.size)


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory ran out, on any device; torch has an error of its own for CUDA only."""
    said = str(error).lower()
    ran_out = ("out of memory" in said, "can't allocate memory" in said)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(ran_out)
