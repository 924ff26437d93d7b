"""`vildcli detect`: label image folders with any vocabulary."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.commands.grouping import GroupedCommand

if TYPE_CHECKING:
    from vildcli.labelling.label import StageSeconds
    from vildcli.labelling.plan import Shard
    from vildcli.labelling.run import LabellingRun
    from vildcli.labelling.sources import FoundImages
    from vildcli.labelling.summary import LabellingSummary
    from vildcli.vocabulary.category import Vocabulary

EXAMPLE = """\
\b
Examples:
  vildcli detect photos --classes "apple, pear"
  vildcli detect photos --model runs/demo/model.safetensors --vocab coco --out runs/photos
"""
SHEET_FILE = "sheet.png"
FAILURES_SHOWN = 5
MIB_A_REGION = 2 * 512 * 2 / 2**20  # two embeddings of 512 float16
DEFAULT_REGIONS = 300

_MODEL_CHOICES = ("model", "teacher", "proposals", "regions", "fusion", "device", "offline")
_GROUPS = {
    "What to look for": (
        "vocab",
        "classes",
        "prompts",
        "attribute_prompts",
        "context",
        "text_bank",
    ),
    "Model": _MODEL_CHOICES,
    "Which labels are kept": ("floor", "conf", "max_det", "nms", "roll_up"),
    "Which images": ("every", "limit", "add_new"),
    "Run": ("out", "keep_regions", "shard", "force", "batch", "workers"),
}


def _shard(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Shard:
    from vildcli.labelling.plan import WHOLE, Shard

    if value is None:
        return WHOLE
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not i/n with i from 1 to n, such as 1/4.")
    return Shard(int(match[1]), int(match[2]))


def _seconds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Fraction | None:
    if value is None:
        return None
    try:
        seconds = Fraction(value)
    except (ValueError, ZeroDivisionError):
        seconds = Fraction(0)
    if seconds <= 0:
        raise click.BadParameter(f"{value!r} is not a number of seconds, such as 0.5 or 1/30.")
    return seconds


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_COUNT = click.IntRange(min=1)
_FRACTION = click.FloatRange(0, 1)
_model_options = _options(
    click.option(
        "--model",
        default="clip-on-crops",
        show_default=True,
        metavar="MODEL",
        help="A model file, a training run, or clip-on-crops.",
    ),
    click.option(
        "--teacher",
        metavar="T",
        help="open_clip model that sees crops, NAME:TAG or NAME:FILE; with a vild-text model it"
        " adds an image side.  [default: ViT-B-32:openai for clip-on-crops]",
    ),
    click.option(
        "--proposals",
        default="torchvision",
        show_default=True,
        metavar="P",
        help="Where clip-on-crops gets its boxes: torchvision, a model, a COCO JSON.",
    ),
    click.option(
        "--regions",
        type=_COUNT,
        metavar="N",
        help="Regions taken from an image.  [default: 300; clip-on-crops 100]",
    ),
    click.option(
        "--prompts",
        metavar="P",
        help="Sentences: vild-63, clip-80, detpro-74, single, bare, or a file."
        "  [default: the model's]",
    ),
    click.option(
        "--attribute-prompts",
        metavar="P",
        help="Sentences for attributes.  [default: attributes; bare where the model's are]",
    ),
    click.option(
        "--context",
        metavar="C",
        help="Names to score against beside yours: none, a vocabulary, a file."
        "  [default: the model's base categories]",
    ),
    click.option(
        "--text-bank",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Text embeddings of the vocabulary, made elsewhere.",
    ),
    click.option(
        "--fusion",
        metavar="RULE",
        help="uniform:0.6 for every name, or objectness:0.5.  [default: published]",
    ),
    click.option(
        "--floor",
        type=_FRACTION,
        metavar="SCORE",
        default=0.01,
        show_default=True,
        help="Score from which a label is stored.",
    ),
    click.option(
        "--max-det", type=_COUNT, default=300, show_default=True, help="Most labels of an image."
    ),
    click.option(
        "--nms",
        type=click.Choice(["class", "agnostic", "group", "none"]),
        default="agnostic",
        show_default=True,
        help="Which overlapping labels suppress each other.",
    ),
    click.option(
        "--roll-up",
        type=_FRACTION,
        metavar="S",
        help="Below the score S give the nearest broader name that reaches it.",
    ),
    click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps.  [default: the best]"),
    click.option("--offline", is_flag=True, help="Never use the network."),
)
_run_options = _options(
    click.option("--vocab", metavar="V", help="A vocabulary: coco, lvis-v1, … or a file."),
    click.option("--classes", metavar="NAMES", help='Names with commas between: "apple, pear".'),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="RUN",
        help="Folder of the run.  [default: runs/<source>-<fingerprint>]",
    ),
    click.option(
        "--keep-regions",
        is_flag=True,
        help="Store every region's embeddings, so that relabel needs no image.",
    ),
    click.option(
        "--conf",
        type=_FRACTION,
        metavar="SCORE",
        help="Score from which the contact sheet shows labels.",
    ),
    click.option("--batch", type=_COUNT, default=8, show_default=True, help="Images a batch."),
    click.option(
        "--workers",
        type=_COUNT,
        metavar="N",
        default=min(4, os.cpu_count() or 1),
        show_default="up to 4",
        help="Threads that decode images.",
    ),
    click.option(
        "--shard",
        callback=_shard,
        metavar="I/N",
        help="Only every n-th unit from the i-th, for several machines on one --out.",
    ),
    click.option(
        "--every",
        callback=_seconds,
        metavar="SECONDS",
        help="Label frames of videos, one so often; without it videos are skipped.",
    ),
    click.option("--limit", type=_COUNT, metavar="N", help="At most N images in the run."),
    click.option("--add-new", is_flag=True, help="Append images that a run does not have yet."),
    click.option("--force", is_flag=True, help="Delete another vildcli run at --out first."),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and stop."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
)


@click.command(cls=GroupedCommand, groups=_GROUPS, epilog=EXAMPLE)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@_model_options
@_run_options
def command(
    sources: tuple[str, ...],
    vocab: str | None,
    classes: str | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    **choices: Any,
) -> int:
    """Label image folders with any vocabulary.

    SOURCE is a folder, an image file, a glob, a tar archive (WebDataset), a video (with --every),
    or a .txt file that lists any of them. A run that was interrupted continues when the same
    command is given again; one that is complete says so.
    """
    from vildcli.commands.embed import warn_of_unread
    from vildcli.labelling.run import check_out
    from vildcli.labelling.sources import find_images

    # What is cheap to refuse is refused before a model is loaded.
    found = find_images(sources, every=choices["every"])
    vocabulary = chosen_vocabulary(vocab, classes)
    if out and not choices["force"]:
        check_out(out)
    _show_found(found)
    if dry_run:
        _show_plan(found, choices)
        return 0
    model = _open_model(vocabulary, choices)
    warn_of_unread(model.labeller.unread)
    run = _open_run(out, found, vocabulary, model, choices)
    _show_opened(run, choices["shard"], model.seconds_per_image)
    summary, seconds = _label(run, model, found.skipped.total(), choices)
    _show_result(run, summary, seconds, choices["conf"])
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    return 3 if summary.failed and run.state != "complete" else 0


def chosen_vocabulary(vocab: str | None, classes: str | None) -> Vocabulary:
    from vildcli.vocabulary.files import load_vocabulary, parse_classes

    if (vocab is None) == (classes is None):
        raise click.UsageError('Give either --vocab V or --classes "apple, pear".')
    return load_vocabulary(vocab) if vocab is not None else parse_classes(classes or "")


def _open_model(vocabulary: Vocabulary, choices: dict[str, Any]) -> Any:
    from vildcli.labelling.model import open_labelling_model
    from vildcli.labelling.options import LabellingOptions

    words = ("prompts", "attribute_prompts", "context", "text_bank")
    names = (*_MODEL_CHOICES, *words, "floor", "max_det", "nms", "roll_up")
    options = LabellingOptions(**{name: choices[name] for name in names})
    return open_labelling_model(vocabulary, options)


def _open_run(
    out: Path | None,
    found: FoundImages,
    vocabulary: Vocabulary,
    model: Any,
    choices: dict[str, Any],
) -> LabellingRun:
    from vildcli.labelling.run import labelling_settings, open_labelling_run
    from vildcli.runs import fingerprint

    settings = {**model.settings, "keep_regions": choices["keep_regions"]}
    if out is None:
        source = next(iter(found.roots))
        out = Path("runs", f"{source}-{fingerprint(labelling_settings(settings))[:8]}")
    run = open_labelling_run(
        out,
        found,
        settings,
        vocabulary,
        arguments={
            "default_conf": model.default_conf,
            "batch": choices["batch"],
            "provenance": model.provenance,
        },
        force=choices["force"],
        add_new=choices["add_new"],
        limit=choices["limit"],
    )
    if choices["keep_regions"]:
        model.save_head(run.folder)
    return run


def _label(
    run: LabellingRun, model: Any, skipped: int, choices: dict[str, Any]
) -> tuple[LabellingSummary, StageSeconds]:
    from vildcli.labelling.label import LabellingJob, Watch, label_images

    job = LabellingJob(
        keep_regions=choices["keep_regions"],
        batch_size=choices["batch"],
        workers=choices["workers"],
    )
    left = run.left(choices["shard"])
    with console.progress("Labelling", left) as advance:
        # A model that can be measured beforehand has said how long it will take.
        watch = Watch(advance if model.seconds_per_image else _Forecast(left, advance))
        summary = label_images(
            run.folder, model, job, watch, shard=choices["shard"], skipped=skipped
        )
    return summary, watch.seconds


class _Forecast:
    """Moves a bar on, and says once, after the first images, how long the others will take."""

    def __init__(self, left: int, advance: Callable[[int], None]) -> None:
        self._left, self._advance = left, advance
        self._begin, self._said = time.perf_counter(), False

    def __call__(self, images: int) -> None:
        self._left -= images
        if not self._said and self._left > 0:
            seconds = self._left / images * (time.perf_counter() - self._begin)
            console.say(f"The rest will take {_duration(seconds)}.")
        self._said = True
        self._advance(images)


def _show_found(found: FoundImages) -> None:
    images, skipped = _count(len(found.images), "image"), found.skipped_text()
    console.say(f"{images} found" + (f" ({skipped})." if skipped else "."))


def _show_plan(found: FoundImages, choices: dict[str, Any]) -> None:
    from vildcli.labelling.plan import make_plan

    plan = make_plan(found.images[: choices["limit"]])
    images, units = _count(len(plan), "image"), _count(plan[-1].unit + 1, "unit")
    console.say(f"A run would label {images} in {units}.")
    if choices["keep_regions"]:
        mib = len(plan) * (choices["regions"] or DEFAULT_REGIONS) * MIB_A_REGION
        console.say(f"--keep-regions would store up to {mib:.0f} MiB of embeddings.")


def _show_opened(
    run: LabellingRun, shard: Shard, seconds_per_image: Callable[[], float] | None
) -> None:
    if run.changed:
        console.say(f"{_count(run.changed, 'image')} changed: their units are labelled again.")
    if run.vanished:
        console.warn(f"{_count(run.vanished, 'image')} of the run cannot be found any more.")
    if run.new:
        console.say(f"{_count(run.new, 'image')} not in this run yet; --add-new appends them.")
    if run.added:
        console.say(f"{_count(run.added, 'image')} appended.")
    if run.state == "complete":
        console.say(f"{run.folder} is already done.")
        return
    left = run.left(shard)
    images, units = _count(left, "image"), _count(len(run.units_left(shard)), "unit")
    time = f", {_duration(left * seconds_per_image())}" if seconds_per_image else ""
    verb = "Continuing" if run.state == "continued" else "Starting"
    console.say(f"{verb} {run.folder}: {images} to label in {units}{time}.")


def _show_result(
    run: LabellingRun, summary: LabellingSummary, seconds: StageSeconds, conf: float | None
) -> None:
    from vildcli.labelling.run import FAILED_FILE, write_failures
    from vildcli.review.sheet import write_contact_sheet

    columns = ("images", "labelled", "failed", "labels", "images/s", "peak MiB")
    row = (
        summary.images,
        summary.labelled,
        summary.failed,
        summary.labels,
        summary.images_per_second,
        summary.peak_rss_mib,
    )
    console.show_table(str(run.folder), columns, [row])
    console.say(_stage_text(seconds))
    failed = write_failures(run.folder)
    for image in failed[:FAILURES_SHOWN]:
        console.say(f"Failed: {image.reason}")
    if len(failed) > FAILURES_SHOWN:
        more = len(failed) - FAILURES_SHOWN
        console.say(f"… and {more} more, listed in {run.folder / FAILED_FILE}")
    if summary.labelled:
        sheet = write_contact_sheet(run.folder, run.folder / SHEET_FILE, conf=conf)
        console.say(f"Contact sheet: {sheet}")
    console.say(f"Next: {console.program()} export {shlex.quote(str(run.folder))} --to coco")


def _stage_text(seconds: StageSeconds) -> str:
    """Where the time went: shares of the model's thread, and what went on beside it.

    Such as "Time: 71% forward, 20% decode wait, 9% finish wait; beside it 3 s score, 2 s write".
    """
    own = {
        "forward": seconds.forward,
        "decode wait": seconds.decode_wait,
        "finish wait": seconds.finish_wait,
    }
    total = sum(own.values()) or 1.0
    shares = sorted(own.items(), key=lambda stage: -stage[1])
    text = ", ".join(f"{s / total:.0%} {name}" for name, s in shares)
    return f"Time: {text}; beside it {seconds.score:.0f} s score, {seconds.write:.0f} s write"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
