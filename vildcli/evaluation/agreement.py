"""How labels that are shown agree with the truth: by term, by frequency group. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vildcli.evaluation.result import ABSENT

GROUP_NAMES = ("rare", "common", "frequent")  # as LVIS calls them


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the shown labels of a term, or of several, agree with the truth.

    Attributes:
        id: of the run's vocabulary; None for several terms.
        group: rare, common or frequent.
        threshold: score from which labels are shown; None where it differs between terms.
        objects: that should have been found.
        shown: judged labels from the threshold on.
        right: of these.
    """

    id: int | None
    name: str
    group: str
    threshold: float | None
    objects: int
    shown: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.shown if self.shown else ABSENT

    @property
    def recall(self) -> float:
        return self.right / self.objects if self.objects else ABSENT

    @property
    def f1(self) -> float:
        both = self.shown + self.objects
        return 2 * self.right / both if both else ABSENT


AGREEMENT_COLUMNS = (
    "id", "name", "group", "threshold", "objects", "shown", "right", "precision", "recall", "F1",
)  # fmt: skip


def agreement_cells(row: Agreement) -> tuple[Any, ...]:
    """The row as a table or a file has it, in the order of `AGREEMENT_COLUMNS`."""
    counts = (row.objects, row.shown, row.right)
    id_ = "" if row.id is None else row.id
    threshold = "" if row.threshold is None else row.threshold
    return (id_, row.name, row.group, threshold, *counts, row.precision, row.recall, row.f1)


def agreement_values(row: Agreement) -> dict[str, Any]:
    """The row as JSON has it: keys as the columns', without those that are empty."""
    cells = zip(AGREEMENT_COLUMNS, agreement_cells(row), strict=True)
    return {name: value for name, value in cells if value != ""}


def shown_cells(row: Iterable[Any]) -> tuple[Any, ...]:
    """The row as a person reads it: a dash where there was nothing to count."""
    return tuple("–" if cell == ABSENT else cell for cell in row)


def group_agreements(terms: Iterable[Agreement]) -> tuple[Agreement, ...]:
    """The same of each group that has terms, and of all."""
    rows = list(terms)
    found = []
    for name in (*GROUP_NAMES, "all"):
        own = [row for row in rows if name in (row.group, "all")]
        if own:
            sums = (sum(getattr(r, key) for r in own) for key in ("objects", "shown", "right"))
            found.append(Agreement(None, name, name, None, *sums))
    return tuple(found)
