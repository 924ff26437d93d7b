"""The labelling pipeline: the units of a plan that are not done yet, one after the other.

    plan ──threads──▶ decoded images ──batches──▶ RegionDetector ──▶ Regions
                                                                        │ one thread, in order
    regions/U.parquet, labels/U.parquet, then ◀── rows ◀── RegionLabeller
    images/U.parquet, the commit mark of unit U

A unit is a pure function of its images and the settings: a batch never crosses a unit. Only damaged
images are survived; an error of the model ends the run, which continues from the last done unit.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import filterfalse
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from vildcli.data.images import DecodedImage, read_image
from vildcli.errors import DataError
from vildcli.labelling.batches import Forward, RegionDetector, batches_by_canvas
from vildcli.labelling.copies import copy_units, is_copies
from vildcli.labelling.detectors import with_later_masks
from vildcli.labelling.human_labels import HumanBoxes, label_free, refuse_other_frame
from vildcli.labelling.plan import WHOLE, PlannedImage, Shard, image_path, read_plan, units_of
from vildcli.labelling.records import is_done, region_schema, write_batches, write_part
from vildcli.labelling.rows import (
    failed_row,
    image_embedding,
    image_row,
    label_rows,
    region_batch,
)
from vildcli.labelling.stored import RegionType, as_stored
from vildcli.labelling.summary import LabellingSummary, summarise
from vildcli.runs import writing
from vildcli.types import RegionLabels, Regions

SHRUNK_FILE = "batches.jsonl"
_UNFINISHED = 2  # batches that may wait to be named and written
_Units = dict[int, tuple[PlannedImage, ...]]


class RegionLabeller(Protocol):
    """Names the regions of one image."""

    def label(self, regions: Regions) -> RegionLabels: ...


class LabellingModel(Protocol):
    @property
    def detector(self) -> RegionDetector: ...

    @property
    def labeller(self) -> RegionLabeller: ...


@dataclass(slots=True)
class StageSeconds:
    """Where the time went, seconds.

    Attributes:
        decode_wait, forward, finish_wait: of the thread that runs the model; they add up to nearly
            all of it. Decoding and finishing go on beside it: only its waiting counts.
        score, masks, write: of the thread that names regions and writes them.
    """

    decode_wait: float = 0.0
    forward: float = 0.0
    finish_wait: float = 0.0
    score: float = 0.0
    masks: float = 0.0
    write: float = 0.0

    def shares(self) -> dict[str, float]:
        """What the run waited for, 0-1; they add up to 1.

        Naming and writing go on beside the model: only what it waited for them counts.
        """
        behind = self.score + self.masks + self.write or 1.0
        waited = {
            "decode": self.decode_wait,
            "forward": self.forward,
            "score": self.finish_wait * self.score / behind,
            "masks": self.finish_wait * self.masks / behind,
            "write": self.finish_wait * self.write / behind,
        }
        total = sum(waited.values()) or 1.0
        return {stage: seconds / total for stage, seconds in waited.items()}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - begin)


@dataclass(frozen=True, slots=True)
class LabellingJob:
    """What is stored of an image, and how fast.

    Attributes:
        keep_regions: store every region with its embeddings, not only the labelled ones without.
        region_dtype: what embeddings are rounded to before they are scored, and stored as.
        people: boxes that people drew, by image id; regions that overlap them are left out.
        batch_size: images a batch; part of what makes two runs byte-identical.
        may_shrink: halve batches that do not fit into memory; `batches.jsonl` says when.
        workers: threads that decode ahead of the model.
    """

    keep_regions: bool = False
    region_dtype: RegionType = "float16"
    people: Mapping[int, HumanBoxes] = field(default_factory=dict)
    batch_size: int = 8
    may_shrink: bool = False
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told while a run goes on, by the thread that runs the model.

    Attributes:
        advance: the number of images just done.
        shrunk: the sizes of a batch before and after memory ran out.
        failed: what one of several processes ended by, while the others go on.
        seconds: filled as time passes.
    """

    advance: Callable[[int], None] = lambda images: None
    shrunk: Callable[[int, int], None] = lambda before, after: None
    failed: Callable[[str], None] = lambda message: None
    seconds: StageSeconds = field(default_factory=StageSeconds)


DEFAULT_JOB = LabellingJob()


def label_images(
    run: Path,
    model: LabellingModel,
    job: LabellingJob = DEFAULT_JOB,
    watch: Watch | None = None,
    *,
    shard: Shard = WHOLE,
    skipped: int = 0,
) -> LabellingSummary:
    """Label every image of the plan whose unit is not done, and commit unit by unit.

    Args:
        run: a folder opened by `open_labelling_run`.
        model: what finds regions and names them.
        shard: the part of the units that this call is for.
        skipped: files of the sources that are no images; only passed on to the summary.

    Raises:
        RunError: the folder cannot be written, or a batch does not fit into memory.
    """
    begin = time.perf_counter()
    watch, plan = watch or Watch(), read_plan(run)
    units, left = units_to_do(run, plan, shard)
    label_units(run, model, filterfalse(is_copies, left.values()), job, watch)
    copy_left(run, plan, left, watch)
    resumed = sum(map(len, units.values())) - sum(map(len, left.values()))
    return summarise(run, units, resumed, time.perf_counter() - begin, skipped)


def units_to_do(
    run: Path, plan: Sequence[PlannedImage], shard: Shard = WHOLE
) -> tuple[_Units, _Units]:
    """The units of a shard by number, and those of them that are not done."""
    units = {u: images for u, images in units_of(plan).items() if shard.holds(u)}
    return units, {u: images for u, images in units.items() if not is_done(run, u)}


def copy_left(run: Path, plan: Sequence[PlannedImage], left: _Units, watch: Watch) -> None:
    """Write those units of copies among `left` whose originals are done by now.

    Raises:
        RunError: the folder cannot be written.
    """
    with writing(run):
        copy_units(run, plan, filter(is_copies, left.values()), watch.advance)


def label_units(
    run: Path,
    model: LabellingModel,
    units: Iterable[Sequence[PlannedImage]],
    job: LabellingJob,
    watch: Watch,
) -> None:
    """Label units, each given by its images, and commit them one by one; raises as `label_images`.

    The next units are asked for while one is worked on.
    """
    behind = _Behind(watch.seconds)
    forward = Forward(with_later_masks(model.detector), job.batch_size, job.may_shrink)
    finish = _Finish(run, model.labeller, job, watch.seconds)
    ahead = job.batch_size + job.workers  # beside the images that wait in batches
    images = itertools.chain.from_iterable(units)
    with closing(_decoded(run, images, job.workers, ahead, watch.seconds)) as stream, behind:
        for unit, decoded in itertools.groupby(stream, key=lambda pair: pair[0].unit):
            forward.shrunk = partial(_note_shrunk, run, unit, watch)
            rows = _UnitRows(unit)
            readable = _readable(decoded, model.detector, job, rows, watch)
            for batch in batches_by_canvas(readable, _canvas, lambda: forward.size):
                with watch.seconds.measure("forward"):
                    found = forward([image.pixels for image in batch])
                behind.submit(finish.name, [image.row for image in batch], found, rows)
                watch.advance(len(batch))
                batch.clear()  # else its pixels stay while the next ones come
            behind.submit(finish.commit, rows)


_Decoded = tuple[PlannedImage, DecodedImage | DataError]


def _decoded(
    run: Path, images: Iterable[PlannedImage], workers: int, ahead: int, seconds: StageSeconds
) -> Generator[_Decoded]:
    """Decode in threads, in order, at most `ahead` images before the one that is asked for."""

    def wait() -> _Decoded:
        image, future = pending.popleft()
        with seconds.measure("decode_wait"):
            return image, future.result()

    pending: deque[tuple[PlannedImage, Future[DecodedImage | DataError]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for image in images:
            if len(pending) == ahead:
                yield wait()
            pending.append((image, pool.submit(_read, image_path(run, image), image.path)))
        while pending:
            yield wait()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(path: Path, name: str) -> DecodedImage | DataError:
    try:
        return read_image(path, name)
    except DataError as error:
        return error


@dataclass(slots=True)
class _UnitRows:
    """What is known of a unit so far, by image id: batches are not in the order of the plan."""

    unit: int
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    regions: dict[int, pa.RecordBatch] = field(default_factory=dict)
    labels: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A decoded image: its row, its pixels [3, H, W], and the frame that it is seen in."""

    row: dict[str, Any]
    pixels: Tensor
    canvas: tuple[int, int]


def _readable(
    decoded: Iterable[_Decoded],
    detector: RegionDetector,
    job: LabellingJob,
    rows: _UnitRows,
    watch: Watch,
) -> Iterator[_Ready]:
    """The images that can be labelled; of the others a row says why not."""
    for planned, image in decoded:
        if isinstance(image, DecodedImage):
            image = _of_the_frame(image, planned, job.people.get(planned.image_id))
        if isinstance(image, DataError):
            rows.images[planned.image_id] = failed_row(planned, image)
            watch.advance(1)
            continue
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
        canvas = detector.canvas(image.height, image.width)
        yield _Ready(image_row(planned, image), pixels, canvas)


def _of_the_frame(
    image: DecodedImage, planned: PlannedImage, drawn: HumanBoxes | None
) -> DecodedImage | DataError:
    try:
        if drawn is not None:
            refuse_other_frame(drawn, image, planned.path)
    except DataError as error:
        return error
    return image


def _canvas(image: _Ready) -> tuple[int, int]:
    return image.canvas


def _note_shrunk(run: Path, unit: int, watch: Watch, before: int, after: int) -> None:
    """Records of one run may now differ in their last bits from those of another machine."""
    line = json.dumps({"unit": unit, "images_a_batch": before, "from_here_on": after})
    with writing(run), (run / SHRUNK_FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    watch.shrunk(before, after)


class _Behind:
    """One thread that finishes what the model has found, in order, while the model goes on."""

    def __init__(self, seconds: StageSeconds) -> None:
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._left: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:  # where the model was interrupted, what it has found is kept all the same
            while self._left:
                self._wait()
        finally:
            self._thread.shutdown(cancel_futures=True)

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        """Have work done; an error of it is raised by a later call, or at the end."""
        while len(self._left) >= _UNFINISHED:
            self._wait()
        self._left.append(self._thread.submit(self._do, work, *arguments))

    def _do(self, work: Callable[..., None], *arguments: Any) -> None:
        if self._failed:  # a unit that lacks a batch must never be committed
            return
        self._failed = True
        work(*arguments)
        self._failed = False

    def _wait(self) -> None:
        with self._seconds.measure("finish_wait"):
            self._left.popleft().result()


@dataclass(frozen=True, slots=True)
class _Finish:
    run: Path
    labeller: RegionLabeller
    job: LabellingJob
    seconds: StageSeconds

    def name(
        self, images: Sequence[dict[str, Any]], found: Sequence[Regions], rows: _UnitRows
    ) -> None:
        """Name the regions of a batch."""
        for image, regions in zip(images, found, strict=True):
            image_id = image["image_id"]
            with self.seconds.measure("score"):
                regions, labels = self._named(image_id, regions)
            with self.seconds.measure("masks"):
                regions = self._masked(regions, labels)
            with self.seconds.measure("write"):
                rows.images[image_id] = {**image, "embedding": image_embedding(regions)}
                rows.regions[image_id] = region_batch(
                    image_id, regions, labels, self.job.keep_regions, self.job.region_dtype
                )
                rows.labels[image_id] = list(label_rows(image_id, labels))

    def _named(self, image_id: int, regions: Regions) -> tuple[Regions, RegionLabels]:
        """The regions that are stored, and their names."""
        regions = as_stored(regions, self.job.region_dtype)
        drawn = self.job.people.get(image_id)
        if drawn is None:
            return regions, self.labeller.label(regions)
        return label_free(regions, drawn, self.labeller.label)

    def _masked(self, regions: Regions, labels: RegionLabels) -> Regions:
        """The regions, with the masks that are stored; the others are empty."""
        if isinstance(regions.masks, Tensor):
            return regions
        rows = torch.arange(len(regions)) if self.job.keep_regions else torch.unique(labels.regions)
        masks = torch.zeros(regions.masks.shape, dtype=torch.uint8)
        masks[rows] = regions.masks[rows].now()
        return replace(regions, masks=masks)

    def commit(self, rows: _UnitRows) -> None:
        """Write the parts of a unit, its commit mark last."""
        unit, ids = rows.unit, sorted(rows.images)
        regions = [rows.regions[i] for i in ids if i in rows.regions]
        labels = [row for i in ids for row in rows.labels.get(i, ())]
        with self.seconds.measure("write"), writing(self.run):
            write_batches(self.run, unit, region_schema(self.job.region_dtype), regions)
            write_part(self.run, "labels", unit, labels)
            write_part(self.run, "images", unit, [rows.images[i] for i in ids])
