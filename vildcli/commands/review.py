"""`vildcli review`: a run in the FiftyOne App, and people's corrections back out of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.errors import RunError

if TYPE_CHECKING:
    from vildcli.labelling.thresholds import RunView
    from vildcli.review.fiftyone_dataset import ReviewSummary
    from vildcli.review.pull import PullSummary

EXAMPLE = """\
\b
Examples:
  vildcli review runs/photos --conf 0.4
  vildcli review runs/photos --remote --port 5200 --where colour=red
  vildcli review runs/photos --pull --out corrections.json
"""
_PORT = 5151
_SHOWN_CATEGORIES = 20
# Options that say something about one of the two things that the command does.
_SHOW_OPTIONS = ("no_launch", "remote", "port", "max_samples", "conf", "where")
_PULL_OPTIONS = ("out", "form", "vocabulary", "tagged_only", "force")


@click.command(epilog=EXAMPLE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--no-launch", is_flag=True, help="Make or update the dataset, and stop.")
@click.option("--remote", is_flag=True, help="Open no browser; say how to look from elsewhere.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help=f"Port of the App on 127.0.0.1.  [default: {_PORT}]",
)
@click.option("--max-samples", type=click.IntRange(1), help="Only the first N images.")
@click.option("--name", help="Name of the dataset.  [default: from the run and its settings]")
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that the images have moved to.",
)
@click.option(
    "--conf",
    type=click.FloatRange(0, 1),
    help="Score from which labels are shown.  [default: the vocabulary's, the model's, 0.3]",
)
@click.option(
    "--where",
    multiple=True,
    metavar="SET=NAME",
    help="Only labels with this attribute, such as colour=red; may be given several times.",
)
@click.option(
    "--pull", is_flag=True, help="Bring corrections back as an annotation set, for train, evaluate."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="--pull: the JSON file to write.  [default: RUN/corrections.json]",
)
@click.option(
    "--to",
    "form",
    type=click.Choice(["lvis", "coco"]),
    help="--pull: its form; only LVIS's says what was not reviewed in full.  [default: lvis]",
)
@click.option(
    "--vocab",
    "vocabulary",
    metavar="VOCAB",
    help="--pull: the run's vocabulary with the names that people added.",
)
@click.option(
    "--tagged-only",
    is_flag=True,
    help="--pull: only images tagged 'reviewed' or 'approved', not those with changes alone.",
)
@click.option("--force", is_flag=True, help="--pull: replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(run: Path, pull: bool, as_json: bool, **choices: Any) -> int:
    """Open a run in the FiftyOne App, or bring corrections back.

    The dataset stays: reviewing again adds what is new and keeps every correction. Tag images
    'reviewed' when you are done with them.
    """
    foreign = _SHOW_OPTIONS if pull else _PULL_OPTIONS
    for name in foreign:
        if choices[name]:
            option = {"form": "to", "vocabulary": "vocab"}.get(name, name.replace("_", "-"))
            raise click.UsageError(f"--{option} is {'not ' if pull else ''}for --pull.")
    if pull:
        return _pull(run, choices, as_json)
    return _review(run, choices, as_json)


def _review(run: Path, choices: dict[str, Any], as_json: bool) -> int:
    from vildcli.labelling.thresholds import view_run
    from vildcli.review.fiftyone_app import app_address, check_port, prepare_fiftyone
    from vildcli.review.fiftyone_dataset import write_dataset
    from vildcli.review.fiftyone_views import save_asked_view
    from vildcli.review.mongo import default_folder, ensure_database

    view = view_run(run, conf=choices["conf"], where=choices["where"])
    port: int = choices["port"] or _PORT
    prepare_fiftyone()
    if not choices["no_launch"]:
        check_port(port)
    _warn_unless_complete(view)
    ensure_database(default_folder())
    summary = write_dataset(
        view,
        name=choices["name"],
        images_root=choices["images"],
        max_samples=choices["max_samples"],
    )
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    _show_dataset(summary)
    asked = save_asked_view(summary.dataset, view, choices["conf"], choices["max_samples"])
    if not choices["no_launch"]:
        _launch(run, app_address(port, summary.dataset, asked), summary, port, choices["remote"])
    return 0


def _warn_unless_complete(view: RunView) -> None:
    if not view.is_complete:
        console.warn(f"{view.run} is not complete: {view.progress_text}.")


def _show_dataset(summary: ReviewSummary) -> None:
    console.say(
        f"Dataset {summary.dataset}: {summary.samples} images ({summary.added} new, "
        f"{summary.failed} failed), {summary.labels} labels."
    )
    if summary.replaced:
        console.warn(
            f"{summary.replaced} files were other pictures than before: their samples are new, and "
            "what people had changed on them is gone."
        )
    if summary.similarity:
        console.say(f"Sorting by similarity: {', '.join(summary.similarity)}.")


def _launch(run: Path, address: str, summary: ReviewSummary, port: int, remote: bool) -> None:
    from vildcli.review.fiftyone_app import ADDRESS, open_browser, show_app

    console.say(f"Review at {address}")
    if remote:
        console.say(f"From another machine, first: ssh -N -L {port}:{ADDRESS}:{port} THIS-MACHINE")
    console.say("Ctrl-C ends it; corrections are kept in the dataset.")
    console.say(f"Next: {console.program()} review {run} --pull")
    show_app(summary.dataset, port, lambda: None if remote else open_browser(address))


def _pull(run: Path, choices: dict[str, Any], as_json: bool) -> int:
    from vildcli.labelling.thresholds import view_run
    from vildcli.review.fiftyone_app import prepare_fiftyone
    from vildcli.review.mongo import default_folder, ensure_database
    from vildcli.review.pull import pull_corrections
    from vildcli.vocabulary.files import load_vocabulary

    view = view_run(run)
    vocabulary = load_vocabulary(choices["vocabulary"]) if choices["vocabulary"] else None
    out: Path = choices["out"] or run / "corrections.json"
    if out.exists() and not choices["force"]:
        raise RunError(f"{out} exists.", hint="Choose another --out, or --force to overwrite it.")
    prepare_fiftyone()
    _warn_unless_complete(view)
    ensure_database(default_folder())
    summary = pull_corrections(
        view,
        out,
        name=choices["name"],
        form=choices["form"] or "lvis",
        images_root=choices["images"],
        vocabulary=vocabulary,
        tagged_only=choices["tagged_only"],
    )
    if as_json:
        rows = [{**asdict(row), "precision": row.precision} for row in summary.categories]
        click.echo(json.dumps({**asdict(summary), "out": str(out.absolute()), "categories": rows}))
        return 0
    _show_corrections(run, summary)
    return 0


def _show_corrections(run: Path, summary: PullSummary) -> None:
    console.say(
        f"{summary.images} images are reviewed ({summary.tagged} tagged, "
        f"{summary.images - summary.tagged} known by changes alone), {summary.unreviewed} not."
    )
    if summary.foreign:
        console.say(f"{summary.foreign} images of the dataset are not of this run.")
    console.say(
        f"{summary.labels} labels: {summary.kept} as the machine had them, {summary.moved} moved, "
        f"{summary.reshaped} reshaped, {summary.relabelled} relabelled, {summary.reattributed} "
        f"with other attributes, {summary.added} added; {summary.deleted} deleted."
    )
    if summary.precision is not None:
        labels = sum(row.labels for row in summary.categories)
        right = sum(row.right for row in summary.categories)
        title = f"Precision on these images: {summary.precision:.3f} ({right} of {labels})"
        shown = summary.categories[:_SHOWN_CATEGORIES]
        rows = [(row.name, row.labels, row.right, row.precision) for row in shown]
        console.show_table(title, ("category", "labels", "right", "precision"), rows)
        if len(summary.categories) > len(shown):
            console.say(f"… and {len(summary.categories) - len(shown)} more; --json has them all.")
    console.say(f"Wrote {summary.out}")
    program = console.program()
    console.say(f"Next: {program} evaluate {run} --truth {summary.out}")
    console.say(
        f"  or: {program} train --system vild-text --train {summary.out} --images DIR --base all"
    )
