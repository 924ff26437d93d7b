"""`vildcli demo`: the whole path on the small world."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vildcli import console

if TYPE_CHECKING:
    from vildcli.world.demo import DemoResult
    from vildcli.world.sprites import SpriteKind


@click.command(epilog="\b\nExample:\n  vildcli demo --out runs/demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    metavar="DIR",
    help="Where everything goes.",
)
@click.option(
    "--sprites",
    type=click.Choice(["shapes", "emoji"]),
    default="shapes",
    show_default=True,
    help="emoji are a world of 240 categories: it takes longer and needs a colour-emoji font.",
)
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(out: Path, sprites: SpriteKind, seed: int, as_json: bool) -> None:
    """Draw a small world, train a detector on its base categories, find the novel ones.

    Needs no download and no GPU; minutes on two cores. The same command continues an interrupted
    demo.
    """
    from vildcli.world.demo import run_demo

    result = run_demo(out, seed=seed, sprites=sprites, progress=console.progress)
    _show(result, out)
    if as_json:
        click.echo(json.dumps(asdict(result)))


def _show(result: DemoResult, out: Path) -> None:
    rows = [
        ("chance (novel names exchanged)", "", f"{result.chance_novel_ap50:.3f}"),
        ("vild-text", "", f"{result.text_only_novel_ap50:.3f}"),
        ("vild-ensemble", f"{result.base_ap50:.3f}", f"{result.novel_ap50:.3f}"),
        ("the teacher on its regions", "", f"{result.teacher_novel_ap50:.3f}"),
    ]
    console.show_table("Mask AP50 on validation scenes", ("system", "base", "novel"), rows)
    console.say(f"{result.seconds:.0f} s. Look at {out / 'sheet.png'}")
    console.say(f"Labels: {result.coco}")
    console.say(f"Next: {console.program()} detect PHOTOS --model {out}/vild-ensemble --vocab coco")
