"""From what images are worth to the ones that are chosen: effort, copies, the budget. No torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vildcli.selection.pool import Candidate
from vildcli.selection.strategies import Floats

Per = Literal["image", "box", "minute"]


@dataclass(frozen=True, slots=True)
class Effort:
    """What reviewing costs, in seconds."""

    image: float = 10.0
    box: float = 5.0

    def minutes(self, candidate: Candidate) -> float:
        """Expected minutes for one image: looking at it, and at each of its pseudo boxes."""
        return (self.image + self.box * len(candidate.scores)) / 60


@dataclass(frozen=True, slots=True)
class Valued:
    """A candidate and what it is worth.

    Attributes:
        value: the larger, the sooner it is chosen.
        minutes: of expected work.
    """

    candidate: Candidate
    value: float
    minutes: float

    @property
    def per_box(self) -> float:
        return self.value / max(1, len(self.candidate.scores))

    @property
    def per_minute(self) -> float:
        return self.value / self.minutes

    def ranked_by(self, per: Per) -> float:
        return {"image": self.value, "box": self.per_box, "minute": self.per_minute}[per]


def valued(candidates: Sequence[Candidate], values: Floats, effort: Effort) -> list[Valued]:
    """Put candidates, their values [N] and their effort together."""
    return [
        Valued(candidate, float(value), effort.minutes(candidate))
        for candidate, value in zip(candidates, values, strict=True)
    ]


def ranked(found: Sequence[Valued], per: Per = "image") -> list[Valued]:
    """The most valuable first; of equals the first of the run. What has no value comes last."""

    def key(one: Valued) -> tuple[bool, float, int]:
        value = one.ranked_by(per)
        return math.isnan(value), -value, one.candidate.image_id

    return sorted(found, key=key)


def copies_last(
    order: Sequence[Valued], groups: Sequence[Sequence[int]], seen: Collection[int]
) -> list[Valued]:
    """Put images behind all others that show what an earlier one, or a reviewed one, shows.

    Args:
        groups: image ids of much the same content.
        seen: ids of reviewed images.
    """
    group_of = {image_id: number for number, ids in enumerate(groups) for image_id in ids}
    taken = {group_of[image_id] for image_id in seen if image_id in group_of}
    first: list[Valued] = []
    later: list[Valued] = []
    for one in order:
        group = group_of.get(one.candidate.image_id)
        (later if group in taken else first).append(one)
        if group is not None:
            taken.add(group)
    return [*first, *later]


def embedded(
    candidates: Sequence[Candidate], embeddings: Mapping[int, NDArray[np.float32]]
) -> tuple[list[Candidate], NDArray[np.float32]]:
    """The candidates that have an embedding, and those embeddings [N, D]."""
    kept = [c for c in candidates if c.image_id in embeddings]
    width = len(next(iter(embeddings.values())))
    rows = [embeddings[c.image_id] for c in kept]
    return kept, np.stack(rows) if rows else np.empty((0, width), np.float32)
