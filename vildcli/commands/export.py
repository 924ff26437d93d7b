"""`vildcli export`: a run's labels for other tools, and a check of any such file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from vildcli import console

if TYPE_CHECKING:
    from vildcli.export import Format
    from vildcli.export.geometry import Geometry
    from vildcli.export.selection import Selection
    from vildcli.export.split import Split
    from vildcli.export.summary import ExportSummary
    from vildcli.export.writing import ImageFiles

EXAMPLE = """\
\b
Examples:
  vildcli export runs/photos --to coco --geometry polygon --conf 0.5
  vildcli export runs/photos --to yolo --split train=0.8,val=0.2 --images link --out data/photos
  vildcli export --check annotations.json
"""
_SHOWN_PROBLEMS = 20
_PART = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# Keys that data.yaml of YOLO has already; `download` would be run as code.
_NO_PARTS = ("names", "nc", "path", "download", "vildcli_ids")


def _known_format(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    from vildcli.export import FORMATS

    if value not in FORMATS:
        raise click.BadParameter(f"{value!r} is none of: {', '.join(FORMATS)}.")
    return value


def _parse_split(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Split | None:
    if value is None:
        return None
    from vildcli.export.split import Split

    shares = []
    for text in value.split(","):
        name, _, share = (part.strip() for part in text.partition("="))
        if not _PART.fullmatch(name) or name in _NO_PARTS:
            raise click.BadParameter(f"{name!r} is no name of a part; write train=0.8,val=0.2.")
        if not re.fullmatch(r"0?\.\d+|[01](\.0*)?", share):
            raise click.BadParameter(f"{share!r} is no share of {name}; write train=0.8,val=0.2.")
        shares.append((name, float(share)))
    if len({name for name, _ in shares}) < len(shares):
        raise click.BadParameter("A part is named twice.")
    if abs(sum(share for _, share in shares) - 1) > 1e-6:
        raise click.BadParameter(f"The shares add up to {sum(s for _, s in shares):g}, not to 1.")
    return Split(tuple(shares))


def _parse_images(
    ctx: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> tuple[Path | None, ImageFiles | None]:
    """A folder, `link` or `copy`, or a folder and one of them."""
    ways = [value for value in values if value in ("link", "copy")]
    folders = [Path(value) for value in values if value not in ways]
    if len(ways) > 1 or len(folders) > 1:
        raise click.BadParameter("Give one folder, and either link or copy.")
    for folder in folders:
        if not folder.is_dir():
            raise click.BadParameter(f"Directory '{folder}' does not exist.")
    way = cast("ImageFiles", ways[0]) if ways else None
    return (folders[0] if folders else None), way


@click.command(epilog=EXAMPLE)
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    metavar="FORMAT",
    callback=_known_format,
    help="coco, lvis, yolo, voc, labelstudio, cvat, csv, parquet, fiftyone.  [default: coco]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File or folder to write.  [default: in RUN, such as RUN/coco.json]",
)
@click.option(
    "--geometry",
    type=click.Choice(["box", "polygon", "rle"]),
    help="What is written of a region.  [default: rle for coco, parquet, fiftyone; polygon for "
    "lvis; else box]",
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
    "--max-per-image",
    type=click.IntRange(1),
    metavar="N",
    help="At most N labels an image, the best.",
)
@click.option(
    "--split",
    metavar="PARTS",
    callback=_parse_split,
    help="Parts of the images, such as train=0.8,val=0.2, by the bytes of each.",
)
@click.option(
    "--images",
    multiple=True,
    metavar="link|copy|DIR",
    callback=_parse_images,
    help="Link or copy images into the folder (yolo, voc, fiftyone); DIR: where they have moved.",
)
@click.option("--save-conf", is_flag=True, help="yolo: the score as sixth column of boxes.")
@click.option(
    "--image-url",
    metavar="PREFIX",
    help="labelstudio: what stands before image names.  [default: /data/local-files/?d=]",
)
@click.option(
    "--force", is_flag=True, help="Replace an existing file, or an older export's folder."
)
@click.option(
    "--check",
    "checked",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="Say what is wrong in a file or folder of these formats, whoever made it; no RUN.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    run: Path | None,
    target: str | None,
    checked: Path | None,
    as_json: bool,
    **choices: Any,
) -> int:
    """Write a run's labels for other tools, or check such a file.

    What is not asked for stays in the run; export again with another --conf or --where at any time.
    """
    if (run is None) == (checked is None):
        raise click.UsageError("Give either a labelling RUN or --check FILE.")
    if checked is not None:
        return _check(checked, target, as_json)
    assert run is not None, "checked above"
    return _export(run, target or "coco", choices, as_json)


def _export(run: Path, target: str, choices: dict[str, Any], as_json: bool) -> int:
    from vildcli.export import FORMATS
    from vildcli.export.selection import Selection
    from vildcli.export.writing import refuse_existing
    from vildcli.labelling.thresholds import view_run

    form = FORMATS[target]
    images_root, way = choices["images"]
    own = {
        "images": way,
        "save_conf": choices["save_conf"],
        "image_url": choices["image_url"],
    }
    options = {name: value for name, value in own.items() if value}
    _check_usage(target, form, choices["geometry"], options)
    geometry: Geometry = choices["geometry"] or form.geometries[0]
    if options.get("save_conf") and geometry != "box":
        raise click.UsageError("--save-conf is for --geometry box.")
    asked = {key: choices[key] for key in ("conf", "where", "joint")}
    selection = Selection(
        view_run(run, **asked),
        images_root=images_root,
        max_per_image=choices["max_per_image"],
        split=choices["split"],
    )
    out: Path = choices["out"] or run / form.name
    written = form.written(selection, out)
    if not choices["force"]:
        refuse_existing(written)
    summary = form.export(selection, out, geometry=geometry, **options)
    _show(run, selection, summary, written, as_json)
    return 0


def _check_usage(target: str, form: Format, geometry: str | None, options: dict[str, Any]) -> None:
    from vildcli.export import FORMATS

    if geometry is not None and geometry not in form.geometries:
        raise click.UsageError(f"--to {target} holds --geometry {' or '.join(form.geometries)}.")
    for name in options:
        if name not in form.options:
            takers = " or ".join(f for f, other in FORMATS.items() if name in other.options)
            shown = f"images {options[name]}" if name == "images" else name.replace("_", "-")
            raise click.UsageError(f"--{shown} is for --to {takers}.")


def _show(
    run: Path,
    selection: Selection,
    summary: ExportSummary,
    written: Sequence[Path],
    as_json: bool,
) -> None:
    from vildcli.export.writing import left_behind

    if summary.units_done < summary.units_total:
        console.warn(
            f"{run} is not complete: {summary.units_done} of {summary.units_total} units are done."
        )
    if as_json:
        files = [str(path.absolute()) for path in written]
        out = str(summary.out.absolute())
        click.echo(json.dumps({**asdict(summary), "out": out, "files": files}))
        return
    why = "below their thresholds"
    if selection.view.where:
        why = "not asked for"
    elif selection.max_per_image is not None:
        why = "left out"
    console.say(f"{summary.labels} labels on {summary.images} images, {summary.hidden} {why}.")
    if summary.failed:
        many = "images are" if summary.failed > 1 else "image is"
        console.say(f"{summary.failed} failed {many} left out.")
    for path in written:
        console.say(f"Wrote {path}")
        for half in left_behind(path):
            console.warn(f"{half} is half an export: delete it, unless one is being written now.")
    console.say(f"Next: {console.program()} review {run}")


def _check(path: Path, target: str | None, as_json: bool) -> int:
    from vildcli.export.checks import check_export

    form, problems = check_export(path, target)
    if as_json:
        rows = [asdict(problem) for problem in problems]
        click.echo(json.dumps({"file": str(path.absolute()), "format": form, "problems": rows}))
    elif not problems:
        console.say(f"{path} ({form}): nothing wrong.")
    else:
        for problem in problems[:_SHOWN_PROBLEMS]:
            console.say(f"{problem.where} {problem.what}.")
        if len(problems) > _SHOWN_PROBLEMS:
            console.say(f"… and {len(problems) - _SHOWN_PROBLEMS} more; --json has them all.")
        console.say(f"{path} ({form}): {len(problems)} problem{'s' * (len(problems) > 1)}.")
    return 1 if problems else 0
