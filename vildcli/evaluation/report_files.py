"""A report as plain values and as a folder of files that people and programs read. No torch.

report.json       all numbers              categories.csv       how each category did
report.md         the same, to be read     failures.csv         what became of each object
terms.csv         of a run, precision and recall of the shown labels of each term
predictions.json  COCO results             precision-recall.png, confusion.png, failures.png
truth.json        the truth they were held against, so that any official package can be run
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vildcli.evaluation.agreement import (
    AGREEMENT_COLUMNS,
    Agreement,
    agreement_cells,
    agreement_values,
    group_agreements,
)
from vildcli.evaluation.failures import NO_NAME, Verdict, confusions
from vildcli.evaluation.predictions import Predictions
from vildcli.evaluation.report import PROPOSAL_RECALL, Report, novel_ids
from vildcli.evaluation.tables import (
    CATEGORY_COLUMNS,
    CategoryRow,
    beside_published,
    category_rows,
    summary_lines,
)
from vildcli.runs import write_atomically, write_json

BESIDE = "Beside published numbers, percent (theirs are of the whole validation set)"
AGREEMENT_TITLE = "Shown labels, at the thresholds in use"
_CONFUSIONS_SHOWN = 10


def report_values(report: Report) -> dict[str, Any]:
    """Everything that a program may want, as JSON has it."""
    subject = report.subject
    values: dict[str, Any] = {
        "subject": subject.seen.name,
        "system": subject.system,
        "protocol": subject.truth.protocol.name,
        "truth": str(subject.truth.path),
        "images": len(subject.truth.annotations.images),
        "objects": len(subject.truth.content["annotations"]),
        "results": {result.title: dict(result.metrics) for result in report.results},
        "by_training": {title: dict(found) for title, found in report.by_training.items()},
        "proposal_recall": dict(report.recalls),
        "outcomes": {name: dict(found) for name, found in report.outcomes.items()},
        "agreement": [agreement_values(row) for row in group_agreements(subject.agreements)],
        "terms": [agreement_values(row) for row in subject.agreements],
        "errors": report.errors and {**asdict(report.errors), "shares": report.errors.shares()},
        "overlap_scores": [asdict(found) for found in subject.overlap_scores],
        "published": {
            title: [asdict(row) for row in rows] for title, rows in report.published.items()
        },
        "not_zero_shot": list(report.zero_shot.leaks),
        "not_known": list(report.zero_shot.doubts),
        "notes": [*subject.notes, *report.warnings],
    }
    return {key: value for key, value in values.items() if value not in ({}, [], None)}


def write_report(report: Report, out: Path, pictures: Sequence[Path] = ()) -> list[Path]:
    """Write all but the pictures, which `report.md` shows at its end; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(report, [picture.name for picture in pictures])
    files = {"report.json": _json(report_values(report)), "report.md": _text(text)}
    subject = report.subject
    for result in report.results[:1]:
        rows = category_rows(subject.truth, result)
        files["categories.csv"] = _csv(CATEGORY_COLUMNS, map(_category_cells, rows))
    if subject.verdicts:
        files["failures.csv"] = _csv(_FAILURE_COLUMNS, _failure_rows(report))
    if subject.agreements:
        cells = map(_agreement_cells, subject.agreements)
        files["terms.csv"] = _csv(AGREEMENT_COLUMNS, cells)
    if subject.predictions is not None:
        files["predictions.json"] = _results(subject.predictions)
        files["truth.json"] = _json(subject.truth.content)
    for name, write in files.items():
        write_atomically(out / name, write)
    return [out / name for name in files]


def markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The report to be read; pictures by file name."""
    subject = report.subject
    truth = subject.truth
    lines = [f"# {subject.seen.name} on {truth.protocol.name}", ""]
    counts = f"{len(truth.annotations.images)} images, {len(truth.content['annotations'])} objects"
    lines += [f"System {subject.system or 'unknown'}; {truth.path.name}: {counts}.", ""]
    lines += [f"**NOT ZERO-SHOT**: {leak}\n" for leak in report.zero_shot.leaks]
    lines += [f"- {note}" for note in (*report.zero_shot.doubts, *subject.notes, *report.warnings)]
    for result in report.results:
        shown = summary_lines(result, truth.protocol.rules)
        lines += ["", f"## {result.title}", "", "```", *shown, "```"]
        lines += _beside(report, result.title, result.metrics)
        if found := report.by_training.get(result.title):
            lines += ["", "By what the model was trained on:", ""]
            lines += _table(tuple(found), [tuple(f"{value:.3f}" for value in found.values())])
    if report.recalls:
        rows = [(key, f"{value:.3f}") for key, value in report.recalls.items()]
        lines += ["", f"## {PROPOSAL_RECALL}", "", *_table(("", "recall"), rows)]
        lines += _beside(report, PROPOSAL_RECALL, report.recalls)
    lines += [
        *_agreement_lines(report),
        *_failure_lines(report),
        *_error_lines(report),
        *_overlap_lines(report),
    ]
    lines += [f"\n![{Path(name).stem}]({name})" for name in pictures]
    return "\n".join(lines) + "\n"


def _beside(report: Report, title: str, metrics: Mapping[str, float]) -> list[str]:
    rows = report.published.get(title, ())
    if not rows:
        return []
    return ["", f"{BESIDE}:", "", *_table(*beside_published(metrics, rows))]


def _agreement_lines(report: Report) -> list[str]:
    if not report.subject.agreements:
        return []
    rows = [_agreement_cells(row) for row in group_agreements(report.subject.agreements)]
    columns = ("names", *AGREEMENT_COLUMNS[4:])
    table = _table(columns, [(row[1], *row[4:]) for row in rows])
    return ["", f"## {AGREEMENT_TITLE}", "", *table, "", "Each term: terms.csv."]


def _agreement_cells(row: Agreement) -> tuple[Any, ...]:
    cells = agreement_cells(row)
    return (*cells[:-3], *(f"{share:.6f}" for share in cells[-3:]))


def _failure_lines(report: Report) -> list[str]:
    if not report.outcomes:
        return []
    rows = [(name, sum(found.values()), *found.values()) for name, found in report.outcomes.items()]
    columns = ("objects", "all", "found", "misclassified", "missed")
    lines = ["", "## What became of the objects", "", *_table(columns, rows)]
    if common := most_confused(report):
        lines += ["", "Novel objects most often called something else:", ""]
        lines += _table(("object", "called", "times"), common)
    return lines


def most_confused(report: Report) -> list[tuple[str, str, int]]:
    """Novel categories and what their objects were most often called, with counts."""
    subject = report.subject
    names = category_names(report)
    counts = confusions(subject.verdicts, novel_ids(subject.truth, subject.seen))
    common = counts.most_common(_CONFUSIONS_SHOWN)
    return [(names[true], names[said], count) for (true, said), count in common]


def category_names(report: Report) -> dict[int, str]:
    """Names by id, with words for a region that has none."""
    names = {c.id: c.name for c in report.subject.truth.annotations.categories}
    return {**names, NO_NAME: "(nothing)"}


def _error_lines(report: Report) -> list[str]:
    if report.errors is None:
        return []
    shares = report.errors.shares()
    rows = [
        (kind, count, f"{100 * report.errors.gains[kind]:.1f}", f"{shares[kind]:.0%}")
        for kind, count in report.errors.counts.items()
    ]
    columns = ("error", "count", "AP50 points if mended", "share")
    return ["", "## What keeps box AP50 down", "", *_table(columns, rows)]


def _overlap_lines(report: Report) -> list[str]:
    found = [row for row in report.subject.overlap_scores if row.regions]
    if not found:
        return []
    rows = [
        (
            f"{row.low:.1f} to {row.high:.1f}",
            row.regions,
            _shown(row.score),
            row.inside,
            _shown(row.inside_score),
        )
        for row in found
    ]
    columns = ("IoU with the object", "regions", "score of its name", "parts of it", "their score")
    return ["", "## Scores by overlap", "", *_table(columns, rows)]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), line(["---"] * len(columns)), *map(line, rows)]


_FAILURE_COLUMNS = (
    "image_id", "file_name", "category", "novel", "outcome", "called", "score", "overlap",
    "x", "y", "width", "height",
)  # fmt: skip


def _failure_rows(report: Report) -> Iterable[tuple[Any, ...]]:
    subject = report.subject
    names = category_names(report)
    files = {image.id: image.file_name for image in subject.truth.annotations.images}
    novel = novel_ids(subject.truth, subject.seen)

    def cells(verdict: Verdict) -> tuple[Any, ...]:
        return (
            verdict.image_id,
            files[verdict.image_id],
            names[verdict.category_id],
            int(verdict.category_id in novel),
            verdict.outcome,
            "" if verdict.said is None else names[verdict.said],
            f"{verdict.score:.4f}",
            f"{verdict.overlap:.4f}",
            *(f"{side:g}" for side in verdict.box),
        )

    return map(cells, subject.verdicts)


def _category_cells(row: CategoryRow) -> tuple[Any, ...]:
    return tuple(f"{v:.6f}" if isinstance(v, float) else v for v in asdict(row).values())


def _json(value: Any) -> Callable[[Path], None]:
    return lambda path: write_json(path, value)


def _text(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows(rows)

    return write


def _results(predictions: Predictions) -> Callable[[Path], None]:
    """COCO results, a line each, never all in memory as text."""

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write("[")
            for i in range(len(predictions)):
                row = {
                    "image_id": int(predictions.image_ids[i]),
                    "category_id": int(predictions.category_ids[i]),
                    "bbox": predictions.boxes[i].tolist(),
                    "score": float(predictions.scores[i]),
                }
                if predictions.masks is not None:
                    row["segmentation"] = predictions.masks[i]
                file.write((",\n" if i else "\n") + json.dumps(row))
            file.write("\n]\n")

    return write
