"""`vildcli review`: a run in the FiftyOne App."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from vildcli import console

EXAMPLE = """\
\b
Example:
  vildcli review runs/photos --conf 0.4
"""


@click.command(epilog=EXAMPLE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--no-launch", is_flag=True, help="Make or update the dataset, and stop.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5151,
    show_default=True,
    help="Port of the App on 127.0.0.1.",
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    run: Path,
    no_launch: bool,
    port: int,
    max_samples: int | None,
    name: str | None,
    images: Path | None,
    conf: float | None,
    where: tuple[str, ...],
    as_json: bool,
) -> int:
    """Open a run in the FiftyOne App.

    The dataset stays: reviewing again adds what is new and keeps every correction.
    """
    from vildcli.labelling.thresholds import view_run
    from vildcli.review.fiftyone_app import ADDRESS, check_port, prepare_fiftyone, show_app
    from vildcli.review.fiftyone_dataset import write_dataset
    from vildcli.review.mongo import default_folder, ensure_database

    view = view_run(run, conf=conf, where=where)
    prepare_fiftyone()
    if not no_launch:
        check_port(port)
    if not view.is_complete:
        console.warn(f"{run} is not complete: {view.progress_text}.")
    ensure_database(default_folder())
    summary = write_dataset(view, name=name, images_root=images, max_samples=max_samples)
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    console.say(
        f"Dataset {summary.dataset}: {summary.samples} images ({summary.added} new, "
        f"{summary.failed} failed), {summary.labels} labels."
    )
    if not no_launch:
        console.say(f"Review at http://{ADDRESS}:{port}/datasets/{summary.dataset}")
        console.say("Ctrl-C ends it; corrections are kept in the dataset.")
        show_app(summary.dataset, port)
    return 0
