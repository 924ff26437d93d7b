"""`vildcli select --classification`: choose from a folder of images, by a linear head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.commands.selection_result import SHOWN, selection_summary, show_outcome

if TYPE_CHECKING:
    from vildcli.selection.classification import ChosenImages, HeadInverse, Task
    from vildcli.selection.rehearsal import CurvePoint
    from vildcli.selection.select import SelectionOptions
    from vildcli.selection.writing import Outputs


def choose_from_folder(
    folder: Path,
    options: SelectionOptions,
    outputs: Outputs,
    as_json: bool,
    choices: dict[str, Any],
) -> int:
    """The classification case: FOLDER is a pool of images, labelled ones lie in class folders."""
    from vildcli.devices import choose_device
    from vildcli.selection.classification import Inversion, choose_images, embed_task
    from vildcli.selection.rehearsal import draw_curve, rehearse
    from vildcli.selection.writing import write_selection
    from vildcli.teacher.encoder import image_encoder_of
    from vildcli.text.open_clip_models import load_open_clip

    task = _task(folder, options, choices)
    kind: HeadInverse = choices["inverse"] or "exact"
    inversion = Inversion(kind, choices["chains"], choices["depth"])
    clip = load_open_clip(choices["teacher"], offline=choices["offline"])
    encoder = image_encoder_of(clip, choose_device(choices["device"]))
    known = embed_task(task, encoder, outputs.work, progress=console.progress)
    found = choose_images(task, known, options, inversion)
    said: dict[str, Any] = {"folder": str(folder), "teacher": choices["teacher"]}
    points: Sequence[CurvePoint] = ()
    if choices["curve"]:
        points = rehearse(task, known, options, inversion)
        draw_curve(points, outputs.curve)
        said["curve"] = [asdict(point) for point in points]
    write_selection(found.selection, outputs, lambda image: folder / image.path, said)
    _show(found, known.names, outputs)
    if points:
        _show_curve(points, choices["evaluation"], outputs)
    if as_json:
        total = len(found.selection.chosen) + len(found.selection.others)
        shown = selection_summary(folder, found.selection, outputs, total, found.skipped)
        more = {"accuracy": found.accuracy, "resets": found.resets, "curve": said.get("curve")}
        click.echo(json.dumps({**shown, **more}))
    return 3 if found.selection.left_out else 0


def _show(found: ChosenImages, names: Sequence[str], outputs: Outputs) -> None:
    selection = found.selection
    rows = [
        (
            one.candidate.image.path,
            one.value,
            names[one.candidate.category_ids[0]],
            float(one.candidate.scores[0]),
        )
        for one in selection.chosen[:SHOWN]
    ]
    columns = ("image", "value", "likeliest", "probability")
    console.show_table(f"First by {selection.options.strategy}", columns, rows)
    show_outcome(selection, outputs, f"{found.skipped} are labelled already")
    if found.resets:
        console.warn(f"LiSSA began anew {found.resets} times: its product was not finite.")
    if found.accuracy is not None:
        console.say(f"Accuracy on the reference set before the choice: {found.accuracy:.3f}")


def _show_curve(points: Sequence[CurvePoint], evaluation: Path, outputs: Outputs) -> None:
    strategies = [*dict.fromkeys(point.strategy for point in points)]
    by_count = {(point.strategy, point.labelled): point.accuracy for point in points}
    rows = [
        (count, *(by_count[strategy, count] for strategy in strategies))
        for count in dict.fromkeys(point.labelled for point in points)
    ]
    console.show_table(f"Accuracy on {evaluation}", ("labelled", *strategies), rows)
    console.say(f"Curve: {outputs.curve}")


def _task(folder: Path, options: SelectionOptions, choices: dict[str, Any]) -> Task:
    from vildcli.selection.classification import Task
    from vildcli.selection.image_folders import find_classes, find_pool

    if options.diverse or options.per != "image":
        raise click.UsageError("--diverse and --per ask boxes of a run; choose --strategy hybrid.")
    if choices["reviewed"]:
        raise click.UsageError("--reviewed is of a run; labelled images lie in --classification.")
    reference, evaluation = choices["reference"], choices["evaluation"]
    for name, path in (("reference", reference), ("evaluation", evaluation)):
        if path is not None and not path.is_dir():
            raise click.UsageError(f"With --classification, --{name} is a folder of class folders.")
    if options.strategy == "isal" and reference is None:
        raise click.UsageError("isal needs --reference DIR.")
    if choices["curve"] and evaluation is None:
        raise click.UsageError("--curve needs --evaluation DIR, which it measures accuracy on.")
    find = find_classes if choices["curve"] else find_pool
    return Task(
        find(folder),
        find_classes(choices["classification"]),
        None if reference is None else find_classes(reference),
        None if evaluation is None else find(evaluation),
        choices["as_published"],
    )
