"""`vildcli relabel`: label a run's stored regions with another vocabulary."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from vildcli import console

_FRACTION = click.FloatRange(0, 1)


@click.command(
    epilog="\b\nExamples:\n  vildcli detect photos --model demo/vild-ensemble --vocab coco "
    "--keep-regions --out runs/a\n  vildcli relabel runs/a --vocab lvis-v1 --out runs/b\n"
    "  vildcli relabel runs/a --nms class --floor 0.1 --out runs/c"
)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--vocab", metavar="V", help="A vocabulary: coco, lvis-v1, … or a file.  [default: the run's]"
)
@click.option("--classes", metavar="NAMES", help='Names with commas between: "apple, pear".')
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="RUN2",
    help="Folder of the new run.",
)
@click.option("--prompts", metavar="P", help="Sentences.  [default: the run's]")
@click.option(
    "--attribute-prompts", metavar="P", help="Sentences for attributes.  [default: the run's]"
)
@click.option(
    "--context",
    metavar="C",
    help="none, a vocabulary, a file.  [default: the model's base categories]",
)
@click.option("--fusion", metavar="RULE", help="uniform:0.6 (two sides), or objectness:0.5.")
@click.option(
    "--floor",
    type=_FRACTION,
    default=0.01,
    show_default=True,
    help="Score from which a label is stored.",
)
@click.option(
    "--max-det",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="Most labels of an image.",
)
@click.option(
    "--nms",
    type=click.Choice(["class", "agnostic", "group", "none"]),
    default="agnostic",
    show_default=True,
    help="Which overlapping labels suppress each other.",
)
@click.option(
    "--roll-up",
    type=_FRACTION,
    metavar="S",
    help="Below the score S give the nearest broader name that reaches it.",
)
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--force", is_flag=True, help="Delete another vildcli run at --out first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    run: Path,
    vocab: str | None,
    classes: str | None,
    out: Path,
    force: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Label the regions that RUN stored (detect --keep-regions): no image, no detector.

    Without a vocabulary RUN's own is taken: its names under another --nms, --floor or --max-det.
    """
    from vildcli.commands.calibrate import warn_of_foreign_thresholds
    from vildcli.commands.detect import chosen_vocabulary
    from vildcli.commands.embed import warn_of_unread
    from vildcli.labelling.options import LabellingOptions
    from vildcli.labelling.relabel import relabel_run
    from vildcli.labelling.run import VOCABULARY_FILE
    from vildcli.labelling.words import open_stored_labeller
    from vildcli.runs import read_run

    if vocab is None and classes is None:
        vocab = str(run / VOCABULARY_FILE)
    vocabulary = chosen_vocabulary(vocab, classes)
    labeller, settings = open_stored_labeller(run, vocabulary, LabellingOptions(**options))  # type: ignore[arg-type]
    warn_of_unread(labeller.unread)
    whole = {**read_run(run, "labelling")["settings"], **settings}
    warn_of_foreign_thresholds(vocabulary, whole)
    with console.progress("Relabelling", None) as advance:
        summary = relabel_run(
            run,
            labeller,
            out,
            settings=settings,
            vocabulary=vocabulary,
            force=force,
            advance=advance,
        )
    console.say(f"{summary.labels} labels on {summary.images} images in {summary.seconds:.1f} s")
    console.say(f"Next: {console.program()} export {out} --to coco")
    if as_json:
        click.echo(json.dumps(asdict(summary)))
