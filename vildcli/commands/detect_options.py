"""The options of `vildcli detect`: their help, their order, and what cannot be said together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vildcli.labelling.options import LabellingOptions
    from vildcli.labelling.plan import Shard

AUTO = 0  # --batch auto

_MODEL_CHOICES = (
    "model",
    "teacher",
    "proposals",
    "regions",
    "tile",
    "tile_overlap",
    "fusion",
    "precision",
    "device",
    "offline",
)
_WORDS = ("prompts", "attribute_prompts", "context", "text_bank")
_KEPT = ("floor", "max_det", "nms", "roll_up")
GROUPS = {
    "What to look for": ("vocab", "classes", *_WORDS),
    "Model": _MODEL_CHOICES,
    "Which labels are kept": ("floor", "conf", "max_det", "nms", "roll_up"),
    "Which images": ("every", "limit", "sample", "seed", "add_new", "dedupe"),
    "Labels that people made": ("labels", "existing"),
    "Run": (
        "out",
        "keep_regions",
        "region_dtype",
        "devices",
        "shard",
        "engine",
        "ray_address",
        "actors",
        "force",
        "batch",
        "workers",
    ),
}


def labelling_options(choices: Mapping[str, Any]) -> LabellingOptions:
    """What of the choices opens a model.

    Raises:
        click.UsageError: a tile without size.
    """
    from vildcli.labelling.options import LabellingOptions
    from vildcli.labelling.tiles import Tiling

    names = set(_MODEL_CHOICES) - {"tile", "tile_overlap"} | {*_WORDS, *_KEPT, "region_dtype"}
    tile, overlap = choices["tile"], choices["tile_overlap"]
    tiling = None if tile is None else Tiling(tile, *() if overlap is None else (overlap,))
    return LabellingOptions(**{name: choices[name] for name in names}, tiling=tiling)


def rate_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Those choices that decide how long an image takes."""
    where = {"devices", "engine", "ray_address", "actors"}
    names = set(_MODEL_CHOICES) - {"fusion", "offline"} | where
    return {name: choices[name] for name in sorted(names)}


def refuse_contradictions(choices: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing without another, or not beside it.

    Raises:
        click.UsageError: there are such.
    """
    needs = {"tile_overlap": "tile", "existing": "labels"}
    for option, other in needs.items():
        if choices[option] is not None and choices[other] is None:
            raise click.UsageError(f"{_spelled(option)} is for {_spelled(other)}.")
    for option in ("ray_address", "actors"):
        if choices[option] is not None and choices["engine"] != "ray":
            raise click.UsageError(f"{_spelled(option)} is for --engine ray.")
    if choices["devices"] and choices["engine"] == "ray":
        raise click.UsageError("Give either --devices D,D or --engine ray.")
    if choices["devices"] and choices["device"]:
        raise click.UsageError("Give either --device D or --devices D,D.")


def _spelled(option: str) -> str:
    return "--" + option.replace("_", "-")


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


def _batch(ctx: click.Context, parameter: click.Parameter, value: str) -> int:
    if value == "auto":
        return AUTO
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a number of images nor auto.")
    return int(value)


def _devices(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Such as ("cuda:0", "cuda:1") of "0,1"."""
    if value is None:
        return ()
    names = [name.strip() for name in value.split(",")]
    if not all(re.fullmatch(r"\d+|cpu|mps|cuda(:\d+)?", name) for name in names):
        raise click.BadParameter(f"{value!r} is no list of devices, such as 0,1 or cpu,cpu.")
    return tuple(f"cuda:{name}" if name.isdecimal() else name for name in names)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_COUNT = click.IntRange(min=1)
_FRACTION = click.FloatRange(0, 1)
model_options = _options(
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
        "--tile",
        type=click.IntRange(min=32),
        metavar="PIXELS",
        help="Look at images that are larger than this in square tiles as well, such as 1024.",
    ),
    click.option(
        "--tile-overlap",
        type=click.FloatRange(0, 0.9),
        metavar="SHARE",
        help="Of a tile's side, what it shares with the next one.  [default: 0.2]",
    ),
    click.option(
        "--prompts",
        metavar="P",
        help="Sentences: vild-63, clip-80, detpro-74, ezsd, single, bare, a file."
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
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        show_default=True,
        help="Of the model's products; bf16 is faster on a GPU and moves scores a little.",
    ),
    click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps.  [default: the best]"),
    click.option("--offline", is_flag=True, help="Never use the network."),
)
run_options = _options(
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
        "--region-dtype",
        type=click.Choice(["float16", "int8"]),
        default="float16",
        show_default=True,
        help="What embeddings are rounded to, scored and stored as; int8 takes half the space.",
    ),
    click.option(
        "--conf",
        type=_FRACTION,
        metavar="SCORE",
        help="Score from which the contact sheet shows labels.",
    ),
    click.option(
        "--batch",
        callback=_batch,
        metavar="N|auto",
        default="auto",
        show_default=True,
        help="Images a batch; auto halves it where memory runs out.",
    ),
    click.option(
        "--workers",
        type=_COUNT,
        metavar="N",
        default=min(4, os.cpu_count() or 1),
        show_default="up to 4",
        help="Threads that decode images, of each process.",
    ),
    click.option(
        "--devices",
        callback=_devices,
        metavar="D,D",
        help="One process a device: 0,1 (GPUs) or cpu,cpu.",
    ),
    click.option(
        "--shard",
        callback=_shard,
        metavar="I/N",
        help="Only every n-th unit from the i-th, for several machines on one --out.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where models run: on this machine, or on those of a Ray cluster that share --out.",
    ),
    click.option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Of the cluster.  [default: $RAY_ADDRESS; else one is started here]",
    ),
    click.option(
        "--actors",
        type=_COUNT,
        metavar="N",
        help="Models that the cluster opens.  [default: one a GPU, or one a machine]",
    ),
    click.option(
        "--every",
        callback=_seconds,
        metavar="SECONDS",
        help="Label frames of videos, one so often; without it videos are skipped.",
    ),
    click.option("--limit", type=_COUNT, metavar="N", help="At most N images in the run."),
    click.option("--sample", type=_COUNT, metavar="N", help="N images, chosen at random."),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of --sample: another one chooses others.",
    ),
    click.option("--add-new", is_flag=True, help="Append images that a run does not have yet."),
    click.option(
        "--dedupe",
        is_flag=True,
        help="Look at one of several files of the same bytes; the others get its labels.",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="JSON",
        help="Labels that people made of some of the images, COCO or LVIS.",
    ),
    click.option(
        "--existing",
        type=click.Choice(["skip", "merge", "replace"]),
        help="What becomes of those images: skip them, merge (label what no one drew a box"
        " around), replace (label them like the others).  [default: skip]",
    ),
    click.option("--force", is_flag=True, help="Delete another vildcli run at --out first."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Say what would be done, how long it takes and how much it stores; write nothing.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="What is said while it runs: for people, or one JSON object a line.",
    ),
)
