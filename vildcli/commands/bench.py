"""`vildcli bench`: what an image takes on this machine, stage by stage."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console

if TYPE_CHECKING:
    from vildcli.labelling.operations import Rates
    from vildcli.labelling.stage_times import StageTime, StageTimes, Subject

EXAMPLE = """\
\b
Examples:
  vildcli bench
  vildcli bench photos --model runs/lvis --vocab lvis-v1 --images 10
  vildcli bench --names 80,20000 --regions 1000 --precision bf16 --json > bench.json
"""
NAMES = (80, 1203, 20_000)  # COCO, LVIS, as many as anybody has labelled with
RANDOM_ARCHITECTURE = "resnet50"
RANDOM = (
    "RANDOM WEIGHTS of ViLD's published architecture: the times are those of a trained model, the "
    "labels mean nothing."
)
_COLUMNS = ("stage", "names", "ms", "share", "GFLOP", "MB", "at best ms", "times", "bound by")
EXPLAINED = (
    "A stage at best: its FLOPs or its bytes, whichever takes longer at those rates. times: how "
    "far from it; below 1 bytes stay in a cache. Bound by neither: serial code, small operations."
)
_MIB = 2**20


def _counts(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """80,1203."""
    if value is None:
        return None
    try:
        counts = tuple(sorted({int(count) for count in value.split(",")}))
    except ValueError:
        counts = (0,)
    if counts[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 80,1203.")
    return counts


@click.command(epilog=EXAMPLE)
@click.argument("source", required=False, type=click.Path())
@click.option("--model", metavar="MODEL", help="As for detect.  [default: random weights]")
@click.option("--vocab", metavar="V", help="Names to score: coco, lvis-v1, … or a file.")
@click.option(
    "--names",
    metavar="N,N",
    callback=_counts,
    help="How many random names to score.  [default: 80,1203,20000; none beside --vocab]",
)
@click.option(
    "--regions", type=click.IntRange(min=1), metavar="N", help="Of an image.  [default: 300]"
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of convolutions and products.",
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps.  [default: the best]")
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Of SOURCE, evenly spread over it.",
)
@click.option(
    "--turns",
    type=click.IntRange(min=5),
    default=5,
    show_default=True,
    metavar="N",
    help="Of each image; the median counts.",
)
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    source: str | None,
    vocab: str | None,
    names: tuple[int, ...] | None,
    images: int,
    turns: int,
    as_json: bool,
    **choices: Any,
) -> None:
    """Say what an image takes on this machine, stage by stage, and what bounds each stage.

    SOURCE is a folder or an image; without one a 640x480 JPEG is drawn. Without --model the weights
    are random: that changes the labels, not the times. Masks and records are made of all regions,
    as with detect --keep-regions.
    """
    from vildcli.labelling.stage_times import draw_photograph, machine_rates, measure_stages

    if names is None:
        names = () if vocab is not None else NAMES
    subject, names = _open_subject(vocab, names, choices)
    with tempfile.TemporaryDirectory(prefix="vildcli-bench-") as folder:
        paths = [Path(folder, "drawn.jpg")]
        if source is None:
            draw_photograph(paths[0])
        else:
            paths = _some_images(source, images)
        console.say("Measuring what this machine can do at best …")
        rates = machine_rates(subject.device, choices["precision"])
        with console.progress("Measuring", turns + 2) as advance:
            times = measure_stages(subject, paths, names, rates, turns=turns, advance=advance)
    about = _about(subject, source, len(paths), times, choices)
    _show(about, times, rates)
    if as_json:
        click.echo(json.dumps({**about, **_plain(times, rates)}))


def _open_subject(
    vocab: str | None, names: tuple[int, ...], choices: Mapping[str, Any]
) -> tuple[Subject, tuple[int, ...]]:
    """What is measured, and the numbers of random names that it scores."""
    from vildcli.detector.architecture import ARCHITECTURES
    from vildcli.devices import choose_device
    from vildcli.labelling.model import REGIONS
    from vildcli.labelling.options import LabellingOptions
    from vildcli.labelling.stage_times import labelling_subject, random_subject
    from vildcli.vocabulary.files import load_vocabulary

    vocabulary = None if vocab is None else load_vocabulary(vocab)
    if choices["model"] is not None:
        return labelling_subject(vocabulary, names, LabellingOptions(**choices)), names
    console.warn(RANDOM)
    if vocabulary is not None:
        names = (*names, len(vocabulary.categories))
    device, regions = choose_device(choices["device"]), choices["regions"] or REGIONS
    architecture = ARCHITECTURES[RANDOM_ARCHITECTURE]
    return random_subject(architecture, regions, choices["precision"], device), names


def _some_images(source: str, count: int) -> list[Path]:
    from vildcli.labelling.forecast import spread
    from vildcli.labelling.sources import find_images

    found = find_images([source])
    return [found.roots[image.source] / image.path for image in spread(found.images, count)]


def _about(
    subject: Subject, source: str | None, images: int, times: StageTimes, choices: Mapping[str, Any]
) -> dict[str, Any]:
    import torch

    from vildcli.environment import hardware
    from vildcli.labelling.summary import peak_rss_mib

    device = subject.device
    on_gpu = torch.cuda.max_memory_allocated(device) / _MIB if device.type == "cuda" else None
    return {
        "hardware": hardware(str(device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "command": " ".join([console.program(), *map(shlex.quote, sys.argv[1:])]),
        "weights": choices["model"] or f"random, {RANDOM_ARCHITECTURE}",
        "precision": choices["precision"],
        "source": source or "a drawn JPEG of 640x480",
        "images": images,
        "turns": times.turns,
        "regions": times.regions,
        "peak_rss_mib": peak_rss_mib(),
        "peak_gpu_mib": on_gpu,
    }


def _show(about: Mapping[str, Any], times: StageTimes, rates: Mapping[str, Rates]) -> None:
    """Two tables between what was measured on and what it was held against."""
    console.say(f"{about['hardware']}, threads: {about['threads']}, torch {about['torch']}")
    console.say(f"{about['date']}: {about['command']}")
    console.say(
        f"{about['weights']}, {about['precision']}, {times.regions:.0f} regions of "
        f"{about['source']}; medians of {times.turns} turns, images: {about['images']}"
    )
    most = times.seconds(max(times.labels))
    console.show_table("An image, stage by stage", _COLUMNS, [_row(s, most) for s in times.stages])
    rows = [
        (names, _ms(times.seconds(names)), f"{1 / times.seconds(names):.3g}", f"{labels:.0f}")
        for names, labels in times.labels.items()
    ]
    console.show_table("By number of names", ("names", "ms", "images/s", "labels"), rows)
    console.say(f"Peak memory: {_memory(about)}.")
    for of in dict.fromkeys(rates.values()):
        parts = " and ".join(part for part, its in rates.items() if its == of)
        console.say(
            f"At best, {parts}: {of.flops / 1e9:,.0f} GFLOP/s in a product of large matrices, "
            f"{of.bytes / 1e9:.1f} GB/s in a copy."
        )
    console.say(EXPLAINED)


def _row(stage: StageTime, most: float) -> tuple[str, ...]:
    limit = stage.limit
    return (
        stage.stage,
        "" if stage.names is None else f"{stage.names:6}",
        _ms(stage.seconds),
        f"{stage.seconds / most:6.1%}",
        f"{stage.flops / 1e9:7.2f}",
        f"{stage.bytes / 1e6:7.1f}",
        _ms(limit.seconds),
        f"{limit.times:6.1f}",
        limit.bound,
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:8.2f}"


def _memory(about: Mapping[str, Any]) -> str:
    gpu = about["peak_gpu_mib"]
    return f"{about['peak_rss_mib']:,.0f} MiB" + (f", {gpu:,.0f} MiB of the GPU" if gpu else "")


def _plain(times: StageTimes, rates: Mapping[str, Rates]) -> dict[str, Any]:
    return {
        "rates": {part: asdict(of) for part, of in rates.items()},
        "stages": [asdict(stage) for stage in times.stages],
        "names": [
            {"names": names, "seconds": times.seconds(names), "labels": labels}
            for names, labels in times.labels.items()
        ],
    }
