"""`vildcli select`: which images to review next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.commands.folder_selection import choose_from_folder
from vildcli.commands.grouping import GroupedCommand
from vildcli.commands.selection_result import SHOWN, selection_summary, show_selection

if TYPE_CHECKING:
    from vildcli.labelling.thresholds import RunView
    from vildcli.selection.influence import Influences
    from vildcli.selection.pool import Pool
    from vildcli.selection.select import Budget, SelectionOptions

EXAMPLE = """\
\b
Examples:
  vildcli select runs/photos --strategy isal --model runs/vild --reference held-out.json \\
    --budget 100 --out next.txt
  vildcli select runs/photos --strategy hybrid --budget 100 --out next.txt
  vildcli select runs/photos --strategy entropy --per minute --budget 5% \\
    --reviewed done.json --diverse --out next.txt
  vildcli select pool --classification labelled --reference held-out --strategy isal \\
    --budget 100 --out next.txt
  vildcli select known --classification labelled --reference held-out --strategy isal \\
    --budget 5% --curve --evaluation test --out next.txt
"""
_GROUPS = {
    "Choice": ("strategy", "budget", "per", "diverse", "pseudo_score", "seed"),
    "Influence (isal)": (
        *("reference", "reference_images", "model", "prompts", "text_bank", "inverse", "chains"),
        *("depth", "evaluation", "as_published", "matched_only", "device", "offline"),
    ),
    "Classification": ("classification", "teacher", "curve"),
    "Images": ("reviewed", "images"),
    "Effort": ("image_seconds", "box_seconds"),
}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_STRATEGIES = ("isal", "entropy", "margin", "coreset", "random", "hybrid")
_PATH = click.Path(exists=True, path_type=Path)
_COUNT = click.IntRange(min=1)


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
    "--reference",
    type=_PATH,
    metavar="JSON",
    help="Labelled, held-out annotation set that the choice is to help with.",
)
@click.option(
    "--reference-images", type=_FOLDER, help="Folder of its images.  [default: beside the file]"
)
@click.option("--model", metavar="M", help="The model that made the run.")
@click.option("--prompts", metavar="P", help="Sentences.  [default: the model's]")
@click.option("--text-bank", type=_FILE, help="Text embeddings that detect was given.")
@click.option(
    "--inverse",
    type=click.Choice(["ekfac", "lissa", "none", "exact"]),
    help="Of the Hessian: Kronecker-factored, LiSSA as published, none (gradient similarity), or "
    "exact (classification).  [default: ekfac; exact for classification]",
)
@click.option("--chains", type=_COUNT, default=4, show_default=True, help="Chains of LiSSA.")
@click.option("--depth", type=_COUNT, default=1000, show_default=True, help="Steps of each.")
@click.option(
    "--evaluation",
    type=_PATH,
    metavar="JSON",
    help="What you evaluate on: it must share no image with --reference.",
)
@click.option(
    "--as-published",
    is_flag=True,
    help="Take a reference set that is evaluated on, as the published experiments do.",
)
@click.option(
    "--matched-only",
    is_flag=True,
    help="Leave annotations of categories out that the run did not look for.",
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps.  [default: the best]")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option(
    "--classification",
    type=_FOLDER,
    metavar="DIR",
    help="Labelled images, one folder a class: RUN is then a folder of images to choose from.",
)
@click.option(
    "--teacher",
    metavar="T",
    default="ViT-B-32:openai",
    show_default=True,
    help="open_clip model that embeds whole images.",
)
@click.option(
    "--curve",
    is_flag=True,
    help="RUN has class folders too: draw how accuracy on --evaluation would grow by them, beside "
    "--strategy random's.",
)
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
) -> int:
    """Choose the images of a labelling run to review next.

    Writes their paths, best first; `vildcli review` shows them as a saved view. Images without any
    label from --pseudo-score on are listed apart. isal measures how much labels of an image would
    help on a reference set; it looks at every image again, and continues when it is interrupted.
    With --classification, RUN is a folder of images, and the model a linear head on embeddings.
    """
    from vildcli.labelling.thresholds import view_run
    from vildcli.selection.select import select
    from vildcli.selection.writing import Outputs, write_run_selection

    options = _options(choices)
    outputs = Outputs(out)
    outputs.refuse(force)
    if choices["classification"] is not None:
        return choose_from_folder(run, options, outputs, as_json, choices)
    if choices["curve"]:
        raise click.UsageError("--curve is for --classification.")
    view = view_run(run)
    if not view.is_complete:
        console.warn(f"{run} is not complete: {view.progress_text}.")
    pool = _pool(view, choices)
    found = None
    if choices["reference"] is not None and options.strategy != "isal":
        console.say(f"{options.strategy} does not ask --reference; isal does.")
    if options.strategy == "isal":
        found = _influences(view, pool, images, outputs.work, force, choices)
    selection = select(view, pool, options, found.values if found else None)
    write_run_selection(view, selection, outputs, images=images, settings=_settings(choices))
    show_selection(selection, outputs, len(pool.reviewed))
    console.say(f"Next: {console.program()} review {run}, where they are the view 'selected'")
    if as_json:
        said = selection_summary(run, selection, outputs, len(pool.candidates), len(pool.reviewed))
        click.echo(json.dumps({**said, **_of_isal(found)}))
    return 3 if found and found.failed else 0


def _influences(
    view: RunView,
    pool: Pool,
    images: Path | None,
    work: Path,
    force: bool,
    choices: dict[str, Any],
) -> Influences:
    """What is cheap to refuse is refused before the model is loaded, the rest before it is run."""
    from vildcli.labelling.options import LabellingOptions
    from vildcli.selection import influence
    from vildcli.selection.reference import read_reference, refuse_evaluation, refuse_pool

    model = choices["model"] or influence.model_of(view.run)
    for name in ("reference", "evaluation"):
        if choices[name] is not None and choices[name].is_dir():
            raise click.UsageError(f"--{name} of a run is an annotation file, not a folder.")
    if choices["inverse"] == "exact":
        raise click.UsageError("--inverse exact is for --classification, which is convex.")
    if choices["reference"] is None or model is None:
        missing = "--reference JSON" if choices["reference"] is None else "--model M"
        raise click.UsageError(f"isal needs {missing}.")
    reference = read_reference(
        choices["reference"],
        choices["reference_images"],
        view.vocabulary.categories,
        matched_only=choices["matched_only"],
    )
    refuse_pool(reference, {c.image.sha256: c.image.path for c in pool.candidates}, view.run)
    if not choices["as_published"]:
        refuse_evaluation(reference, choices["evaluation"], {})
    influence.refuse_missing_images(view, pool, images)
    given = {name: choices[name] for name in ("prompts", "text_bank", "device", "offline")}
    opened = influence.open_model(view, LabellingOptions(model=model, **given))
    if not choices["as_published"]:
        refuse_evaluation(reference, None, opened.provenance)
    if reference.left_out:
        console.warn(f"{reference.left_out} objects of other categories are left out.")
    console.say(
        f"Reference: {len(reference.images)} images of {reference.path}. Do not evaluate on it."
    )
    names = ("chains", "depth", "pseudo_score")
    inverse: influence.InverseKind = choices["inverse"] or "ekfac"
    found = influence.measure_influences(
        view,
        pool,
        reference,
        opened,
        influence.InfluenceOptions(inverse, **{name: choices[name] for name in names}),
        work,
        images=images,
        force=force,
        progress=console.progress,
    )
    _warn(found)
    return found


def _warn(found: Influences) -> None:
    if scales := found.inverse.scales:
        said = ", ".join(f"{layer} {scale:g}" for layer, scale in scales.items())
        console.say(f"Scales of LiSSA: {said}")
    for layer, times in found.inverse.resets.items():
        if times:
            console.warn(f"LiSSA began anew {times} times at {layer}: its product was not finite.")
    if found.unknown:
        console.warn(f"Layers without a finite direction say nothing: {', '.join(found.unknown)}.")
    if nans := sum(value != value for value in found.values.values()):
        console.warn(f"{nans} images have no finite gradient; they come last.")
    for image_id, reason in list(found.failed.items())[:SHOWN]:
        console.warn(f"Image {image_id}: {reason}")


def _of_isal(found: Influences | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "influences": len(found.values),
        "computed": found.computed,
        "failed": len(found.failed),
        "scales": dict(found.inverse.scales),
        "resets": dict(found.inverse.resets),
        "unknown_layers": list(found.unknown),
    }


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


def _pool(view: RunView, choices: dict[str, Any]) -> Pool:
    from vildcli.data.lvis import load_annotations
    from vildcli.selection.pool import read_pool

    reviewed = [load_annotations(file) for file in choices["reviewed"]]
    return read_pool(view, reviewed=reviewed, pseudo_score=choices["pseudo_score"])


def _settings(choices: dict[str, Any]) -> dict[str, Any]:
    names = ("diverse", "pseudo_score", "seed", "image_seconds", "box_seconds")
    said = {name: choices[name] for name in names}
    said["reviewed"] = [str(file) for file in choices["reviewed"]]
    if choices["strategy"] == "isal":
        said |= {"model": choices["model"], "reference": str(choices["reference"])}
        said["inverse"] = choices["inverse"] or "ekfac"
        if choices["inverse"] == "lissa":
            said |= {name: choices[name] for name in ("chains", "depth")}
    return said
