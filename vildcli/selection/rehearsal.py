"""How accuracy would have grown, had a strategy chosen: a pool whose classes are known.

Round by round the best images of what is left get their true classes, and the head is trained anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vildcli.runs import write_atomically
from vildcli.selection.classification import (
    EXACT,
    EmbeddedTask,
    Inversion,
    Task,
    accuracy_of,
    as_rows,
    rank,
)
from vildcli.selection.linear_head import fit_head
from vildcli.selection.select import SelectionOptions
from vildcli.selection.strategies import Strategy

ROUNDS = 10


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What was reached with so many labelled images.

    Attributes:
        accuracy: on the evaluation set, 0-1.
    """

    strategy: Strategy
    labelled: int
    accuracy: float


def rehearse(
    task: Task, known: EmbeddedTask, options: SelectionOptions, inversion: Inversion = EXACT
) -> tuple[CurvePoint, ...]:
    """The curve of a strategy, and that of choosing at random, up to ten budgets.

    Args:
        task: with the classes of its pool and of its evaluation set.
    """
    strategies: tuple[Strategy, ...] = (options.strategy, "random")
    return tuple(
        point
        for strategy in dict.fromkeys(strategies)
        for point in _curve(task, known, replace(options, strategy=strategy), inversion)
    )


def _curve(
    task: Task, known: EmbeddedTask, options: SelectionOptions, inversion: Inversion
) -> list[CurvePoint]:
    assert known.evaluation is not None, "accuracy is measured somewhere"
    features, classes = as_rows(task.pool, known.pool, known.names)
    row_of = {place: row for row, place in enumerate(known.pool.rows)}
    count = options.budget.of(len(known.kept))
    left = list(known.kept)
    chosen: list[int] = []
    points: list[CurvePoint] = []
    while True:
        head = fit_head(
            torch.cat([known.labelled[0], features[chosen]]),
            torch.cat([known.labelled[1], classes[chosen]]),
            len(known.names),
        )
        accuracy = accuracy_of(head, known.evaluation)
        points.append(CurvePoint(options.strategy, len(head.labels), accuracy))
        if not left or len(points) > ROUNDS:
            return points
        order, _ = rank(task.pool, known, left, head, options, inversion)
        chosen += [row_of[one.candidate.image_id - 1] for one in order[:count]]
        left = [row for row in left if row not in {*chosen}]


def draw_curve(points: Sequence[CurvePoint], file: Path) -> None:
    """Accuracy by labelled images, a line a strategy; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")  # no pyplot: no state, no display
    axes = figure.subplots()
    for strategy in dict.fromkeys(point.strategy for point in points):
        own = [point for point in points if point.strategy == strategy]
        style = "k--" if strategy == "random" else "o-"
        accuracies = [100 * point.accuracy for point in own]
        axes.plot([p.labelled for p in own], accuracies, style, label=strategy, markersize=3)
    axes.set(xlabel="labelled images", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    metadata = {"Software": None}  # the same numbers give the same bytes
    write_atomically(
        file, lambda path: figure.savefig(path, dpi=110, format="png", metadata=metadata)
    )
