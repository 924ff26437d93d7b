"""`vildcli select`: which images to review next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.commands.grouping import GroupedCommand

if TYPE_CHECKING:
    from vildcli.selection.pool import Pool
    from vildcli.selection.select import Budget, Selection, SelectionOptions

EXAMPLE = """\
\b
Examples:
  vildcli select runs/photos --strategy hybrid --budget 100 --out next.txt
  vildcli select runs/photos --strategy entropy --per minute --budget 5% \\
    --reviewed done.json --diverse --out next.txt
"""
_GROUPS = {
    "Choice": ("strategy", "budget", "per", "diverse", "pseudo_score", "seed"),
    "Images": ("reviewed", "images"),
    "Effort": ("image_seconds", "box_seconds"),
}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_STRATEGIES = ("entropy", "margin", "coreset", "random", "hybrid")
_SHOWN = 10


def _budget(context: click.Context, parameter: click.Parameter, text: str) -> Budget:
    from vildcli.selection.select import Budget

    is_share = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) if is_share else int(text)
    except ValueError:
        number = 0
    if number <= 0 or (is_share and number > 100):
        raise click.BadParameter("write a number of images, or a share of them: 100, 5%.")
    return Budget(share=number / 100) if is_share else Budget(images=int(number))


@click.command(cls=GroupedCommand, groups=_GROUPS, epilog=EXAMPLE)
@click.argument("run", type=_FOLDER)
@click.option(
    "--strategy",
    type=click.Choice(_STRATEGIES),
    required=True,
    help="What makes an image worth it.",
)
@click.option(
    "--budget",
    callback=_budget,
    required=True,
    metavar="N",
    help="How many images, or a share of them: 100, 5%.",
)
@click.option(
    "--per",
    type=click.Choice(["image", "box", "minute"]),
    default="image",
    show_default=True,
    help="Rank by the value of an image, of one of its boxes, or of a minute of work on it.",
)
@click.option("--diverse", is_flag=True, help="Near duplicates of a chosen image come last.")
@click.option(
    "--pseudo-score",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Score from which a label is taken for true.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of --strategy random.")
@click.option(
    "--reviewed",
    type=_FILE,
    multiple=True,
    metavar="JSON",
    help="Annotation set of images that people have looked at; may be given several times.",
)
@click.option("--images", type=_FOLDER, help="Folder that the images have moved to.")
@click.option(
    "--image-seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds that a person takes for an image.",
)
@click.option(
    "--box-seconds",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Seconds more for each of its pseudo boxes.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="List of the chosen paths; scores go to a .json beside it.",
)
@click.option("--force", is_flag=True, help="Overwrite --out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    run: Path, out: Path, force: bool, as_json: bool, images: Path | None, **choices: Any
) -> None:
    """Choose the images of a labelling run to review next.

    Writes their paths, best first; `vildcli review` shows them as a saved view. Images without any
    label from --pseudo-score on are listed apart.
    """
    from vildcli.labelling.thresholds import view_run
    from vildcli.selection.select import select
    from vildcli.selection.writing import Outputs, write_selection

    options = _options(choices)
    outputs = Outputs(out)
    outputs.refuse(force)
    view = view_run(run)
    if not view.is_complete:
        console.warn(f"{run} is not complete: {view.progress_text}.")
    pool = _pool(view, choices)
    found = select(view, pool, options)
    write_selection(view, found, outputs, images=images, settings=_settings(choices))
    _show(run, pool, found, outputs)
    if as_json:
        click.echo(json.dumps(_said(run, pool, found, outputs)))


def _options(choices: dict[str, Any]) -> SelectionOptions:
    from vildcli.selection.choice import Effort
    from vildcli.selection.select import SelectionOptions
    from vildcli.selection.strategies import RANKED_BY_BOXES

    strategy, per = choices["strategy"], choices["per"]
    if per != "image" and strategy not in RANKED_BY_BOXES:
        raise click.UsageError(f"--per {per} ranks what boxes are worth; {strategy} asks no box.")
    effort = Effort(choices["image_seconds"], choices["box_seconds"])
    return SelectionOptions(
        strategy, choices["budget"], per, choices["diverse"], effort, choices["seed"]
    )


def _pool(view: Any, choices: dict[str, Any]) -> Pool:
    from vildcli.data.lvis import load_annotations
    from vildcli.selection.pool import read_pool

    reviewed = [load_annotations(file) for file in choices["reviewed"]]
    return read_pool(view, reviewed=reviewed, pseudo_score=choices["pseudo_score"])


def _settings(choices: dict[str, Any]) -> dict[str, Any]:
    names = ("diverse", "pseudo_score", "seed", "image_seconds", "box_seconds")
    return {**{name: choices[name] for name in names}, "reviewed": [*map(str, choices["reviewed"])]}


def _show(run: Path, pool: Pool, found: Selection, outputs: Any) -> None:
    rows = [
        (one.candidate.image.path, one.value, len(one.candidate.scores), one.per_box, one.minutes)
        for one in found.chosen[:_SHOWN]
    ]
    columns = ("image", "value", "boxes", "per box", "minutes")
    console.show_table(f"First by {found.options.strategy}", columns, rows)
    console.say(
        f"{len(found.chosen)} of {len(pool.candidates)} images chosen, about "
        f"{found.minutes:.0f} minutes of work; {len(pool.reviewed)} are reviewed already."
    )
    if found.left_out:
        console.warn(
            f"{len(found.left_out)} images have nothing to rank them by: {outputs.left_out}"
        )
    console.say(f"Paths: {outputs.paths}  Scores: {outputs.scores}")
    console.say(f"Next: {console.program()} review {run}")


def _said(run: Path, pool: Pool, found: Selection, outputs: Any) -> dict[str, Any]:
    return {
        "run": str(run),
        "strategy": found.options.strategy,
        "candidates": len(pool.candidates),
        "reviewed": len(pool.reviewed),
        "chosen": len(found.chosen),
        "left_out": len(found.left_out),
        "minutes": round(found.minutes, 1),
        "paths": str(outputs.paths),
        "scores": str(outputs.scores),
    }
