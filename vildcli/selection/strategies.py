"""What an image is worth by the labels it has, and which images differ most. No torch.

The scores of a label are read as Pr(it is right): what ISAL's own code holds itself against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vildcli.selection.pool import Candidate

Strategy = Literal["isal", "entropy", "margin", "coreset", "random", "hybrid"]
STRATEGIES: dict[Strategy, str] = {
    "isal": "the influence on a labelled reference set",
    "entropy": "the least certain box, by entropy",
    "margin": "the least certain box, by margin",
    "coreset": "images unlike all that are chosen or reviewed",
    "random": "at random",
    "hybrid": "many uncertain boxes first, then images unlike each other",
}
RANKED_BY_BOXES: tuple[Strategy, ...] = ("isal", "entropy", "margin", "hybrid")
SHORTLIST = 4  # times the budget, of which hybrid takes the most different ones (PPAL)
# PPAL's weight of a category that is hard: w = 1 + α · u · ln(b (1 - q) + 1), b = exp(1/α) - 1.
_ALPHA, _UPPER = 0.3, 0.2
_AT_ONCE = 256  # covered rows that are compared at a time

Floats = NDArray[np.float64]


def entropy(scores: NDArray[np.float32]) -> Floats:
    """Entropy of right or wrong for each score [K], as a share of ln 2: 1 at a score of ½."""
    p = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
    found: Floats = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return found


def margin(scores: NDArray[np.float32]) -> Floats:
    """1 - |Pr(right) - Pr(wrong)| for each score [K]: 1 at a score of ½."""
    found: Floats = 1 - np.abs(2 * scores.astype(np.float64) - 1)
    return found


def by_entropy(candidates: Sequence[Candidate]) -> Floats:
    """The entropy of each image's least certain box [N]; 0 without boxes."""
    return np.array([entropy(c.scores).max(initial=0.0) for c in candidates])


def by_margin(candidates: Sequence[Candidate]) -> Floats:
    """The margin of each image's least certain box [N]; 0 without boxes."""
    return np.array([margin(c.scores).max(initial=0.0) for c in candidates])


def at_random(candidates: Sequence[Candidate], seed: int) -> Floats:
    return np.random.default_rng(seed).random(len(candidates))


def by_calibrated_entropy(candidates: Sequence[Candidate]) -> Floats:
    """PPAL's first stage [N]: entropies of all boxes, summed, hard categories weighing more.

    A category is as hard as its mean score over the pool is low: the quality that PPAL follows
    through training is not known of a run.
    """
    weights = category_weights(candidates)
    return np.array(
        [
            sum(
                weights[int(category)] * value
                for category, value in zip(c.category_ids, entropy(c.scores), strict=True)
            )
            for c in candidates
        ],
        np.float64,
    )


def category_weights(candidates: Sequence[Candidate]) -> Mapping[int, float]:
    """The weight of each category that occurs, 1 to 1 + its largest."""
    ids = np.concatenate([c.category_ids for c in candidates])
    scores = np.concatenate([c.scores for c in candidates]).astype(np.float64)
    names, places = np.unique(ids, return_inverse=True)
    quality = np.bincount(places, scores) / np.maximum(1, np.bincount(places))
    steepness = np.exp(1 / _ALPHA) - 1
    weights = 1 + _ALPHA * _UPPER * np.log(steepness * (1 - quality) + 1)
    return dict(zip(names.tolist(), weights.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Spread:
    """What k-center took.

    Attributes:
        rows: in the order in which they were taken.
        distances: [N] cosine distance of each row to all that was covered when it was taken; of
            rows that were not, to all that is covered in the end.
    """

    rows: tuple[int, ...]
    distances: NDArray[np.float32]


def k_center(embeddings: NDArray[np.float32], count: int, covered: NDArray[np.float32]) -> Spread:
    """Greedy k-center (core-set): again and again the row farthest from all that is covered.

    Args:
        embeddings: [N, D] unit norm.
        count: rows to take, at most N.
        covered: [M, D] unit norm, what is there already; with none the row nearest the mean leads.
    """
    count = min(count, len(embeddings))
    distances = np.full(len(embeddings), 2.0, np.float32)  # the most that a cosine allows
    for start in range(0, len(covered), _AT_ONCE):
        near = 1 - embeddings @ covered[start : start + _AT_ONCE].T
        distances = np.minimum(distances, near.min(1, initial=2.0))
    rows: list[int] = []
    taken = np.zeros(len(embeddings), bool)
    while len(rows) < count:
        leads = not rows and not len(covered)
        wanted = embeddings @ embeddings.mean(0) if leads else distances
        row = int(np.where(taken, -np.inf, wanted).argmax())
        rows.append(row)
        taken[row] = True
        distances = np.where(
            taken, distances, np.minimum(distances, 1 - embeddings @ embeddings[row])
        )
    return Spread(tuple(rows), distances)
