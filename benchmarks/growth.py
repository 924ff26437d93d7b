"""Time and memory against names, regions, attributes and images, each beside its limit.

    taskset -c 1 python -m benchmarks.growth --out docs/performance.json
    python -m benchmarks.growth --turns 1 --names 80 --regions 50 --attributes 0 --images 20

`scoring` is what `detect` and `relabel` do with an image's regions: two sides against all names,
fusion, the best name of each, suppression, attributes of what is left. `relabel` reads stored
regions of whole runs and writes their labels. Random embeddings; one of names, regions and
attributes moves at a time, the others stay at 1,203, 300 and none.

Every measurement is a process of its own, forked with torch loaded: its peak memory is what it took
beyond that, embeddings of the names included. Turns of a curve alternate; times are CPU time,
medians. The limit is the longer of FLOPs and bytes over what this machine does in a product of
large matrices and in a copy, by CPU time too.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from benchmarks import relabel
from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.labelling.labeller import AttributeSet, LabelPolicy, VocabularyLabeller
from vildcli.labelling.operations import Operations, Rates, limit_of, measure_rates
from vildcli.labelling.records import part_path
from vildcli.labelling.relabel import relabel_run
from vildcli.labelling.stage_times import random_labeller
from vildcli.vocabulary.category import Category, Vocabulary

ITEM = "growth"
NAMES, REGIONS, ATTRIBUTES, IMAGES = 1203, 300, 0, 1
IMAGE_REGIONS, IMAGE_NAMES = 10, 80  # of runs that grow by images
AGAIN = 5  # of an image in one turn, the least counts
VALUES_A_SET = 11  # such as colours


@dataclass(frozen=True, slots=True)
class Point:
    """What is measured; `axis` is what moves in its curve, `run` the stored regions of images."""

    axis: str
    names: int = NAMES
    regions: int = REGIONS
    attributes: int = ATTRIBUTES
    images: int = IMAGES
    run: Path | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One turn: CPU seconds, and bytes beyond what the process started with."""

    seconds: float
    peak: int


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    torch.set_num_threads(1)
    rates = measure_rates(torch.device("cpu"), torch.float32, lambda device: time.process_time())
    print_heading("benchmarks.growth")
    print(f"{rates.flops / 1e9:.1f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s, in CPU time")
    with tempfile.TemporaryDirectory(prefix="vildcli-growth-", dir=given.folder) as folder:
        for curve in _curves(given, Path(folder)):
            taken: dict[Point, list[Measured]] = {point: [] for point in curve}
            for _ in range(given.turns):
                for point in curve:
                    taken[point].append(_alone(measure, point))
            rows = [_row(point, turns, rates) for point, turns in taken.items()]
            for row in rows:
                said = ", ".join(f"{value} {key}" for key, value in row.measured.items())
                print(f"{row.row:8} {row.parameters}: {said}", flush=True)
            if given.out:
                record(rows, given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--names", type=int, nargs="*", default=[80, 1203, 5000, 20_000])
    parser.add_argument("--regions", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--attributes", type=int, nargs="*", default=[0, 11, 22, 44])
    parser.add_argument("--images", type=int, nargs="*", default=[500, 1500, 5000])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where runs are made")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    return parser.parse_args(arguments)


def _curves(given: argparse.Namespace, folder: Path) -> Iterator[list[Point]]:
    yield [Point("names", names=n) for n in given.names]
    yield [Point("regions", regions=n) for n in given.regions]
    yield [Point("attributes", attributes=n) for n in given.attributes]
    stored = []
    for images in given.images:
        run = folder / f"run{images}"
        relabel.make_run(run, images, IMAGE_REGIONS)
        stored.append(Point("images", IMAGE_NAMES, IMAGE_REGIONS, ATTRIBUTES, images, run))
    yield stored


def _alone(work: Any, point: Point) -> Any:
    """In a process forked from one that has imported what it needs, and done nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.relabel", "vildcli.labelling.stage_times"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, point).result()


def measure(point: Point) -> Measured:
    """One turn."""
    torch.set_num_threads(1)
    before = _resident("VmRSS")
    seconds = _relabel(point) if point.run else _score(point)
    return Measured(seconds, _resident("VmHWM") - before)


def _score(point: Point) -> float:
    labeller, regions = _labeller(point), relabel._regions(point.regions, 0)
    seconds = []
    for _ in range(1 + AGAIN):
        begin = time.process_time()
        labeller.label(regions)
        seconds.append(time.process_time() - begin)
    return min(seconds[1:])


def _relabel(point: Point) -> float:
    assert point.run is not None, "images are stored"
    words = tuple(Category(i, f"name {i}") for i in range(1, point.names + 1))
    labeller, begin = _labeller(point), time.process_time()
    out = point.run.with_suffix(".again")
    relabel_run(point.run, labeller, out, settings={}, vocabulary=Vocabulary("made up", words))
    seconds = time.process_time() - begin
    shutil.rmtree(out)
    return seconds


def _labeller(point: Point) -> VocabularyLabeller:
    """Its attributes are sets as large as the colours; every region gets a label."""
    labeller = random_labeller(relabel._head(), point.names, relabel.WIDTH)
    sets = []
    for first in range(0, point.attributes, VALUES_A_SET):
        count = min(VALUES_A_SET, point.attributes - first)
        values = normalize(torch.randn(count, relabel.WIDTH), dim=-1)
        sets.append(AttributeSet(f"set {first}", tuple(map(str, range(count))), values))
    return replace(labeller, policy=LabelPolicy(floor=0.0), attributes=tuple(sets))


def _resident(kind: str) -> int:
    """Bytes: VmRSS now, or VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def _row(point: Point, turns: Sequence[Measured], rates: Rates) -> Row:
    seconds = statistics.median(turn.seconds for turn in turns)
    with Operations() as asked:
        _labeller(point).label(relabel._regions(point.regions, 0))
    size: float = asked.bytes * point.images
    if point.run is not None:
        size += sum(
            path.stat().st_size for path in part_path(point.run, "regions", 0).parent.iterdir()
        )
    limit = limit_of(seconds, asked.flops * point.images, size, rates)
    return Row(
        item=ITEM,
        row="relabel" if point.run else "scoring",
        parameters={
            "against": point.axis,
            "images": point.images,
            "names": point.names,
            "regions": point.regions,
            "attributes": point.attributes,
        },
        measured={
            "CPU ms": round(seconds * 1e3, 3),
            "at best ms": round(limit.seconds * 1e3, 3),
            "times": round(limit.times, 2),
            "bound by": limit.bound,
            "peak MiB": round(max(turn.peak for turn in turns) / 2**20, 1),
        },
        hardware=hardware(),
        command=command_line("benchmarks.growth"),
        note="random embeddings; CPU time, beside other jobs",
    )


if __name__ == "__main__":
    main()
