"""Ranks the unreviewed images of a run by a strategy and takes as many as the budget allows.

No torch: the influences that `isal` ranks by come from `influence`, everything else from records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vildcli.errors import NothingToDoError
from vildcli.labelling.duplicates import find_duplicates
from vildcli.labelling.thresholds import RunView
from vildcli.selection.choice import Effort, Per, Valued, copies_last, embedded, ranked, valued
from vildcli.selection.pool import Candidate, Pool, read_embeddings
from vildcli.selection.strategies import (
    RANKED_BY_BOXES,
    SHORTLIST,
    Strategy,
    at_random,
    by_calibrated_entropy,
    by_entropy,
    by_margin,
    k_center,
)


@dataclass(frozen=True, slots=True)
class Budget:
    """How many images are chosen: a number, or a share of those that may be."""

    images: int | None = None
    share: float | None = None

    def of(self, candidates: int) -> int:
        wanted = self.images if self.share is None else max(1, round(self.share * candidates))
        return min(wanted or 0, candidates)


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """How images are chosen.

    Attributes:
        per: what the value of an image is divided by before images are ranked.
        diverse: choose an image that shows what another shows only after all others.
        seed: of `random`.
    """

    strategy: Strategy
    budget: Budget
    per: Per = "image"
    diverse: bool = False
    effort: Effort = field(default_factory=Effort)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen of a pool.

    Attributes:
        chosen: in the order in which they are to be reviewed.
        others: that could be chosen later, best first.
        left_out: that the strategy says nothing about: images without any pseudo box, or for
            `coreset` without any region.
    """

    options: SelectionOptions
    chosen: tuple[Valued, ...]
    others: tuple[Valued, ...]
    left_out: tuple[Candidate, ...]

    @property
    def minutes(self) -> float:
        return sum(one.minutes for one in self.chosen)


def select(
    view: RunView,
    pool: Pool,
    options: SelectionOptions,
    influences: Mapping[int, float] | None = None,
) -> Selection:
    """Choose images of a pool.

    Args:
        influences: of `isal`, by image id; the most negative is the most valuable.

    Raises:
        DataError: `coreset` and `hybrid` want image embeddings, and the run holds none.
        NothingToDoError: no image has what the strategy looks at.
    """
    candidates = pool.candidates
    if options.strategy in RANKED_BY_BOXES:
        candidates = tuple(c for c in candidates if len(c.scores))
    if influences is not None:  # those that could be read
        candidates = tuple(c for c in candidates if c.image_id in influences)
    order = _order(view, pool, candidates, options, influences) if candidates else []
    if not order:
        raise NothingToDoError(
            f"{view.run} has no unreviewed image with "
            f"{'a region' if options.strategy == 'coreset' else 'a pseudo box'}.",
            hint="Give a lower --pseudo-score, or --strategy random.",
        )
    if options.diverse:
        found = find_duplicates(view.run)
        order = copies_last(order, (*found.exact, *found.near), pool.reviewed)
    count = options.budget.of(len(order))
    ids = {one.candidate.image_id for one in order}
    left_out = tuple(c for c in pool.candidates if c.image_id not in ids)
    return Selection(options, tuple(order[:count]), tuple(order[count:]), left_out)


def _order(
    view: RunView,
    pool: Pool,
    candidates: Sequence[Candidate],
    options: SelectionOptions,
    influences: Mapping[int, float] | None,
) -> list[Valued]:
    effort, per = options.effort, options.per
    if options.strategy == "coreset":
        return _most_different(view, pool, candidates, options)
    if options.strategy == "hybrid":
        return _hybrid(view, pool, candidates, options)
    if options.strategy == "isal":
        assert influences is not None, "isal ranks by influences"
        values = np.array([-influences[c.image_id] for c in candidates])
    elif options.strategy == "random":
        values = at_random(candidates, options.seed)
    else:
        values = {"entropy": by_entropy, "margin": by_margin}[options.strategy](candidates)
    return ranked(valued(candidates, values, effort), per)


def _most_different(
    view: RunView, pool: Pool, candidates: Sequence[Candidate], options: SelectionOptions
) -> list[Valued]:
    embeddings = read_embeddings(view)
    kept, rows = embedded(candidates, embeddings)
    covered = _of_reviewed(pool, embeddings)
    spread = k_center(rows, options.budget.of(len(kept)), covered)
    found = valued(kept, spread.distances.astype(np.float64), options.effort)
    return _in_front(found, spread.rows, "image")


def _hybrid(
    view: RunView, pool: Pool, candidates: Sequence[Candidate], options: SelectionOptions
) -> list[Valued]:
    """PPAL's two stages: a shortlist of what is hard, of which the most different are taken."""
    embeddings = read_embeddings(view)
    candidates, _ = embedded(candidates, embeddings)
    found = valued(candidates, by_calibrated_entropy(candidates), options.effort)
    order = ranked(found, options.per)
    count = options.budget.of(len(order))
    shortlist, rest = order[: SHORTLIST * count], order[SHORTLIST * count :]
    _, rows = embedded([one.candidate for one in shortlist], embeddings)
    spread = k_center(rows, count, _of_reviewed(pool, embeddings))
    return [*_in_front(shortlist, spread.rows, options.per), *rest]


def _of_reviewed(pool: Pool, embeddings: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    width = len(next(iter(embeddings.values())))
    rows = [embeddings[i] for i in sorted(pool.reviewed) if i in embeddings]
    return np.stack(rows) if rows else np.empty((0, width), np.float32)


def _in_front(found: Sequence[Valued], rows: Sequence[int], per: Per) -> list[Valued]:
    """The given rows in their order, then the others as ranked."""
    taken = set(rows)
    others = [one for place, one in enumerate(found) if place not in taken]
    return [*(found[row] for row in rows), *ranked(others, per)]
