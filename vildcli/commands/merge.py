"""`vildcli merge`: labelling runs and people's annotations into one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console

if TYPE_CHECKING:
    from vildcli.merging.inputs import Input
    from vildcli.merging.summary import MergeSummary

EXAMPLE = """\
\b
Examples:
  vildcli merge machine-1/photos machine-2/photos --out runs/photos
  vildcli merge runs/photos people.json --renumber --out merged.json
"""
_FOR_SETS = ("existing", "conf", "images")


@click.command(epilog=EXAMPLE)
@click.argument(
    "inputs",
    nargs=-1,
    required=True,
    metavar="INPUT...",
    type=click.Path(path_type=Path, exists=True),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="C",
    help="FILE.json for an annotation set, a folder for a labelling run.",
)
@click.option(
    "--existing",
    type=click.Choice(["skip", "merge", "replace"]),
    help="Of images that people labelled: no machine's labels; those that people leave free; "
    "machines' instead of people's.  [default: merge]",
)
@click.option(
    "--nms-iou",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    metavar="IOU",
    help="Overlap above which the better of two inputs' labels stays; 1 keeps both.",
)
@click.option(
    "--conf",
    type=click.FloatRange(0, 1),
    metavar="SCORE",
    help="Score from which labels of runs come into FILE.json.  [default: the vocabulary's, the "
    "model's, 0.3]",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Folder that all file names start from; images of other names match by hash there.",
)
@click.option(
    "--renumber",
    is_flag=True,
    help="Give free ids to images and categories whose own are another's in an earlier INPUT.",
)
@click.option("--force", is_flag=True, help="Replace a file, or delete another vildcli folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(inputs: tuple[Path, ...], out: Path, force: bool, as_json: bool, **choices: Any) -> int:
    """Merge labelling runs and annotation files (COCO, LVIS, VOC) into one.

    Runs alone become a run: shards of machines apart, other folders, other vocabularies. With
    people's labels, or where C ends in .json, they become an annotation set. A person's box always
    wins over a machine's.
    """
    from vildcli.merging.inputs import open_inputs

    if len(inputs) < 2:
        raise click.UsageError("Give at least two runs or annotation files.")
    opened = open_inputs(inputs, conf=choices["conf"])
    if out.suffix.lower() == ".json":
        summary = _merge_annotations(opened, out, force, choices)
    else:
        summary = _merge_runs(opened, out, force, choices)
    _show(summary)
    if as_json:
        click.echo(json.dumps({**asdict(summary), "out": str(summary.out.absolute())}))
    return 0


def _merge_annotations(
    inputs: Sequence[Input], out: Path, force: bool, choices: dict[str, Any]
) -> MergeSummary:
    from vildcli.merging.annotations import merge_annotations

    with console.progress("Merging", None) as advance:
        return merge_annotations(
            inputs,
            out,
            existing=choices["existing"] or "merge",
            nms_iou=choices["nms_iou"],
            renumber=choices["renumber"],
            images_root=choices["images"],
            force=force,
            advance=advance,
        )


def _merge_runs(
    inputs: Sequence[Input], out: Path, force: bool, choices: dict[str, Any]
) -> MergeSummary:
    from vildcli.merging.inputs import runs_only
    from vildcli.merging.runs import merge_runs

    runs = runs_only(inputs, out)
    for name in _FOR_SETS:
        if choices[name] is not None:
            raise click.UsageError(f"--{name} is for --out FILE.json: a run keeps every label.")
    with console.progress("Merging", None) as advance:
        return merge_runs(
            runs,
            out,
            nms_iou=choices["nms_iou"],
            renumber=choices["renumber"],
            force=force,
            advance=advance,
        )


def _show(summary: MergeSummary) -> None:
    for note in summary.notes:
        console.warn(note)
    rows = [(name, number, summary.kept[name]) for name, number in summary.given.items()]
    console.show_table(str(summary.out), ("input", "labels", "kept"), rows)
    if summary.left_out:
        console.say(f"Left out: {', '.join(f'{n} {why}' for why, n in summary.left_out.items())}.")
    console.say(f"{summary.labels} labels on {summary.images} images.")
    program, out = console.program(), summary.out
    after = (
        f"export {out} --to coco" if summary.kind == "labelling run" else f"export --check {out}"
    )
    console.say(f"Next: {program} {after}")
