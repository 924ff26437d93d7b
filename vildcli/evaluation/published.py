"""The papers' numbers, to stand beside ours: a data file and its rows. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

_FILE = Path(__file__).with_name("published.yaml")
_ANY = "any"  # system of what does not depend on it

Source = Literal["paper", "v1", "released", "port", "quoted"]


@dataclass(frozen=True, slots=True)
class PublishedNumber:
    """One row of a published table.

    Attributes:
        measure: the title of our table that it belongs to.
        setting: backbone, teacher, weight of the loss: what else it holds for.
        source: where it was published.
        values: by our metrics' keys, in percent.
        unverified: remembered, and never checked against the paper.
        sweep: a variant of an ablation.
    """

    protocol: str
    measure: str
    system: str
    setting: str
    source: Source
    values: Mapping[str, float]
    unverified: bool = False
    sweep: bool = False

    @property
    def label(self) -> str:
        """Such as "paper, R50, w = 0.5" or "paper (unverified), R50"."""
        return f"{self.source}{' (unverified)' if self.unverified else ''}, {self.setting}"


@cache
def published_numbers() -> tuple[PublishedNumber, ...]:
    """All of them, in the order of the file."""
    content = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return tuple(PublishedNumber(**row) for row in content["numbers"])


def published_beside(
    protocol: str, measure: str, system: str | None
) -> tuple[PublishedNumber, ...]:
    """What was published of a system under a protocol, sweeps apart."""
    return tuple(
        row
        for row in published_numbers()
        if (row.protocol, row.measure) == (protocol, measure)
        and row.system in (system, _ANY)
        and not row.sweep
    )
