"""`vildcli evaluate`: average precision of a model or a labelling run on an annotation set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console

if TYPE_CHECKING:
    from vildcli.evaluation.report import Report, Subject
    from vildcli.evaluation.truth import Truth

EXAMPLE = """\
\b
Examples:
  vildcli evaluate --model demo/vild-ensemble --truth demo/world/val.json --images demo/world/val
  vildcli evaluate runs/photos --truth annotations.json
  vildcli evaluate --model M --truth VOC2007/ImageSets/Main/test.txt --images VOC2007/JPEGImages
"""
PROTOCOLS = ("lvis", "coco", "coco-48-17", "coco-65-15", "voc", "objects365")
_OF_CROPS = ("clip-on-crops", "vild-text-clip")  # systems
_PATH = click.Path(exists=True, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_MODEL_CHOICES = ("teacher", "prompts", "text_bank", "fusion", "device", "offline")


@click.command(epilog=EXAMPLE)
@click.argument("run", required=False, type=_FOLDER)
@click.option("--model", metavar="M", help="A model file, a training run, or clip-on-crops.")
@click.option(
    "--truth",
    type=_PATH,
    required=True,
    help="LVIS or COCO JSON; of VOC its folder or a list of ImageSets/Main.",
)
@click.option("--images", type=_FOLDER, help="Folder of the truth's images.")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="Whose rules.  [default: those the truth is made for]",
)
@click.option("--proposals", is_flag=True, help="Recall of proposals instead, whatever their name.")
@click.option("--fixed", is_flag=True, help="LVIS: fixed AP too, a number apart (slow).")
@click.option("--strict", is_flag=True, help="Refuse what is not zero-shot, or may not be.")
@click.option("--per-category", is_flag=True, help="A line for each category.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write a report there.")
@click.option("--force", is_flag=True, help="Delete another report at --out first.")
@click.option(
    "--conf",
    type=click.FloatRange(0, 1),
    metavar="SCORE",
    help="Of a run, only labels from this score on.",
)
@click.option(
    "--regions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Proposals an image.  [default: 1000; 100 where each costs a crop]",
)
@click.option("--teacher", metavar="T", help="CLIP on crops, beside vild-text or alone.")
@click.option(
    "--regions-from",
    metavar="P",
    default="torchvision",
    show_default=True,
    help="Whose proposals clip-on-crops takes: torchvision or a model.",
)
@click.option("--prompts", metavar="P", help="Sentences.  [default: the model's]")
@click.option(
    "--text-bank",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Text embeddings of the truth's names, made elsewhere.",
)
@click.option("--fusion", metavar="RULE", help="uniform:0.6 (two sides), or objectness:0.5.")
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps.  [default: the best]")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    run: Path | None,
    model: str | None,
    truth: Path,
    images: Path | None,
    protocol: str | None,
    out: Path | None,
    as_json: bool,
    per_category: bool,
    force: bool,
    **choices: Any,
) -> None:
    """Average precision of a model or a labelling RUN, by the rules that papers follow.

    A model is evaluated as published: no threshold, 300 detections an image, names scored among
    themselves. A run is evaluated as it is. Names and images of a run match the truth by name.
    """
    from vildcli.evaluation.report import report_on
    from vildcli.evaluation.truth import load_truth

    _check_usage(run, model, images, choices)
    wanted = load_truth(truth, protocol)
    if choices["fixed"] and wanted.protocol.rules != "lvis":
        raise click.UsageError("--fixed is for --protocol lvis.")
    if out is not None:
        _open_out(out, wanted, run, model, choices, force)
    if run is not None:
        subject = _read_run(run, wanted, images, choices)
    else:
        assert model is not None, "checked with the usage"
        assert images is not None, "checked with the usage"
        subject = _predict(model, wanted, images, choices)
    report = report_on(subject)
    _show(report, per_category)
    if out is not None:
        _write(report, out)
    if as_json:
        click.echo(json.dumps(_values(report, per_category)))


def _check_usage(
    run: Path | None, model: str | None, images: Path | None, choices: dict[str, Any]
) -> None:
    if (run is None) == (model is None):
        raise click.UsageError("Give either a labelling RUN or --model M.")
    if model is not None and images is None:
        raise click.UsageError("--model needs --images DIR: the images of the truth.")
    if model is not None and choices["conf"] is not None:
        raise click.UsageError("--conf is for a RUN: a model is evaluated without a threshold.")
    if run is not None and choices["fixed"]:
        raise click.UsageError("--fixed is for a --model: a run keeps 300 labels an image.")
    if choices["fixed"] and choices["proposals"]:
        raise click.UsageError("Give either --fixed or --proposals.")


def _open_out(
    out: Path,
    truth: Truth,
    run: Path | None,
    model: str | None,
    choices: dict[str, Any],
    force: bool,
) -> None:
    from vildcli.runs import open_run

    settings = {
        "subject": str(run or model),
        "truth": str(truth.path.absolute()),
        "protocol": truth.protocol.name,
        **{key: choices[key] for key in ("proposals", "fixed", "conf", "regions", "regions_from")},
        **{key: choices[key] for key in ("teacher", "prompts", "fusion")},
        "text_bank": choices["text_bank"] and str(choices["text_bank"].absolute()),
    }
    open_run(out, kind="evaluation", settings=settings, force=force)


def _read_run(run: Path, truth: Truth, images: Path | None, choices: dict[str, Any]) -> Subject:
    from vildcli.evaluation.judged import agreements_of_run
    from vildcli.evaluation.report import refuse_leaks
    from vildcli.evaluation.run import read_evaluated_run, subject_of_run

    found = read_evaluated_run(run, truth, conf=choices["conf"], images=images)
    subject = subject_of_run(found, proposals=choices["proposals"], images=images)
    if not choices["proposals"]:
        subject = replace(subject, agreements=agreements_of_run(found))
    if choices["strict"]:
        refuse_leaks(subject.truth, subject.seen)
    return subject


def _predict(model: str, truth: Truth, images: Path, choices: dict[str, Any]) -> Subject:
    from vildcli.evaluation.model import open_subject, predict_subject, propose_subject
    from vildcli.evaluation.report import refuse_leaks
    from vildcli.labelling.options import LabellingOptions

    options = LabellingOptions(
        model=model,
        regions=choices["regions"],
        proposals=choices["regions_from"],
        **{key: choices[key] for key in _MODEL_CHOICES},
    )
    opened, seen = open_subject(truth, options)
    if choices["strict"]:
        refuse_leaks(truth, seen)
    with console.progress("Evaluating", len(truth.annotations.images)) as advance:
        if choices["proposals"]:
            return propose_subject(truth, opened, seen, images, advance=advance)
        fixed = choices["fixed"]
        return predict_subject(truth, opened, seen, images, fixed=fixed, advance=advance)


def _show(report: Report, per_category: bool) -> None:
    from vildcli.evaluation.report import PROPOSAL_RECALL
    from vildcli.evaluation.tables import summary_lines

    for leak in report.zero_shot.leaks:
        console.warn(f"NOT ZERO-SHOT: {leak}")
    for note in (*report.zero_shot.doubts, *report.subject.notes, *report.warnings):
        console.warn(note)
    for result in report.results:
        console.say(f"{result.title}, {report.subject.truth.protocol.name}")
        console.say("\n".join(summary_lines(result, report.subject.truth.protocol.rules)))
        _show_published(report, result.title, result.metrics)
        if found := report.by_training.get(result.title):
            title = f"{result.title} by what the model was trained on"
            console.show_table(title, tuple(found), [tuple(found.values())])
    if report.recalls:
        console.show_table(PROPOSAL_RECALL, ("", "recall"), report.recalls.items())
        _show_published(report, PROPOSAL_RECALL, report.recalls)
    _show_agreements(report, per_category)
    _show_failures(report)
    _show_overlaps(report)
    if per_category:
        _show_categories(report)


def _show_published(report: Report, title: str, metrics: Any) -> None:
    from vildcli.evaluation.report_files import BESIDE
    from vildcli.evaluation.tables import beside_published

    if rows := report.published.get(title):
        console.show_table(BESIDE, *beside_published(metrics, rows))


def _show_agreements(report: Report, per_category: bool) -> None:
    from vildcli.evaluation.agreement import (
        AGREEMENT_COLUMNS,
        agreement_cells,
        group_agreements,
        shown_cells,
    )
    from vildcli.evaluation.report_files import AGREEMENT_TITLE

    rows = report.subject.agreements
    if rows:
        cells = [shown_cells(agreement_cells(row)) for row in group_agreements(rows)]
        console.show_table(
            AGREEMENT_TITLE,
            AGREEMENT_COLUMNS[2:3] + AGREEMENT_COLUMNS[4:],
            [(row[2], *row[4:]) for row in cells],
        )
    if rows and per_category:
        cells = [shown_cells(agreement_cells(row)) for row in rows]
        console.show_table(f"{AGREEMENT_TITLE}, by term", AGREEMENT_COLUMNS, cells)


def _show_failures(report: Report) -> None:
    from vildcli.evaluation.report_files import most_confused

    if report.outcomes:
        columns = ("objects", *next(iter(report.outcomes.values())))
        rows = [(name, *found.values()) for name, found in report.outcomes.items()]
        console.show_table("What became of the objects", columns, rows)
        if common := most_confused(report)[:5]:
            said = "; ".join(f"{true} → {called} ({n})" for true, called, n in common)
            console.say(f"Novel objects called something else: {said}")
    if report.errors is not None:
        shares = report.errors.shares()
        console.show_table("What keeps box AP50 down", tuple(shares), [tuple(shares.values())])


def _show_overlaps(report: Report) -> None:
    """CLIP on crops gives parts of objects high scores: its score does not measure localisation."""
    rows = [row for row in report.subject.overlap_scores if row.inside]
    if report.subject.system in _OF_CROPS and rows:
        columns = ("IoU", "parts of an object", "mean score of its name")
        cells = [(f"{r.low:.1f} to {r.high:.1f}", r.inside, r.inside_score) for r in rows]
        console.show_table("Scores of boxes that lie inside an object", columns, cells)


def _show_categories(report: Report) -> None:
    from dataclasses import astuple

    from vildcli.evaluation.tables import CATEGORY_COLUMNS, category_rows

    for result in report.results:
        rows = [astuple(row) for row in category_rows(report.subject.truth, result)]
        console.show_table(f"{result.title} by category", CATEGORY_COLUMNS, rows)


def _write(report: Report, out: Path) -> None:
    from vildcli.evaluation.failure_sheet import write_failure_sheet
    from vildcli.evaluation.plots import draw_confusion, draw_curves, draw_overlap_scores
    from vildcli.evaluation.report_files import write_report

    drawn = (draw_curves, draw_confusion, draw_overlap_scores, write_failure_sheet)
    pictures = [draw(report, out) for draw in drawn]
    write_report(report, out, [picture for picture in pictures if picture is not None])
    console.say(f"Report: {out / 'report.md'}")


def _values(report: Report, per_category: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from vildcli.evaluation.report_files import report_values
    from vildcli.evaluation.tables import category_rows

    values = report_values(report)
    if per_category:
        truth = report.subject.truth
        values["categories"] = {
            result.title: [asdict(row) for row in category_rows(truth, result)]
            for result in report.results
        }
    return values
