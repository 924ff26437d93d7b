"""`vildcli report`: a run as one HTML page, without a database."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from vildcli import console
from vildcli.errors import RunError

EXAMPLE = """\
\b
Examples:
  vildcli report runs/photos
  vildcli report runs/photos --conf 0.5 --out photos.html
"""


@click.command(epilog=EXAMPLE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Page to write.  [default: RUN/report.html, replaced when it is there]",
)
@click.option(
    "--conf",
    type=click.FloatRange(0, 1),
    metavar="SCORE",
    help="Score from which labels are shown.  [default: the vocabulary's, the model's, 0.3]",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Folder that the images have moved to.",
)
@click.option(
    "--categories",
    type=click.IntRange(min=0),
    metavar="N",
    default=24,
    show_default=True,
    help="How many categories have pictures, those with most labels.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    run: Path,
    out: Path | None,
    conf: float | None,
    images: Path | None,
    categories: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write RUN as one HTML page that needs nothing else: no database, no network.

    Counts, scores with thresholds, pictures of each category (surest, least sure, by chance),
    attributes, duplicates, failures and speed.
    """
    from vildcli.reporting.report import write_report

    if out is not None and out.exists() and not force:
        raise RunError(f"{out} exists.", hint="Choose another --out, or --force to overwrite it.")
    found = write_report(run, out, conf=conf, images_root=images, categories=categories)
    if found.missing:
        console.warn(f"{found.missing} images could not be shown. {found.why}")
        console.say("Name the folder that the images moved to as --images.")
    console.say(
        f"{found.labels} labels on {found.images} images; pictures of {found.pictured} of "
        f"{found.categories} categories."
    )
    console.say(f"Wrote {found.out} ({found.bytes / 2**20:.1f} MiB)")
    if as_json:
        click.echo(json.dumps({**asdict(found), "out": str(found.out.absolute())}))
