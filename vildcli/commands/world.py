"""`vildcli world`: draw a small world."""

from __future__ import annotations

from pathlib import Path

import click

from vildcli.console import program, progress, say


@click.command(
    epilog="\b\nExample:\n  vildcli world small-world --images 600 --seed 0",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--images", default=600, show_default=True, type=click.IntRange(1), help="To train on."
)
@click.option(
    "--val-images", default=300, show_default=True, type=click.IntRange(1), help="To validate on."
)
@click.option(
    "--caption-images",
    default=400,
    show_default=True,
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
    help="emoji needs a colour-emoji font.",
)
@click.option("--force", is_flag=True, help="Delete another world in DIR first.")
def command(
    folder: Path,
    images: int,
    val_images: int,
    caption_images: int,
    seed: int,
    sprites: str,
    force: bool,
) -> None:
    """Draw a small world of sprites into DIR.

    Long-tailed training and uniform validation images with LVIS annotations, a vocabulary, and
    captioned crops for a teacher. The same arguments give the same world.
    """
    from vildcli.world.world import draw_world

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
            sprites="emoji" if sprites == "emoji" else "shapes",
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
