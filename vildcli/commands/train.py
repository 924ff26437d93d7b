"""`vildcli train`: train a row of the systems table."""

from __future__ import annotations

from pathlib import Path

import click

from vildcli import console

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _show_systems(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from vildcli.systems import SYSTEMS

    rows = [
        (s.name, s.text_side or "–", s.image_side or "–", "yes" if s.trained else "no", s.summary)
        for s in SYSTEMS.values()
    ]
    console.show_table("Systems", ("system", "text side", "image side", "trained", "what"), rows)
    ctx.exit()


@click.command(
    epilog="\b\nExample:\n  vildcli train --system vild-text --teacher local-dir:demo/teacher \\"
    "\n    --train demo/world/train.json --images demo/world/train --out runs/vild-text"
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_systems,
    help="Show the systems table and stop.",
)
@click.option("--system", required=True, help="A row of --list.")
@click.option("--train", "annotations", type=_FILE, required=True, help="COCO or LVIS JSON.")
@click.option("--images", type=_FOLDER, required=True, help="Folder of its images.")
@click.option("--base", help="Base categories: coco-48, lvis-866, a file.  [default: not rare]")
@click.option("--teacher", default="ViT-B-32:openai", show_default=True, help="open_clip model.")
@click.option("--teacher-cache", type=_FOLDER, help="Made by `vildcli teach`.")
@click.option("--init", help="A model whose weights are taken over.")
@click.option("--backbone", default="small", show_default=True, help="small, resnet50.")
@click.option("--recipe", default="world", show_default=True, help="How long, how fast.")
@click.option("--steps", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--prompts", default="vild-63", show_default=True, help="Sentences for names.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--workers", default=0, show_default=True, help="Processes that prepare images.")
@click.option("--device", help="cpu, cuda, cuda:1.  [default: the best]")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--force", is_flag=True, help="Delete another vildcli run at --out first.")
def command(
    annotations: Path, backbone: str, steps: int | None, out: Path, force: bool, **options: object
) -> None:
    """Train a detector; the same command continues an interrupted run."""
    from vildcli.training.session import TrainingOptions, recipe_of, train_system

    chosen = TrainingOptions(
        train=annotations,
        architecture=backbone,
        overrides={"steps": steps} if steps else {},
        **options,  # type: ignore[arg-type]
    )
    with console.progress(f"Training {chosen.system}", recipe_of(chosen).steps) as advance:
        model = train_system(chosen, out, force=force, advance=advance)
    console.say(f"Model: {model}")
    console.say(f"Next: {console.program()} detect PHOTOS --model {out} --vocab coco")
