"""`vildcli teach`: cache the teacher's embeddings of proposals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vildcli import console

if TYPE_CHECKING:
    from vildcli.teacher.figures import TeacherFigures

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(
    epilog="\b\nExample:\n  vildcli teach --data w/train.json --images w/train "
    "--teacher local-dir:demo/teacher \\\n    --proposals runs/vild-text --out runs/teacher-cache"
)
@click.option("--data", type=_FILE, required=True, help="COCO or LVIS JSON.")
@click.option("--images", type=_FOLDER, required=True, help="Folder of its images.")
@click.option("--teacher", default="ViT-B-32:openai", show_default=True, help="open_clip model.")
@click.option(
    "--proposals",
    required=True,
    help="Whose boxes are embedded: a model, torchvision, or a COCO JSON of boxes.",
)
@click.option("--regions", default=300, show_default=True, help="Proposals an image.")
@click.option(
    "--prompts",
    default="vild-63",
    show_default=True,
    help="Sentences that the teacher is asked about true boxes with.",
)
@click.option("--device", help="cpu, cuda, cuda:1.  [default: the best]")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the cache.")
@click.option("--force", is_flag=True, help="Delete another vildcli folder at --out first.")
def command(out: Path, force: bool, **options: object) -> None:
    """Embed the proposals of every image; the same command continues an interrupted one.

    Ends with the teacher's accuracy on true boxes and the recall of the proposals.
    """
    from vildcli.teacher.figures import doubt_about
    from vildcli.teacher.session import TeachOptions, count_images, teach

    chosen = TeachOptions(**options)  # type: ignore[arg-type]
    with console.progress("Embedding proposals", count_images(chosen)) as advance:
        result = teach(chosen, out, force=force, advance=advance)
    _show(result.figures)
    if doubt := doubt_about(result.figures):
        console.warn(doubt)
    console.say(f"Teacher cache: {out} ({result.images} images, {result.embedded} of them new)")
    console.say(
        f"Next: {console.program()} train --system vild-ensemble --train {chosen.data} "
        f"--images {chosen.images} --teacher {chosen.teacher} --teacher-cache {out} --out RUN"
    )


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
