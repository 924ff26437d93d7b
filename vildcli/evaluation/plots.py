"""Curves and matrices of a report as pictures. No torch; matplotlib only while one is drawn."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vildcli.evaluation.failures import Verdict
from vildcli.evaluation.report import Report, novel_ids
from vildcli.evaluation.report_files import category_names
from vildcli.evaluation.result import RECALLS, Result
from vildcli.runs import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES_FILE, CONFUSION_FILE = "precision-recall.png", "confusion.png"
OVERLAP_FILE = "scores-by-overlap.png"
_MISSED = -2  # column of objects that no region overlaps
_DPI = 120
_LARGEST = 20  # categories of the matrix


def draw_curves(report: Report, out: Path) -> Path | None:
    """Precision over recall at IoU 0.5, averaged over categories, of all and of each group.

    Returns:
        The PNG; None where no category has truth.
    """
    drawn = [result for result in report.results if result.categories]
    if not drawn:
        return None
    with _figure(5.0 * len(drawn), 4.2) as figure:
        for axes, result in zip(_row_of_axes(figure, len(drawn)), drawn, strict=True):
            axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", title=result.title)
            axes.set_ylabel("precision at IoU 0.5, mean over categories")
            for name, ids, curve in mean_curves(report, result):
                label = f"{name} ({len(ids)}), AP50 {100 * result.mean_ap50(ids):.1f}"
                axes.plot(np.linspace(0, 1, RECALLS), curve, label=label)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        return _save(figure, out / CURVES_FILE)


def mean_curves(report: Report, result: Result) -> list[tuple[str, list[int], NDArray[np.float64]]]:
    """Name, categories with truth and mean curve [101] of all, then of each group that has any."""
    truth, seen = report.subject.truth, report.subject.seen
    groups = dict(truth.groups)
    if not groups and seen.knows_all:
        groups = {
            "base": frozenset(i for i, known in seen.is_base.items() if known),
            "novel": frozenset(i for i, known in seen.is_base.items() if not known),
        }
    found = []
    for name, ids in {"all": frozenset(result.categories), **groups}.items():
        own = [i for i in sorted(ids) if i in result.categories]
        if own:
            curves = [result.categories[i].curve for i in own]
            found.append((name, own, np.mean(curves, axis=0)))
    return found


def draw_overlap_scores(report: Report, out: Path) -> Path | None:
    """Mean score of an object's name by how much a region overlaps it; parts of it apart.

    Returns:
        The PNG; None where the scores of regions are not known.
    """
    found = [row for row in report.subject.overlap_scores if row.regions]
    if not found:
        return None
    with _figure(5.0, 4.2) as figure:
        axes = figure.add_subplot()
        for label, marker, points in (
            ("all regions", "o", [(row, row.score) for row in found]),
            ("parts of the object", "s", [(row, row.inside_score) for row in found]),
        ):
            known = [((row.low + row.high) / 2, y) for row, y in points if y is not None]
            axes.plot([x for x, _ in known], [y for _, y in known], marker=marker, label=label)
        axes.set(xlim=(0, 1), xlabel="IoU with the object", ylabel="mean score of its name")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        return _save(figure, out / OVERLAP_FILE)


def draw_confusion(report: Report, out: Path) -> Path | None:
    """What objects of the novel categories that fail most often are called.

    Returns:
        The PNG; None where no object was judged.
    """
    subject = report.subject
    rows, columns, counts = confusion_matrix(
        subject.verdicts, novel_ids(subject.truth, subject.seen), limit=_LARGEST
    )
    if not rows:
        return None
    names = {**category_names(report), _MISSED: "(missed)"}
    with _figure(3.5 + 0.32 * len(columns), 2.2 + 0.3 * len(rows)) as figure:
        axes = figure.add_subplot()
        shares = counts / counts.sum(axis=1, keepdims=True)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), [names[c] for c in columns], rotation=90, fontsize=8)
        axes.set_yticks(range(len(rows)), [names[r] for r in rows], fontsize=8)
        axes.set(xlabel="the surest region there is called", ylabel="object")
        for y, x in zip(*np.nonzero(counts), strict=True):
            ink = "white" if shares[y, x] > 0.5 else "black"
            axes.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=7, color=ink)
        return _save(figure, out / CONFUSION_FILE)


def confusion_matrix(
    verdicts: Sequence[Verdict], category_ids: frozenset[int], *, limit: int
) -> tuple[list[int], list[int], NDArray[np.int64]]:
    """Counts of what objects are called, for the categories with most failures.

    Returns:
        True ids [R], said ids [S] (the same ones first, then others by count, no name, missed),
        counts [R, S].
    """
    own = [v for v in verdicts if v.category_id in category_ids]
    failures = Counter(v.category_id for v in own if v.outcome != "found")
    objects = Counter(v.category_id for v in own)
    ranked = sorted(objects, key=lambda i: (-failures[i], -objects[i], i))
    rows = sorted(ranked[:limit])
    said = Counter(_MISSED if v.said is None else v.said for v in own if v.category_id in set(rows))
    others = [i for i, _ in said.most_common() if i not in rows]
    named = [i for i in others if i >= 0][:limit]
    columns = rows + named + [i for i in others if i < 0]
    counts = np.zeros((len(rows), len(columns)), np.int64)
    for verdict in own:
        place = _MISSED if verdict.said is None else verdict.said
        if verdict.category_id in rows and place in columns:
            counts[rows.index(verdict.category_id), columns.index(place)] += 1
    return rows, columns, counts


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure without pyplot, whose state is the process's; its warnings of fonts are dropped."""
    from matplotlib.figure import Figure

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _row_of_axes(figure: Figure, count: int) -> list[Any]:
    return list(np.atleast_1d(figure.subplots(1, count)))


def _save(figure: Figure, path: Path) -> Path:
    # Without the version of matplotlib in the file, the same numbers give the same bytes.
    write: Callable[[Path], None] = lambda beside: figure.savefig(  # noqa: E731
        beside, format="png", metadata={"Software": None}
    )
    write_atomically(path, write)
    return path
