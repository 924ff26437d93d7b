"""From scores to probabilities of being right: isotonic regression, temperature scaling. No torch.

Isotonic regression (Zadrozny and Elkan, 2002) fits any rising curve; temperature scaling (Guo et
al., 2017) has one number and needs few labels. How far a probability is from what happens is the
expected calibration error, over 15 bins of equal width as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["isotonic", "temperature"]
METHODS: tuple[Method, ...] = ("isotonic", "temperature")
BINS = 15
_EDGE = 1e-6  # a score of 0 or 1 has no logit
_LARGEST_TEMPERATURE = 1e3
_BISECTIONS = 60

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Scaling = Callable[[Floats], Floats]  # scores [N] to probabilities [N], never falling


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A rising curve through points [K]; level beyond its ends."""

    scores: Floats
    probabilities: Floats

    def __call__(self, scores: Floats) -> Floats:
        return np.interp(scores, self.scores, self.probabilities)


@dataclass(frozen=True, slots=True)
class Temperature:
    """`sigmoid(logit(score) / temperature)`."""

    temperature: float

    def __call__(self, scores: Floats) -> Floats:
        return _sigmoid(_logit(scores) / self.temperature)


def fit_isotonic(scores: Floats, right: Bools) -> Isotonic:
    """The rising curve of least squared error, by pooling adjacent violators.

    Args:
        scores: [N], at least one.
        right: [N].
    """
    points, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    blocks: list[tuple[float, float, int]] = []  # right ones, labels, points
    for block in zip(np.bincount(place, right), weights, [1] * len(points), strict=True):
        blocks.append(block)
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            (r1, n1, k1), (r2, n2, k2) = blocks[-2:]
            blocks[-2:] = [(r1 + r2, n1 + n2, k1 + k2)]
    probabilities = np.repeat([r / n for r, n, _ in blocks], [k for _, _, k in blocks])
    return Isotonic(points, probabilities)


def fit_temperature(scores: Floats, right: Bools) -> Temperature:
    """The temperature of greatest likelihood, within 1/1000 to 1000.

    Args:
        scores: [N] in 0-1.
        right: [N].
    """
    logits, wanted = _logit(scores), right.astype(np.float64)
    low, high = -np.log(_LARGEST_TEMPERATURE), np.log(_LARGEST_TEMPERATURE)
    for _ in range(_BISECTIONS):  # the loss is convex in 1 / temperature
        middle = (low + high) / 2
        slope = ((_sigmoid(logits * np.exp(middle)) - wanted) * logits).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return Temperature(float(np.exp(-(low + high) / 2)))


FIT: dict[Method, Callable[[Floats, Bools], Scaling]] = {
    "isotonic": fit_isotonic,
    "temperature": fit_temperature,
}


@dataclass(frozen=True, slots=True)
class Reliability:
    """What happens in each of B bins of probability; empty bins are left out.

    Attributes:
        probability: mean of the bin, [B] in 0-1.
        share: of its labels that are right, [B].
        labels: [B].
    """

    probability: Floats
    share: Floats
    labels: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error, 0-1."""
        if not self.labels.sum():
            return 0.0
        return float(np.average(np.abs(self.probability - self.share), weights=self.labels))


def reliability(probabilities: Floats, right: Bools, bins: int = BINS) -> Reliability:
    """Compare probabilities [N] in 0-1 with what is right [N], in bins of equal width."""
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    labels = np.bincount(place, minlength=bins)
    some = labels > 0
    sums = (np.bincount(place, values, minlength=bins)[some] for values in (probabilities, right))
    probability, share = (total / labels[some] for total in sums)
    return Reliability(probability, share, labels[some])


def _logit(scores: Floats) -> Floats:
    inside = np.clip(scores, _EDGE, 1 - _EDGE)
    logits: Floats = np.log(inside) - np.log1p(-inside)
    return logits


def _sigmoid(values: Floats) -> Floats:
    # Written with tanh, which never overflows.
    probabilities: Floats = 0.5 + 0.5 * np.tanh(values / 2)
    return probabilities
