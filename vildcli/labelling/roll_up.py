"""Labels rolled up: if it is unsure which sparrow, say sparrow, else bird.

    score of an entry = its own score + those of all categories below it, at most 1
    label of a region = from its best category upwards, the first entry that reaches its threshold

The entries are the vocabulary's categories and its `parents`, which have no score of their own
(docs/vocabularies.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vildcli.vocabulary.category import Category, Vocabulary


@dataclass(frozen=True, slots=True)
class RollUp:
    """The ways up.

    Attributes:
        ids: [E] of the entries: C categories in their order, then the parents.
        thresholds: [E] score that an entry has to reach.
        chains: for each category the rows of the entries from itself upwards.
        below: for each entry the columns of the categories that its score adds up.
        groups: [E] group of each entry for suppression within groups; None otherwise.
    """

    ids: Tensor
    thresholds: Tensor
    chains: tuple[tuple[int, ...], ...]
    below: tuple[Tensor, ...]
    groups: Tensor | None = None

    def of_entries(self, scores: Tensor, best: Sequence[int]) -> Tensor:
        """Scores of categories [R, C] to those of entries [R, E]: each region's label alone.

        Args:
            best: [R] column of each region's best category. Other entries, and a region of which
                no entry reaches its threshold, are 0.
        """
        found = scores.new_zeros(len(scores), len(self.ids))
        regions: dict[int, list[int]] = defaultdict(list)
        for region, column in enumerate(best):
            regions[column].append(region)
        for column, rows in regions.items():
            left = torch.tensor(rows)
            for entry in self.chains[column]:
                total = self.sums(scores[left], entry)
                reached = total >= self.thresholds[entry]
                found[left[reached], entry] = total[reached]
                left = left[~reached]
                if not len(left):
                    break
        return found

    def sums(self, scores: Tensor, entry: int) -> Tensor:
        """[R] score of one entry, from those of categories [R, C]."""
        return scores[:, self.below[entry]].sum(1).clamp(max=1)


def make_roll_up(vocabulary: Vocabulary, threshold: float, groups: Tensor | None = None) -> RollUp:
    """Find the ways up in a vocabulary.

    Args:
        threshold: of entries that have none of their own.
        groups: [C] of the categories.
    """
    entries = (*vocabulary.categories, *vocabulary.parents)
    chains = _chains(entries)[: len(vocabulary.categories)]
    below: list[list[int]] = [[] for _ in entries]
    for column, chain in enumerate(chains):
        for entry in chain:
            below[entry].append(column)
    own = [threshold if entry.threshold is None else entry.threshold for entry in entries]
    return RollUp(
        ids=torch.tensor([entry.id for entry in entries]),
        thresholds=torch.tensor(own),
        chains=tuple(chains),
        below=tuple(torch.tensor(columns, dtype=torch.int64) for columns in below),
        # An entry that nothing is below is never a label; its group is no matter.
        groups=None if groups is None else torch.stack([groups[c[0] if c else 0] for c in below]),
    )


def _chains(entries: Sequence[Category]) -> list[tuple[int, ...]]:
    """For each entry the rows from itself to the top; a circle of parents ends where it began."""
    rows = {entry.name: row for row, entry in enumerate(entries)}
    chains = []
    for start in range(len(entries)):
        chain = [start]
        while (parent := rows.get(entries[chain[-1]].parent or "")) is not None:
            if parent in chain:
                break
            chain.append(parent)
        chains.append(tuple(chain))
    return chains
