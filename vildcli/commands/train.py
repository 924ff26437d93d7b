"""`vildcli train`: train a row of the systems table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.commands.grouping import GroupedCommand

if TYPE_CHECKING:
    from vildcli.training.inputs import TrainingOptions

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
# Options that stand for a value of the recipe, by the recipe's own names.
_OF_RECIPE = (
    "steps",
    "batch",
    "learning_rate",
    "distillation",
    "distillation_weight",
    "min_visible",
    "novel_logits",
    "clip_norm",
    "precision",
    "frozen_norms",
    "synchronised_norms",
    "shared_normalisers",
    "repeat_threshold",
    "copy_paste",
    "checkpoint_every",
    "distilled_regions",
    "redrawn_regions",
    "region_weights",
    "class_loss",
)
# Options that change the system's row, by the row's own names.
_OF_SYSTEM = ("semantic_boxes", "learned_temperature", "free_background")


_GROUPS = {
    "What is trained": ("system", *_OF_SYSTEM, "backbone", "init", "finetune_classifier"),
    "Data": ("annotations", "images", "base", "drop_degenerate", "val", "val_images"),
    "Words and teacher": (
        "teacher",
        "text_encoder",
        "prompts",
        "teacher_cache",
        "proposals",
        "taught_regions",
        "names",
    ),
    "Recipe": ("recipe", *_OF_RECIPE),
}


def _show_systems(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from vildcli.systems import SYSTEMS
    from vildcli.training.recipe import RECIPES

    rows = [
        (s.name, s.text_side or "–", s.image_side or "–", "yes" if s.trained else "no", s.summary)
        for s in SYSTEMS.values()
    ]
    console.show_table("Systems", ("system", "text side", "image side", "trained", "what"), rows)
    recipes = [(name, recipe.batch, recipe.summary) for name, recipe in RECIPES.items()]
    console.show_table("Recipes", ("recipe", "batch", "what"), recipes)
    ctx.exit()


@click.command(
    cls=GroupedCommand,
    groups=_GROUPS,
    rest="Run",
    epilog="\b\nExample:\n  vildcli train --system vild-ensemble --teacher local-dir:demo/teacher"
    " \\\n    --train demo/world/train.json --images demo/world/train --out runs/ensemble"
    "\n  torchrun --nproc_per_node 8 -m vildcli train --recipe paper --backbone resnet50 …",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_systems,
    help="Show systems and recipes, and stop.",
)
@click.option("--system", help="A row of --list.")
@click.option(
    "--finetune-classifier",
    is_flag=True,
    help="Learn only --init's text embeddings, for these annotations.",
)
@click.option(
    "--semantic-boxes/--plain-boxes",
    default=None,
    help="Whether boxes depend on the name (EZSD).",
)
@click.option(
    "--learn-temperature/--fixed-temperature",
    "learned_temperature",
    default=None,
    help="Whether τ is learned, from the encoder's on.",
)
@click.option(
    "--free-background/--unit-background",
    default=None,
    help="Whether the background embedding's length counts.",
)
@click.option("--train", "annotations", type=_FILE, required=True, help="COCO or LVIS JSON.")
@click.option("--images", type=_FOLDER, required=True, help="Folder of its images.")
@click.option("--base", help="Base categories: coco-48, lvis-866, all, a file. [default: not rare]")
@click.option(
    "--backbone",
    default="small",
    show_default=True,
    help="small, resnet50, resnet152, efficientnet_b7, detpro, ezsd.",
)
@click.option(
    "--init",
    default="scratch",
    show_default=True,
    help="scratch, imagenet, coco, a model, or a .pth of torchvision's form.",
)
@click.option("--teacher", default="ViT-B-32:openai", show_default=True, help="open_clip model.")
@click.option("--text-encoder", help="Instead of the teacher's: glove:FILE for the glove system.")
@click.option("--prompts", help="Sentences for names.  [default: vild-63; glove: bare; ezsd: ezsd]")
@click.option("--teacher-cache", type=_FOLDER, help="By `vildcli teach`.  [default: made in --out]")
@click.option(
    "--proposals",
    help="Whose boxes that cache embeds: a model, torchvision, a JSON.  [default: --init, else one "
    "trained for it; teacher, usual of ezsd, chooses among the default's]",
)
@click.option("--taught-regions", default=300, show_default=True, help="Of an image in that cache.")
@click.option(
    "--names",
    default="all",
    show_default=True,
    help="Known to a teacher that chooses regions: base, all, a file.",
)
@click.option("--recipe", default="world", show_default=True, help="How long, how fast: --list.")
@click.option("--steps", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--batch", type=click.IntRange(min=1), help="All processes; SGD's rate follows it.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help="Its peak.")
@click.option("--distill-loss", "distillation", type=click.Choice(["l1", "l2"]), help="Distance.")
@click.option("--distill-weight", "distillation_weight", type=float, help="ViLD's w.")
@click.option(
    "--distill-min-visible",
    "min_visible",
    type=click.FloatRange(0, 1),
    help="Share of a region left after cropping, below which it is not distilled.",
)
@click.option(
    "--distill-regions",
    "distilled_regions",
    type=click.IntRange(min=1),
    help="Of an image, besides its ground truth in the cache.",
)
@click.option(
    "--redraw-regions/--all-regions",
    "redrawn_regions",
    default=None,
    help="Draw as many of those with replacement, anew each time.",
)
@click.option(
    "--region-weights/--equal-regions",
    default=None,
    help="Whether the weights of a teacher cache count.",
)
@click.option(
    "--class-loss",
    type=click.Choice(["softmax", "seesaw"]),
    help="seesaw (0.8, 2) is for long tails.",
)
@click.option("--novel-logits", type=click.Choice(["zero", "masked"]), help="In the softmax.")
@click.option("--clip-norm", type=float, help="Limit of the gradient's norm.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), help="Of the forward pass."
)
@click.option(
    "--frozen-norms",
    type=click.Choice(["none", "backbone", "all"]),
    help="Batch norms that keep their statistics.",
)
@click.option(
    "--sync-norms/--own-norms",
    "synchronised_norms",
    default=None,
    help="Whether batch norms see the batch of all GPUs.",
)
@click.option(
    "--shared-means/--replica-means",
    "shared_normalisers",
    default=None,
    help="Whether losses are means over all processes' batch, or as published.",
)
@click.option("--repeat-threshold", type=float, help="Of repeat-factor sampling, such as 0.001.")
@click.option("--copy-paste/--no-copy-paste", default=None, help="Paste objects of other images.")
@click.option("--checkpoint-every", type=click.IntRange(min=1), help="Steps.")
@click.option("--val", type=_FILE, help="LVIS JSON, evaluated with every checkpoint.")
@click.option("--val-images", type=_FOLDER, help="Folder of its images.")
@click.option("--drop-degenerate", is_flag=True, help="Leave out boxes without area.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--workers", default=0, show_default=True, help="Processes that prepare images.")
@click.option("--device", help="cpu, cuda, cuda:1.  [default: the best]")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--force", is_flag=True, help="Delete another vildcli run at --out first.")
def command(
    annotations: Path,
    backbone: str,
    out: Path,
    force: bool,
    finetune_classifier: bool,
    **options: Any,
) -> None:
    """Train a detector; the same command continues an interrupted run.

    Several GPUs: `torchrun --nproc_per_node N -m vildcli train …`. Values of the recipe are the
    recipe's unless an option says otherwise.
    """
    from vildcli.training.inputs import TrainingOptions

    if finetune_classifier == bool(options["system"]):
        raise click.UsageError("Give --system, or --finetune-classifier with --init MODEL.")
    given = {name: options.pop(name) for name in _OF_RECIPE}
    overrides = {name: value for name, value in given.items() if value is not None}
    given = {name: options.pop(name) for name in _OF_SYSTEM}
    variation = {name: value for name, value in given.items() if value is not None}
    options["system"] = options["system"] or ""
    chosen = TrainingOptions(
        train=annotations,
        architecture=backbone,
        overrides=overrides,
        variation=variation,
        **options,
    )
    (_finetune if finetune_classifier else _train)(chosen, out, force)


def _train(options: TrainingOptions, out: Path, force: bool) -> None:
    from vildcli.training.processes import is_first_process
    from vildcli.training.session import train_system

    model = train_system(options, out, force=force, progress=console.progress, say=console.say)
    if not is_first_process():
        return
    console.say(f"Model: {model}")
    console.say(f"Report: {out / 'report.md'}")
    console.say(f"Next: {console.program()} detect PHOTOS --model {out} --vocab coco")


def _finetune(options: TrainingOptions, out: Path, force: bool) -> None:
    from vildcli.training.finetune import finetune_classifier
    from vildcli.training.processes import is_first_process

    bank = finetune_classifier(
        options, out, force=force, progress=console.progress, say=console.say
    )
    if not is_first_process():
        return
    console.say(f"Classifier: {bank}")
    console.say(
        f"Next: {console.program()} evaluate --model {options.init} --text-bank {bank} "
        "--truth JSON --images DIR"
    )
