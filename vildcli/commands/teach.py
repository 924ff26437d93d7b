"""`vildcli teach`: cache the teacher's embeddings of proposals."""

from __future__ import annotations

from pathlib import Path

import click

from vildcli import console

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
@click.option("--device", help="cpu, cuda, cuda:1.  [default: the best]")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the cache.")
@click.option("--force", is_flag=True, help="Delete another vildcli folder at --out first.")
def command(out: Path, force: bool, **options: object) -> None:
    """Embed the proposals of every image; the same command continues an interrupted one."""
    from vildcli.teacher.session import TeachOptions, count_images, teach

    chosen = TeachOptions(**options)  # type: ignore[arg-type]
    with console.progress("Embedding proposals", count_images(chosen)) as advance:
        teach(chosen, out, force=force, advance=advance)
    console.say(f"Teacher cache: {out}")
    console.say(
        f"Next: {console.program()} train --system vild-ensemble --train {chosen.data} "
        f"--images {chosen.images} --teacher {chosen.teacher} --teacher-cache {out} --out RUN"
    )
