"""Stored regions to labels of another vocabulary: seconds an image, and memory as a run grows.

    python -m benchmarks.relabel                                    # 64 images x 1,000 regions
    python -m benchmarks.relabel --images 100 1000 --attributes colours   # the last: 1 M regions
    python -m benchmarks.relabel --images 2 --regions 50 --repeats 1      # smoke

A run folder is made up: two sides of random unit vectors, float16, as many names as asked for, and
boxes all over the image; all masks are empty. Then it is relabelled as `vildcli relabel` does, from
Parquet files to Parquet files; the names' embeddings are there, as they are from the second time
on. Every relabelling is a process of its own, so that its peak memory is known. `score` is what
naming takes; the rest is reading and writing. `CPU` is the time of all threads: beside other jobs
it says more than the clock does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.labelling.head import StoredHead, write_head
from vildcli.labelling.labeller import AttributeSet, LabelPolicy, VocabularyLabeller
from vildcli.labelling.plan import make_plan, units_of, write_plan
from vildcli.labelling.records import region_schema, write_batches, write_part
from vildcli.labelling.relabel import relabel_run
from vildcli.labelling.rows import region_batch
from vildcli.labelling.run import KIND, labelling_settings
from vildcli.labelling.sources import FoundImage
from vildcli.runs import open_run
from vildcli.text.context import ScoringBank
from vildcli.types import RegionLabels, Regions
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_attributes

WIDTH = 512  # of CLIP's embeddings
TEMPERATURE = 0.01
SIDE = 640  # pixels
NO_LABELS = RegionLabels(
    regions=torch.empty(0, dtype=torch.int64),
    category_ids=torch.empty(0, dtype=torch.int64),
    is_base=torch.empty(0, dtype=torch.bool),
    scores=torch.empty(0),
)


@dataclass(frozen=True, slots=True)
class Task:
    """One relabelling: of a run folder, with so many random names."""

    run: Path
    out: Path
    names: int
    attributes: str | None
    threads: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    cpu_seconds: float
    score_seconds: float
    labels: int
    peak_mib: float


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    print_heading("benchmarks.relabel")
    print(f"{given.regions} regions an image, two sides of {WIDTH}, {given.names} names")
    head = ("images", "s", "ms an image", "CPU ms", "score ms", "labels", "peak MiB")
    print("{:>8}{:>9}{:>13}{:>10}{:>10}{:>9}{:>10}".format(*head))
    for images in given.images:
        row = _row(images, given, _turns(images, given))
        _show(row)
        if given.out:
            record([row], given.out)


def _turns(images: int, given: argparse.Namespace) -> list[Measured]:
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        run = Path(folder, "run")
        _alone(make_run, run, images, given.regions)
        outs = (Path(folder, f"again{turn}") for turn in range(given.repeats))
        return [
            _alone(measure, Task(run, out, given.names, given.attributes, given.threads))
            for out in outs
        ]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[64], help="sizes of the run")
    parser.add_argument("--regions", type=int, default=1000, help="regions an image")
    parser.add_argument("--names", type=int, default=1203)
    parser.add_argument("--attributes", metavar="A", help="colours, or a file of attributes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch  [default: all]")
    parser.add_argument("--folder", type=Path, help="where runs are made; 2.2 GB a million regions")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def _alone(work: Any, *arguments: Any) -> Any:
    """In a process of its own: its memory is that of the work."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def make_run(run: Path, images: int, regions: int) -> None:
    """A finished labelling run of images that do not exist."""
    open_run(
        run,
        kind=KIND,
        settings=labelling_settings({"keep_regions": True, "made_up": [images, regions]}),
        arguments={"sources": {"photos": "photos"}},
    )
    plan = make_plan([FoundImage("photos", f"{i:06d}.jpg", 1, 1) for i in range(images)])
    write_plan(run, plan)
    write_head(run, StoredHead(_head(), "random", None, (), "random"))
    for unit, planned in units_of(plan).items():
        batches = [
            region_batch(p.image_id, _regions(regions, p.image_id), NO_LABELS, True, "float16")
            for p in planned
        ]
        write_batches(run, unit, region_schema("float16"), batches)
        write_part(run, "labels", unit, [])
        rows = [_image_row(p.image_id, p.path) for p in planned]
        write_part(run, "images", unit, rows)


def measure(task: Task) -> Measured:
    """Relabel once."""
    if task.threads:
        torch.set_num_threads(task.threads)
    categories = tuple(Category(i, f"name {i}") for i in range(1, task.names + 1))
    labeller, begin = _Timed(_labeller(task)), time.process_time()
    found = relabel_run(
        task.run,
        labeller,
        task.out,
        settings={"names": task.names, "attributes": task.attributes},
        vocabulary=Vocabulary("made up", categories),
    )
    cpu = time.process_time() - begin
    return Measured(found.seconds, cpu, labeller.seconds, found.labels, found.peak_rss_mib)


class _Timed:
    """A labeller that knows how long it took."""

    def __init__(self, labeller: VocabularyLabeller) -> None:
        self._labeller, self.seconds = labeller, 0.0

    def label(self, regions: Regions) -> RegionLabels:
        begin = time.perf_counter()
        labels = self._labeller.label(regions)
        self.seconds += time.perf_counter() - begin
        return labels


def _labeller(task: Task) -> VocabularyLabeller:
    sets = load_attributes(task.attributes) if task.attributes else {}
    is_base = torch.arange(task.names) % 4 > 0
    texts, ids = _units(task.names, 0), torch.arange(1, task.names + 1)
    return VocabularyLabeller(
        ScoringBank(texts, ids, is_base, TEMPERATURE),
        _head(),
        LabelPolicy(),
        attributes=tuple(
            AttributeSet(name, values, _units(len(values), 1)) for name, values in sets.items()
        ),
    )


def _head() -> ScoringHead:
    return ScoringHead(_units(1, 2)[0], TEMPERATURE, TEMPERATURE, Fusion("ensemble"))


def _units(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, WIDTH, generator=generator), dim=-1)


def _regions(count: int, seed: int) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * SIDE * 0.8
    extents = 10 + torch.rand(count, 2, generator=generator) * 130
    boxes = torch.cat([corners, corners + extents], 1)
    return Regions(
        boxes=boxes,
        proposals=boxes,
        objectness=torch.linspace(1, 0, count),
        masks=torch.zeros(count, 28, 28, dtype=torch.uint8),
        text_side=_units(count, 2 * seed + 10).half(),
        image_side=_units(count, 2 * seed + 11).half(),
    )


def _image_row(image_id: int, path: str) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "source": "photos",
        "path": path,
        "width": SIDE,
        "height": SIDE,
        "sha256": "",
        "bytes": 1,
        "mtime_ns": 1,
        "status": "ok",
        "reason": None,
        "embedding": None,
    }


def _row(images: int, given: argparse.Namespace, turns: Sequence[Measured]) -> Row:
    def ms(values: Iterable[float]) -> float:
        return round(statistics.median(values) / images * 1e3, 2)

    return Row(
        item="relabel",
        row="vildcli relabel",
        parameters={
            "images": images,
            "regions": given.regions,
            "names": given.names,
            "attributes": given.attributes,
        },
        measured={
            "whole s": round(statistics.median(turn.seconds for turn in turns), 3),
            "image ms": ms(turn.seconds for turn in turns),
            "CPU ms": ms(turn.cpu_seconds for turn in turns),
            "score ms": ms(turn.score_seconds for turn in turns),
            "labels": turns[0].labels,
            "peak MiB": round(max(turn.peak_mib for turn in turns)),
        },
        hardware=hardware(),
        command=command_line("benchmarks.relabel"),
        note=given.note,
    )


def _show(row: Row) -> None:
    values: Any = row.measured
    print(
        f"{row.parameters['images']:>8}{values['whole s']:>9.2f}{values['image ms']:>13.1f}"
        f"{values['CPU ms']:>10.1f}{values['score ms']:>10.1f}{values['labels']:>9}"
        f"{values['peak MiB']:>10}",
        flush=True,
    )


if __name__ == "__main__":
    main()
