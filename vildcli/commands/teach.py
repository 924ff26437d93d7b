"""`vildcli teach`: cache the teacher's embeddings of proposals, or adapt the teacher first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.commands.grouping import GroupedCommand

if TYPE_CHECKING:
    from vildcli.teacher.adapt_session import AdaptResult
    from vildcli.teacher.figures import TeacherFigures

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_OF_RECIPE = ("towers", "loss", "epochs", "learning_rate")
_OF_ADAPTATION = (*_OF_RECIPE, "val", "val_images")
_OF_CHOICE = ("names", "among", "pick")
_GROUPS = {
    "Data and teacher": ("data", "images", "base", "teacher", "prompts"),
    "Regions": ("proposals", "regions", *_OF_CHOICE),
    "Adaptation (EZSD)": ("adapt", *_OF_ADAPTATION),
}


@click.command(
    cls=GroupedCommand,
    groups=_GROUPS,
    rest="Run",
    epilog="\b\nExample:\n  vildcli teach --data w/train.json --images w/train "
    "--teacher local-dir:demo/teacher \\\n    --proposals runs/vild-text --out runs/teacher-cache"
    "\n  vildcli teach --adapt --data w/train.json --images w/train --out runs/adapted"
    "\n  vildcli teach --proposals teacher --among runs/vild-text --names all "
    "--teacher local-dir:runs/adapted …",
)
@click.option("--data", type=_FILE, required=True, help="COCO or LVIS JSON.")
@click.option("--images", type=_FOLDER, required=True, help="Folder of its images.")
@click.option("--base", help="Base categories: coco-48, lvis-866, all, a file. [default: not rare]")
@click.option("--teacher", default="ViT-B-32:openai", show_default=True, help="open_clip model.")
@click.option("--prompts", help="Sentences for names.  [default: vild-63; EZSD: ezsd]")
@click.option(
    "--proposals",
    help="Whose boxes are embedded: a model, torchvision, a COCO JSON of boxes, or teacher, which "
    "chooses them itself (EZSD).",
)
@click.option("--regions", default=300, show_default=True, help="Proposals an image.")
@click.option(
    "--names",
    help="Of --proposals teacher: known at training time: base, all, a vocabulary.  [all]",
)
@click.option(
    "--among",
    help="Of --proposals teacher: the boxes that it chooses from: anchors, as published, or in a "
    "tenth of the time those of a model, of torchvision, of a JSON.  [anchors]",
)
@click.option(
    "--pick",
    type=click.Choice(["unlike-base", "random", "best"]),
    help="Of its candidates: the surest unlike base (COCO), any (LVIS), the surest.",
)
@click.option("--adapt", is_flag=True, help="Train the teacher's LayerNorms on base ground truth.")
@click.option("--adapt-towers", "towers", type=click.Choice(["both", "vision"]), help="[both]")
@click.option(
    "--adapt-loss", "loss", type=click.Choice(["sigmoid", "softmax"]), help="Over names.  [sigmoid]"
)
@click.option("--epochs", type=click.IntRange(min=1), help="[12]")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help="[0.0001]")
@click.option("--val", type=_FILE, help="Whose true boxes the accuracy is of.  [default: --data]")
@click.option("--val-images", type=_FOLDER, help="Folder of its images.  [default: --images]")
@click.option("--device", help="cpu, cuda, cuda:1.  [default: the best]")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the result.")
@click.option("--force", is_flag=True, help="Delete another vildcli folder at --out first.")
def command(out: Path, force: bool, adapt: bool, **options: Any) -> None:
    """Embed the proposals of every image; the same command continues an interrupted one.

    Ends with the teacher's accuracy on true boxes and the recall of the proposals. With --adapt,
    adapts the teacher to base ground truth instead.
    """
    refuse_mixed_options(adapt, options)
    given = {name: value for name, value in options.items() if value not in (None, False)}
    if adapt:
        _adapt(out, force, given)
    else:
        _teach(out, force, given)


def refuse_mixed_options(adapt: bool, options: dict[str, Any]) -> None:
    """Refuse options of one use of the command in another."""
    proposals = options["proposals"]
    if adapt and proposals:
        raise click.UsageError("--adapt makes a teacher and --proposals a cache: one at a time.")
    if not adapt and not proposals:
        raise click.UsageError("Missing option '--proposals', or --adapt.")
    foreign: tuple[str, ...]
    if adapt:
        use, foreign = "--adapt", _OF_CHOICE
    elif proposals == "teacher":
        use, foreign = "--proposals teacher", _OF_ADAPTATION
    else:
        use, foreign = "these proposals", (*_OF_CHOICE, *_OF_ADAPTATION, "base")
    if wrong := [name for name in foreign if options[name] not in (None, False)]:
        raise click.UsageError(f"{_flag(wrong[0])} says nothing about {use}.")


def _flag(name: str) -> str:
    prefix = "adapt-" if name in ("towers", "loss") else ""
    return f"--{prefix}{name.replace('_', '-')}"


def _teach(out: Path, force: bool, options: dict[str, Any]) -> None:
    from vildcli.teacher.chosen_regions import ANCHORS, TEACHER
    from vildcli.teacher.figures import doubt_about
    from vildcli.teacher.session import TeachOptions, count_images, teach

    chosen = TeachOptions(**options)
    if chosen.proposals == TEACHER and chosen.among == ANCHORS:
        console.say(
            "Every anchor is cropped, up to 15,750 an image: --among a detector's boxes takes a "
            "tenth of that."
        )
    with console.progress("Embedding proposals", count_images(chosen)) as advance:
        result = teach(chosen, out, force=force, advance=advance)
    _show(result.figures)
    if doubt := doubt_about(result.figures):
        console.warn(doubt)
    console.say(f"Teacher cache: {out} ({result.images} images, {result.embedded} of them new)")
    system = "ezsd" if chosen.proposals == TEACHER else "vild-ensemble"
    console.say(
        f"Next: {console.program()} train --system {system} --train {chosen.data} "
        f"--images {chosen.images} --teacher {chosen.teacher} --teacher-cache {out} --out RUN"
    )


def _adapt(out: Path, force: bool, options: dict[str, Any]) -> None:
    from vildcli.teacher.adapt import AdaptRecipe
    from vildcli.teacher.adapt_session import AdaptOptions, adapt_teacher, count_steps

    recipe = AdaptRecipe(**{name: options.pop(name) for name in _OF_RECIPE if name in options})
    del options["regions"]
    chosen = AdaptOptions(recipe=recipe, **options)
    with console.progress("Adapting the teacher", count_steps(chosen)) as advance:
        result = adapt_teacher(chosen, out, force=force, advance=advance)
    _show_adaptation(result, "--val" if chosen.val else "--data, which base was trained on")
    console.say(
        f"Adapted teacher: {out} ({result.vision:,} vision and {result.text:,} text parameters, "
        f"{result.objects:,} base objects)"
    )
    console.say(
        f"Next: {console.program()} teach --proposals teacher --data {chosen.data} "
        f"--images {chosen.images} --teacher local-dir:{out} --out CACHE"
    )


def _show_adaptation(result: AdaptResult, where: str) -> None:
    rows = [
        (name, _share(result.before[name]), _share(result.after[name])) for name in result.before
    ]
    title = f"Top-1 on crops of true boxes of {where}; novel for analysis only"
    console.show_table(title, ("categories", "before", "after"), rows)


def _show(figures: TeacherFigures) -> None:
    columns = ("categories", "teacher's top-1", "true boxes", "proposals' recall", "true boxes")
    rows = [
        (
            name,
            *(_share(group["accuracy"]), group["asked"], _share(group["recall"]), group["objects"]),
        )
        for name, group in figures["groups"].items()
    ]
    title = f"On true boxes (chance {figures['chance']:.3f}; recall at IoU 0.5, of any class)"
    console.show_table(title, columns, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
