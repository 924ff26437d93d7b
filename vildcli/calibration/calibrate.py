"""Thresholds for a target precision, one a term, from labels that were judged. No torch.

Each frequency group gets a curve from scores to probabilities. The threshold of a term is the
lowest score from which its labels are expected to be right often enough:

    expected(t) = (right labels from t on + 10 g(t)) / (labels from t on + 10)

g(t) is the mean probability of the group's labels from t on: ten labels' worth of belief come from
the group and the rest from the term itself. A term with fewer than 20 judged labels takes the
threshold of its group, a group with fewer that of all labels. Where no score is high enough, the
threshold is 1: nothing is shown.

What a threshold is worth is measured on images that it was not chosen on: both halves in turn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vildcli.calibration.scaling import (
    FIT,
    Bools,
    Floats,
    Method,
    Reliability,
    Scaling,
    reliability,
)
from vildcli.errors import DataError
from vildcli.evaluation.agreement import GROUP_NAMES, Agreement, group_agreements
from vildcli.evaluation.judged import JudgedLabels, term_agreements

ALL = "all"
OWN = "own"
FEWEST = 20  # judged labels from which a term, or a group, gets a threshold of its own
UNREACHABLE = 1.0
_PRIOR = 10.0  # labels' worth of the group's curve
_SLACK = 1e-9  # 0.9 is no binary fraction
_MOST_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A threshold for each term, and the curves behind them.

    Attributes:
        curves: of each group with enough labels, and of all.
        values: score from which labels of a term are shown, 0-1.
        sources: whose labels decided: `own`, the name of a group, or `all`.
        reached: whether the target is expected to be reached at all.
    """

    curves: Mapping[str, Scaling]
    values: Mapping[int, float]
    sources: Mapping[int, str]
    reached: Mapping[int, bool]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds of a run's terms, and what they are worth.

    Attributes:
        groups: rare, common or frequent, for each term.
        labels: judged ones of each term.
        before, after: agreement of each term at the thresholds in use, and at the new ones.
        stored: agreement of each term when every stored label is shown.
        held_out: agreement of each term at thresholds chosen on other images; None where half of
            the images has too few labels to choose any.
        raw, calibrated: scores against what happens, of each group and all; calibrated on other
            images, or on the same ones where `held_out` is None.
    """

    target: float
    method: Method
    thresholds: Thresholds
    groups: Mapping[int, str]
    labels: Mapping[int, int]
    before: tuple[Agreement, ...]
    after: tuple[Agreement, ...]
    stored: tuple[Agreement, ...]
    held_out: tuple[Agreement, ...] | None
    raw: Mapping[str, Reliability]
    calibrated: Mapping[str, Reliability]

    @property
    def too_few(self) -> tuple[Agreement, ...]:
        """Terms with too few labels for a threshold of their own."""
        return tuple(row for row in self.after if self.labels.get(_id(row), 0) < FEWEST)

    @property
    def unreachable(self) -> tuple[Agreement, ...]:
        """Terms of which nothing is shown any more."""
        return tuple(row for row in self.after if not self.thresholds.reached[_id(row)])


def calibrate(
    judged: JudgedLabels,
    groups: Mapping[int, str],
    names: Mapping[int, str],
    in_use: Mapping[int, float],
    *,
    target: float,
    method: Method = "isotonic",
    seed: int = 0,
) -> Calibration:
    """Choose thresholds, and measure them on images that they were not chosen on.

    Args:
        judged: the run's labels.
        groups: rare, common or frequent, for each term that has truth.
        names: of the terms.
        in_use: the thresholds that the run is shown at now.
        target: precision that the shown labels of each term should have, in 0-1.
        method: of the curves.
        seed: which images are in which half.

    Raises:
        DataError: too few labels, or none of them is right.
    """
    _refuse_hopeless(judged)
    chosen = choose_thresholds(judged, groups, target=target, method=method)
    held_out, probabilities = _cross_check(judged, groups, names, target, method, seed)
    if probabilities is None:
        probabilities = _probabilities(chosen.curves, judged, groups)
    floor = dict.fromkeys(groups, 0.0)
    return Calibration(
        target=target,
        method=method,
        thresholds=chosen,
        groups=groups,
        labels=Counter(judged.terms.tolist()),
        before=term_agreements(judged, groups, in_use, names),
        after=term_agreements(judged, groups, chosen.values, names),
        stored=term_agreements(judged, groups, floor, names),
        held_out=held_out,
        raw=_reliabilities(judged, groups, judged.scores),
        calibrated=_reliabilities(judged, groups, probabilities),
    )


def choose_thresholds(
    judged: JudgedLabels, groups: Mapping[int, str], *, target: float, method: Method
) -> Thresholds:
    """Fit the groups' curves and choose a threshold for each term.

    Args:
        judged: at least one label.
    """
    curves: dict[str, Scaling] = {}
    beliefs: dict[str, _Belief] = {}
    for name, rows in _group_rows(judged, groups):
        if rows.sum() >= FEWEST or name == ALL:
            scores = judged.scores[rows]
            curves[name] = FIT[method](scores, judged.right[rows])
            beliefs[name] = _belief(curves[name], scores, target)
    values, sources, reached = {}, {}, {}
    for term, group in groups.items():
        rows = judged.terms == term
        source = group if group in beliefs else ALL
        found = beliefs[source].threshold
        if rows.sum() >= FEWEST:
            found = lowest_score(
                judged.scores[rows], judged.right[rows], target=target, belief=beliefs[source]
            )
            source = OWN
        values[term] = UNREACHABLE if found is None else found
        sources[term], reached[term] = source, found is not None
    return Thresholds(curves, values, sources, reached)


@dataclass(frozen=True, slots=True)
class _Belief:
    """What a group says of a term that nothing else is known of.

    Attributes:
        scores: of the group's labels, falling, [N].
        expected: mean probability of the labels from each of these on, [N].
        threshold: the group's own; None where it does not reach the target.
    """

    scores: Floats
    expected: Floats
    threshold: float | None

    def at(self, points: Floats) -> Floats:
        """What share of labels from a score on is right."""
        places = np.searchsorted(-self.scores, -points, side="right") - 1
        return self.expected[np.maximum(places, 0)]


def _belief(curve: Scaling, scores: Floats, target: float) -> _Belief:
    ranked = -np.sort(-scores)
    probabilities = curve(ranked)
    expected = np.cumsum(probabilities) / np.arange(1, len(ranked) + 1)
    return _Belief(ranked, expected, lowest_score(ranked, probabilities, target=target))


def lowest_score(
    scores: Floats, worth: Floats | Bools, *, target: float, belief: _Belief | None = None
) -> float | None:
    """The lowest score from which labels are expected to be right often enough.

    Args:
        scores: [N].
        worth: [N], whether a label is right, or how probably.
        belief: what the group says, which counts as ten labels; its threshold is one to choose.

    Returns:
        A score in 0-1 that parts the same labels in as few digits as do; None where there is none.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    right = np.append(0.0, np.cumsum(worth[order].astype(np.float64)))
    points = np.unique(ranked)
    if belief is not None and belief.threshold is not None:
        points = np.union1d(points, [belief.threshold])
    count = np.searchsorted(-ranked, -points, side="right")
    if belief is None:
        expected = right[count] / count
    else:
        expected = (right[count] + _PRIOR * belief.at(points)) / (count + _PRIOR)
    good = points[expected >= target - _SLACK]
    if not len(good):
        return None
    lowest = float(good[0])
    below = ranked[ranked < lowest]
    return _short(lowest, float(below[0]) if len(below) else -1.0)


def _short(score: float, below: float) -> float:
    """The score rounded down to as few digits as keep it above the next lower one."""
    for digits in range(2, _MOST_DIGITS):
        whole = int(10**digits)
        rounded = math.floor(score * whole) / whole
        if below < rounded <= score:
            return rounded
    return score


def _cross_check(
    judged: JudgedLabels,
    groups: Mapping[int, str],
    names: Mapping[int, str],
    target: float,
    method: Method,
    seed: int,
) -> tuple[tuple[Agreement, ...] | None, Floats | None]:
    """Agreement at, and probabilities by, what was chosen on the other half of the images."""
    images = np.unique(np.concatenate([judged.images, judged.object_images]))
    images = np.random.default_rng(seed).permutation(images)
    half = len(images) // 2
    halves = [judged.on(part) for part in (images[:half], images[half:])]
    if any(len(part.scores) < FEWEST for part in halves):
        return None, None
    found = []
    probabilities = np.zeros(len(judged.scores))
    for own, other in (halves, halves[::-1]):
        chosen = choose_thresholds(other, groups, target=target, method=method)
        found.append(term_agreements(own, groups, chosen.values, names))
        rows = np.isin(judged.images, own.images)
        probabilities[rows] = _probabilities(chosen.curves, own, groups)
    return tuple(_sum(*pair) for pair in zip(*found, strict=True)), probabilities


def _sum(one: Agreement, other: Agreement) -> Agreement:
    counts = (getattr(one, key) + getattr(other, key) for key in ("objects", "shown", "right"))
    return Agreement(one.id, one.name, one.group, None, *counts)


def _probabilities(
    curves: Mapping[str, Scaling], judged: JudgedLabels, groups: Mapping[int, str]
) -> Floats:
    found = curves[ALL](judged.scores)
    for name, rows in _group_rows(judged, groups):
        if name in curves:
            found[rows] = curves[name](judged.scores[rows])
    return found


def _reliabilities(
    judged: JudgedLabels, groups: Mapping[int, str], probabilities: Floats
) -> dict[str, Reliability]:
    return {
        name: reliability(probabilities[rows], judged.right[rows])
        for name, rows in _group_rows(judged, groups)
        if rows.any()
    }


def _group_rows(judged: JudgedLabels, groups: Mapping[int, str]) -> Iterator[tuple[str, Bools]]:
    """All labels, then those of each group."""
    yield ALL, np.ones(len(judged.terms), bool)
    for name in GROUP_NAMES:
        yield name, np.isin(judged.terms, [term for term, group in groups.items() if group == name])


def _refuse_hopeless(judged: JudgedLabels) -> None:
    count = len(judged.scores)
    if count < FEWEST:
        raise DataError(
            f"The truth can judge {count} label{'s' * (count != 1)} of the run; calibration needs "
            f"{FEWEST}.",
            hint="Label more of the annotated images, with a lower --floor.",
        )
    if not judged.right.any():
        raise DataError(
            f"None of the {count} labels that the truth can judge is right.",
            hint="Look at vildcli evaluate: do names and boxes mean the same on both sides?",
        )


def _id(row: Agreement) -> int:
    assert row.id is not None, "a row of one term"
    return row.id


def group_table(
    calibration: Calibration,
) -> tuple[tuple[str, ...], list[tuple[str | int | float, ...]]]:
    """Columns and rows of what the thresholds are worth and cost: each group, then all."""
    columns = (
        "group", "terms", "labels", "ECE before", "ECE after", "precision before", "recall before",
        "precision", "recall", "held-out precision", "held-out recall", "recall of all stored",
    )  # fmt: skip
    before, after, stored = (
        {row.name: row for row in group_agreements(rows)}
        for rows in (calibration.before, calibration.after, calibration.stored)
    )
    held_out = {row.name: row for row in group_agreements(calibration.held_out or ())}
    terms = Counter(calibration.groups.values())
    terms[ALL] = len(calibration.groups)
    rows: list[tuple[str | int | float, ...]] = []
    for name, row in after.items():
        measured = held_out.get(name)
        rows.append(
            (
                name,
                terms[name],
                stored[name].shown,
                calibration.raw[name].error if name in calibration.raw else "–",
                calibration.calibrated[name].error if name in calibration.calibrated else "–",
                before[name].precision,
                before[name].recall,
                row.precision,
                row.recall,
                "–" if measured is None else measured.precision,
                "–" if measured is None else measured.recall,
                stored[name].recall,
            )
        )
    return columns, rows
