"""What a merge made of its inputs, for people and for `--json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
OVERLAPS = "under a better label of another input"


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """Counts of one merge.

    Attributes:
        kind: `labelling run` or `annotation set`.
        images, labels: of the result.
        given, kept: labels of each input, and how many of them the result has.
        left_out: how many of the others are not in it, by the reason.
        notes: what else a person should know.
    """

    out: Path
    kind: str
    images: int
    labels: int
    given: dict[str, int]
    kept: dict[str, int]
    left_out: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """Labels added up while a merge goes on, by the name of their input; `left_out` by reason."""

    given: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def cut(self, labels: Sequence[T], stay: Sequence[bool], why: str) -> list[T]:
        """The labels that stay; the others are counted under their reason."""
        self.left_out[why] += len(stay) - sum(stay)
        return [label for label, stays in zip(labels, stay, strict=True) if stays]

    def summary(
        self,
        out: Path,
        *,
        kind: str,
        images: int,
        labels: int,
        inputs: Sequence[str],
        notes: Sequence[str] = (),
    ) -> MergeSummary:
        return MergeSummary(
            out=out,
            kind=kind,
            images=images,
            labels=labels,
            given={name: self.given[name] for name in inputs},
            kept={name: self.kept[name] for name in inputs},
            left_out={why: number for why, number in self.left_out.items() if number},
            notes=tuple(notes),
        )
