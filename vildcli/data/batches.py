"""Which images make up which batch: epochs, repeats of rare categories, shares of processes.

Everything here is a pure function of the seed and the step, so that a run resumes at any step, on
any number of processes, to the batches of an unbroken one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from typing import NamedTuple

import torch
from torch import Tensor

from vildcli.data.lvis import AnnotationSet
from vildcli.errors import ModelError


class ExampleKey(NamedTuple):
    """What a training example is a function of, besides the seed.

    Attributes:
        row: of the image in the annotation set.
        copy: 0, 1, … where repeat-factor sampling takes the image several times in this epoch; each
            copy is augmented in its own way.
    """

    epoch: int
    row: int
    copy: int = 0


def seeded_generator(*numbers: int) -> torch.Generator:
    """A generator that depends on the numbers alone, in any process on any machine."""
    return torch.Generator().manual_seed(hash(numbers) & 0x7FFF_FFFF_FFFF_FFFF)


def repeat_factors(
    annotations: AnnotationSet, category_ids: Collection[int], threshold: float
) -> list[float]:
    """How often each image is taken an epoch (LVIS, repeat-factor sampling).

    r(c) = max(1, sqrt(threshold / f(c))), where f(c) is the share of all images that hold category
    c; an image is taken as often as its rarest category asks, 1 without any.

    Args:
        category_ids: base categories; annotations of others, and crowds, count for nothing.
    """
    counted = frozenset(category_ids)
    held = [
        {
            a.category_id
            for a in annotations.annotations.get(image.id, ())
            if a.category_id in counted and not a.iscrowd
        }
        for image in annotations.images
    ]
    images = Counter(chain.from_iterable(held))
    factors = {c: max(1.0, math.sqrt(threshold * len(held) / n)) for c, n in images.items()}
    return [max((factors[c] for c in categories), default=1.0) for categories in held]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Batches of keys from a step on, for one of several processes.

    Each epoch is a permutation of the images, each image once or by its repeat factor: r times
    where r is whole, else rounded up with probability frac(r), anew every epoch. A batch may run
    over the end of an epoch into the next.

    Attributes:
        batch: images a step, over all processes.
        repeat_factors: one an image, at least 1; None takes every image once.
        rank: of this process among `world`. It gets the places rank·batch/world … of every batch,
            in order: example i of its share has the place rank·len(share) + i in the batch, which
            is what randomness may be seeded by.

    Raises:
        ModelError: the batch cannot be shared evenly.
    """

    images: int
    batch: int
    seed: int
    first_step: int
    steps: int
    repeat_factors: Sequence[float] | None = None
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        assert self.images > 0, "a plan without images never fills a batch"
        assert 0 <= self.rank < self.world, f"rank {self.rank} of {self.world}"
        if self.batch % self.world:
            raise ModelError(
                f"A batch of {self.batch} images cannot be shared by {self.world} processes.",
                hint=f"Choose a batch that is a multiple of {self.world}.",
            )

    def __iter__(self) -> Iterator[list[ExampleKey]]:
        share = self.batch // self.world
        keys = self._keys(self.first_step * self.batch)
        for _ in range(self.first_step, self.steps):
            yield list(islice(keys, self.batch))[self.rank * share : (self.rank + 1) * share]

    def __len__(self) -> int:
        return self.steps - self.first_step

    def starting_at(self, step: int) -> BatchPlan:
        return replace(self, first_step=step)

    def _keys(self, position: int) -> Iterator[ExampleKey]:
        """All keys of the run from a position on, without end."""
        first = 0
        if self.repeat_factors is None:  # epochs of one length: begin at the right one
            first, position = divmod(position, self.images)
        for epoch, times, generator in self._epochs(first):
            length = int(times.sum())
            if position < length:
                rows = torch.arange(self.images).repeat_interleave(times)
                copies = torch.arange(length) - (times.cumsum(0) - times)[rows]
                order = torch.randperm(length, generator=generator)[position:]
                for row, copy in zip(rows[order].tolist(), copies[order].tolist(), strict=True):
                    yield ExampleKey(epoch, row, copy)
            position = max(0, position - length)

    def _epochs(self, first: int) -> Iterator[tuple[int, Tensor, torch.Generator]]:
        """Number, how often each image is taken [images], and the generator of the order."""
        factors = torch.ones(self.images, dtype=torch.float64)
        if self.repeat_factors is not None:
            factors = torch.tensor(self.repeat_factors, dtype=torch.float64)
        whole, rest = factors.floor().long(), factors.frac()
        for epoch in count(first):
            generator = seeded_generator(self.seed, epoch)
            drawn = torch.rand(self.images, dtype=torch.float64, generator=generator)
            yield epoch, whole + (drawn < rest), generator
