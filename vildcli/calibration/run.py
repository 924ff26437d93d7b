"""A labelling run calibrated against an annotation set, and the files that come of it. No torch."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.calibration.calibrate import Calibration, calibrate, group_table
from vildcli.calibration.plot import draw_reliability
from vildcli.calibration.scaling import Method
from vildcli.calibration.vocabulary import with_thresholds
from vildcli.evaluation.judged import frequency_groups, judge_labels
from vildcli.evaluation.run import match_run
from vildcli.evaluation.truth import load_truth
from vildcli.labelling.thresholds import VOCABULARY_FILE
from vildcli.runs import file_sha256, read_run, write_atomically
from vildcli.vocabulary.category import Vocabulary
from vildcli.vocabulary.files import load_vocabulary, save_vocabulary

TERM_COLUMNS = (
    "id", "name", "group", "labels", "objects", "threshold before", "threshold", "from",
    "precision before", "recall before", "precision", "recall", "recall of all stored",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CalibratedRun:
    """What became of one run.

    Attributes:
        vocabulary: with the thresholds, ready to be saved.
        notes: what was left out, with counts.
    """

    vocabulary: Vocabulary
    calibration: Calibration
    notes: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """All numbers, as JSON has them."""
        columns, rows = group_table(self.calibration)
        return {
            "target_precision": self.calibration.target,
            "method": self.calibration.method,
            "groups": [dict(zip(columns, row, strict=True)) for row in rows],
            "terms": [
                dict(zip(TERM_COLUMNS, row, strict=True)) for row in term_rows(self.calibration)
            ],
            "too_few": [row.id for row in self.calibration.too_few],
            "unreachable": [row.id for row in self.calibration.unreachable],
            "notes": list(self.notes),
        }


def calibrate_run(
    run: Path,
    truth: Path,
    *,
    target: float,
    method: Method = "isotonic",
    images: Path | None = None,
) -> CalibratedRun:
    """Choose thresholds for the terms of a run that an annotation set knows.

    Args:
        run: a labelling run, complete or not.
        truth: as for `load_truth`, of some of its images and names.
        target: precision that the shown labels of each term should have, in 0-1.
        images: folder of the truth's images: what no name matches is matched by hash.

    Raises:
        RunError: `run` cannot be read.
        DataError: nothing matches, or there are too few labels to learn from.
    """
    matched = match_run(run, load_truth(truth), images=images)
    judged = judge_labels(matched)
    found = calibrate(
        judged,
        frequency_groups(matched),
        {id_: category.name for id_, category in matched.view.categories.items()},
        matched.view.thresholds,
        target=target,
        method=method,
    )
    vocabulary = with_thresholds(
        load_vocabulary(run / VOCABULARY_FILE),
        found,
        read_run(run, "labelling")["settings"],
        truth=file_sha256(truth)[:16] if truth.is_file() else truth.name,
    )
    notes = list(matched.notes)
    if judged.unjudged:
        notes.append(f"The truth cannot judge {judged.unjudged} labels; they are left out.")
    return CalibratedRun(vocabulary, found, tuple(notes))


def write_calibration(found: CalibratedRun, out: Path, *, table: Path, plot: Path) -> None:
    """Write plot and table, then the vocabulary, each whole or not at all."""
    draw_reliability(found.calibration, plot)
    rows = term_rows(found.calibration)

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(TERM_COLUMNS)
            lines.writerows(rows)

    write_atomically(table, write)
    save_vocabulary(found.vocabulary, out)


def term_rows(calibration: Calibration) -> list[tuple[Any, ...]]:
    """What each threshold is worth on the labels that it was chosen by, and what it costs."""
    stored: Mapping[int | None, float] = {row.id: row.recall for row in calibration.stored}
    rows = []
    for was, row in zip(calibration.before, calibration.after, strict=True):
        assert row.id is not None, "a row of one term"
        rows.append(
            (
                row.id,
                row.name,
                row.group,
                calibration.labels.get(row.id, 0),
                row.objects,
                was.threshold,
                row.threshold,
                calibration.thresholds.sources[row.id],
                was.precision,
                was.recall,
                row.precision,
                row.recall,
                stored[row.id],
            )
        )
    return rows
