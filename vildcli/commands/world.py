"""`vildcli world`: draw a small world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vildcli.console import program, progress, say

if TYPE_CHECKING:
    from vildcli.world.sprites import SpriteKind


@click.command(
    epilog="\b\nExamples:\n  vildcli world small-world --images 600 --seed 0\n"
    "  vildcli world emoji-world --sprites emoji --without-novel",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--images",
    show_default="600, emoji 2400",
    type=click.IntRange(1),
    help="To train on.",
)
@click.option(
    "--val-images",
    show_default="300, emoji 1200",
    type=click.IntRange(1),
    help="To validate on.",
)
@click.option(
    "--caption-images",
    show_default="400, emoji 1200",
    type=click.IntRange(1),
    help="Scenes of captioned crops, for the teacher.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of everything random."
)
@click.option(
    "--sprites",
    default="shapes",
    show_default=True,
    type=click.Choice(["shapes", "emoji"]),
    help="60 painted shapes; or 240 emoji, which need a colour-emoji font.",
)
@click.option(
    "--without-novel",
    is_flag=True,
    help="Training images without novel objects, not even unannotated ones.",
)
@click.option(
    "--backgrounds",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Lay objects on crops of these photographs, not on textures.",
)
@click.option(
    "--gap",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="How far scenes are from captioned crops: darker, blurred, tinted.",
)
@click.option("--force", is_flag=True, help="Delete another world in DIR first.")
def command(
    folder: Path,
    images: int | None,
    val_images: int | None,
    caption_images: int | None,
    seed: int,
    sprites: SpriteKind,
    without_novel: bool,
    backgrounds: Path | None,
    gap: float,
    force: bool,
) -> None:
    """Draw a small world of sprites into DIR.

    Long-tailed training and uniform validation images with LVIS annotations, a vocabulary, and
    captioned crops for a teacher. The same arguments give the same world.
    """
    from vildcli.world.quotas import PLANS
    from vildcli.world.world import draw_world

    plan = PLANS[sprites]
    images = images or plan.images
    val_images = val_images or plan.val_images
    caption_images = caption_images or plan.caption_images
    drawn = 0
    with progress("Drawing", images + val_images + caption_images) as advance:

        def count() -> None:
            nonlocal drawn
            drawn += 1
            advance()

        world = draw_world(
            folder,
            images=images,
            val_images=val_images,
            caption_images=caption_images,
            seed=seed,
            sprites=sprites,
            novel=not without_novel,
            backgrounds=backgrounds,
            gap=gap,
            force=force,
            advance=count,
        )
    if not drawn:
        say(f"{folder} is already drawn.")
    say(f"{folder} holds the world: {images} training and {val_images} validation images.")
    name = program()
    say(
        f"Next: {name} train --system vild-text --train {world.train_json} "
        f"--images {world.train_images} --out MODEL"
    )
