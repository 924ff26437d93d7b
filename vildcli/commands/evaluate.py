"""`vildcli evaluate`: average precision of a model on an annotation set."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vildcli import console

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(
    epilog="\b\nExample:\n  vildcli evaluate --model demo/vild-ensemble "
    "--truth demo/world/val.json --images demo/world/val"
)
@click.option("--model", required=True, help="A model file or a training run.")
@click.option("--truth", type=_FILE, required=True, help="LVIS JSON.")
@click.option("--images", type=_FOLDER, required=True, help="Folder of its images.")
@click.option("--regions", default=1000, show_default=True, help="Proposals an image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(model: str, truth: Path, images: Path, regions: int, as_json: bool) -> None:
    """Mask AP of a model on an LVIS annotation set, as published: 300 detections an image.

    Base and novel follow the model's own list of what it was trained on.
    """
    from vildcli.data.lvis import load_annotations
    from vildcli.evaluation.model import evaluate_model

    with console.progress("Evaluating", len(load_annotations(truth).images)) as advance:
        result = evaluate_model(truth, images, model, regions=regions, advance=advance)
    rows = [(name, value) for name, value in result.lvis.metrics.items()]
    rows += [("base AP50", result.base_ap50), ("novel AP50", result.novel_ap50)]
    console.show_table("Mask AP", ("metric", "value"), rows)
    if as_json:
        click.echo(json.dumps(dict(rows)))
