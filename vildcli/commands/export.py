"""`vildcli export`: a run's labels for other tools."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vildcli import console
from vildcli.errors import RunError

if TYPE_CHECKING:
    from vildcli.export.geometry import Geometry

EXAMPLE = """\
\b
Example:
  vildcli export runs/photos --to coco --geometry polygon --conf 0.5
"""


def _known_format(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    from vildcli.export import FORMATS

    if value not in FORMATS:
        raise click.BadParameter(f"{value!r} is none of: {', '.join(FORMATS)}.")
    return value


@click.command(epilog=EXAMPLE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    default="coco",
    show_default=True,
    callback=_known_format,
    help="Format: coco, lvis, yolo, voc, labelstudio, cvat, csv, parquet, fiftyone.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File or folder to write.  [default: in RUN, such as RUN/coco.json]",
)
@click.option(
    "--geometry",
    type=click.Choice(["box", "polygon", "rle"]),
    help="What is written of a region.  [default: the format's richest or most usual]",
)
@click.option(
    "--conf",
    type=click.FloatRange(0, 1),
    help="Score from which labels are written.  [default: the vocabulary's, the model's, 0.3]",
)
@click.option(
    "--where",
    multiple=True,
    metavar="SET=NAME",
    help="Only labels with this attribute, such as colour=red; may be given several times.",
)
@click.option(
    "--joint",
    is_flag=True,
    help="Rank by Pr(category, attribute), which is then the score that is written.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that file names are relative to, where the images have moved.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    run: Path,
    target: str,
    out: Path | None,
    geometry: Geometry | None,
    conf: float | None,
    where: tuple[str, ...],
    joint: bool,
    images: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Write a run's labels for other tools.

    What is not asked for stays in the run; export again with another --conf or --where at any time.
    """
    from vildcli.export import FORMATS
    from vildcli.export.selection import Selection
    from vildcli.labelling.thresholds import view_run

    form = FORMATS[target]
    if geometry is not None and geometry not in form.geometries:
        raise click.UsageError(f"--to {target} holds --geometry {' or '.join(form.geometries)}.")
    selection = Selection(view_run(run, conf=conf, where=where, joint=joint), images_root=images)
    out = out or run / form.name
    if out.exists() and not force:
        raise RunError(f"{out} exists.", hint="Choose another --out, or --force to overwrite it.")
    summary = form.export(selection, out, geometry=geometry or form.geometries[0])
    if summary.units_done < summary.units_total:
        console.warn(
            f"{run} is not complete: {summary.units_done} of {summary.units_total} units are done."
        )
    if as_json:
        click.echo(json.dumps({**asdict(summary), "out": str(out.absolute())}))
        return 0
    hidden = f"{summary.hidden} {'not asked for' if where else 'below their thresholds'}"
    console.say(f"{summary.labels} labels on {summary.images} images, {hidden}.")
    if summary.failed:
        console.say(f"{summary.failed} failed images are left out.")
    console.say(f"Wrote {out}")
    console.say(f"Next: {console.program()} review {run}")
    return 0
