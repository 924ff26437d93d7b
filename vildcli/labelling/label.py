"""The labelling pipeline: the units of a plan that are not done yet, one after the other.

    plan ──threads──▶ decoded images ──batches──▶ RegionDetector ──▶ Regions ──▶ RegionLabeller
                                                                        └─── rows ───┘
    regions/U.parquet, labels/U.parquet, then images/U.parquet, the commit mark of unit U

A unit is a pure function of its images and the settings: a batch never crosses a unit. Only damaged
images are survived; an error of the model ends the run, which continues from the last done unit.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vildcli.data.images import DecodedImage, read_image
from vildcli.errors import DataError, RunError
from vildcli.labelling.plan import WHOLE, PlannedImage, Shard, image_path, read_plan, units_of
from vildcli.labelling.records import FAILED, OK, is_done, read_part, write_part
from vildcli.types import RegionLabels, Regions


class RegionDetector(Protocol):
    """Finds regions, before any word is said."""

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        """Regions of each image, embeddings rounded to float16.

        Args:
            images: each [3, H, W] uint8 RGB, upright.
        """


class RegionLabeller(Protocol):
    """Names the regions of one image."""

    def label(self, regions: Regions) -> RegionLabels: ...


class LabellingModel(Protocol):
    @property
    def detector(self) -> RegionDetector: ...

    @property
    def labeller(self) -> RegionLabeller: ...


@dataclass(frozen=True, slots=True)
class LabellingSummary:
    """What a run (or its shard) holds, and what this call took.

    Attributes:
        images, labelled, failed, labels: of all units of the run or shard, whenever they were done.
        skipped: files of the sources that are no images.
        resumed: images of units that an earlier call had done.
        seconds, images_per_second: of this call.
        peak_rss_mib: greatest resident memory of the process so far.
    """

    run: str
    images: int
    labelled: int
    failed: int
    skipped: int
    resumed: int
    labels: int
    seconds: float
    images_per_second: float
    peak_rss_mib: float


@dataclass(slots=True)
class StageSeconds:
    """Wall time of the main thread by stage, seconds.

    Decoding goes on in other threads: only the time that the model waits for it counts.
    """

    decode_wait: float = 0.0
    forward: float = 0.0
    score: float = 0.0
    write: float = 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - begin)


@dataclass(slots=True)
class _UnitRows:
    images: list[dict[str, Any]] = field(default_factory=list)
    regions: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)


def label_images(
    run: Path,
    model: LabellingModel,
    *,
    keep_regions: bool = False,
    batch_size: int = 8,
    workers: int = 2,
    advance: Callable[[int], None] = lambda images: None,
    forecast: Callable[[float], None] = lambda seconds: None,
    shard: Shard = WHOLE,
    skipped: int = 0,
) -> tuple[LabellingSummary, StageSeconds]:
    """Label every image of the plan whose unit is not done, and commit unit by unit.

    Args:
        run: a folder opened by `open_labelling_run`.
        model: what finds regions and names them.
        keep_regions: store every region with its embeddings, not only the labelled ones without.
        batch_size: images a batch; part of what makes two runs byte-identical.
        workers: threads that decode ahead of the model.
        advance: told the number of images just done.
        forecast: told once, after the first batch, the seconds that the rest will take.
        shard: the part of the units that this call is for.
        skipped: only passed on to the summary.

    Raises:
        RunError: the folder cannot be written.
    """
    begin = time.perf_counter()
    units = {u: images for u, images in units_of(read_plan(run)).items() if shard.holds(u)}
    pending = [image for u, images in units.items() if not is_done(run, u) for image in images]
    resumed = sum(map(len, units.values())) - len(pending)
    labeller = _UnitLabeller(model, keep_regions, batch_size, StageSeconds())
    progress = _Progress(len(pending), advance, forecast)
    ahead = batch_size + workers  # with the batch in hand, all the decoded images there ever are
    with closing(_decoded(run, pending, workers, ahead, labeller.seconds)) as stream:
        for unit, images in itertools.groupby(stream, key=lambda pair: pair[0].unit):
            rows = labeller.label(images, progress)
            with labeller.seconds.measure("write"):
                _commit(run, unit, rows)
    summary = summarise(run, units, resumed, time.perf_counter() - begin, skipped)
    return summary, labeller.seconds


def summarise(
    run: Path,
    units: Mapping[int, Sequence[Any]],
    resumed: int,
    seconds: float,
    skipped: int = 0,
) -> LabellingSummary:
    """Count what finished units hold.

    Args:
        run: a labelling run.
        units: the images of each unit to count.
        resumed: how many of those images an earlier call had done.
        seconds: what this call took.
        skipped: files of the sources that are no images.
    """
    images = sum(map(len, units.values()))
    counts = _totals(run, units)
    return LabellingSummary(
        run=str(run.resolve()),
        images=images,
        labelled=counts[OK],
        failed=counts[FAILED],
        skipped=skipped,
        resumed=resumed,
        labels=counts["labels"],
        seconds=round(seconds, 3),
        images_per_second=round((images - resumed) / seconds, 3),
        peak_rss_mib=_peak_rss_mib(),
    )


class _Progress:
    """Reports images done, and once how long the rest will take."""

    def __init__(
        self, total: int, advance: Callable[[int], None], forecast: Callable[[float], None]
    ) -> None:
        self._total, self._advance, self._forecast = total, advance, forecast
        self._begin, self._done = time.perf_counter(), 0

    def __call__(self, images: int) -> None:
        first = self._done == 0
        self._done += images
        if first and self._done < self._total:
            a_second = self._done / (time.perf_counter() - self._begin)
            self._forecast((self._total - self._done) / a_second)
        self._advance(images)


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


@dataclass(frozen=True, slots=True)
class _UnitLabeller:
    model: LabellingModel
    keep_regions: bool
    batch_size: int
    seconds: StageSeconds

    def label(self, images: Iterable[_Decoded], progress: _Progress) -> _UnitRows:
        """Rows of one unit, in plan order."""
        rows = _UnitRows()
        batch: list[tuple[int, Tensor]] = []
        for planned, decoded in images:
            if isinstance(decoded, DataError):
                rows.images.append(_failed_row(planned, decoded))
                progress(1)
                continue
            rows.images.append(_image_row(planned, decoded))
            batch.append((planned.image_id, torch.from_numpy(decoded.pixels).permute(2, 0, 1)))
            if len(batch) == self.batch_size:
                self._label_batch(batch, rows)
                progress(len(batch))
                batch.clear()
        if batch:
            self._label_batch(batch, rows)
            progress(len(batch))
        return rows

    def _label_batch(self, batch: Sequence[tuple[int, Tensor]], rows: _UnitRows) -> None:
        with self.seconds.measure("forward"):
            found = self.model.detector.regions([pixels for _, pixels in batch])
        assert len(found) == len(batch), f"{len(batch)} images, regions of {len(found)}"
        for (image_id, _), regions in zip(batch, found, strict=True):
            with self.seconds.measure("score"):
                labels = self.model.labeller.label(regions)
            with self.seconds.measure("write"):
                rows.regions.extend(_region_rows(image_id, regions, labels, self.keep_regions))
                rows.labels.extend(label_rows(image_id, labels))


def _image_row(planned: PlannedImage, decoded: DecodedImage) -> dict[str, Any]:
    return {
        "image_id": planned.image_id,
        "source": planned.source,
        "path": planned.path,
        "width": decoded.width,
        "height": decoded.height,
        "sha256": decoded.sha256,
        "bytes": decoded.bytes,
        "mtime_ns": decoded.mtime_ns,
        "status": OK,
        "reason": None,
    }


def _failed_row(planned: PlannedImage, error: DataError) -> dict[str, Any]:
    return {
        "image_id": planned.image_id,
        "source": planned.source,
        "path": planned.path,
        "width": 0,
        "height": 0,
        "sha256": "",
        "bytes": planned.bytes,
        "mtime_ns": planned.mtime_ns,
        "status": FAILED,
        "reason": str(error),
    }


def _region_rows(
    image_id: int, regions: Regions, labels: RegionLabels, keep: bool
) -> Iterator[dict[str, Any]]:
    """One row a region: every one with embeddings, or the labelled ones without."""
    kept = range(len(regions)) if keep else sorted(set(labels.regions.tolist()))
    sides = {"text_side": regions.text_side, "image_side": regions.image_side}
    embeddings = {
        name: side.to(torch.float16).cpu().numpy()
        for name, side in sides.items()
        if keep and side is not None
    }
    proposals, boxes = regions.proposals.tolist(), regions.boxes.tolist()
    objectness, masks = regions.objectness.tolist(), regions.masks.cpu().numpy()
    for region in kept:
        yield {
            "image_id": image_id,
            "region": region,
            "proposal": proposals[region],
            "box": boxes[region],
            "objectness": objectness[region],
            "mask": masks[region].tobytes(),
            **{name: side[region] for name, side in embeddings.items()},
        }


def label_rows(image_id: int, labels: RegionLabels) -> Iterator[dict[str, Any]]:
    """One row a label of an image, best first."""
    columns: Mapping[str, Tensor | None] = {
        "region": labels.regions,
        "category_id": labels.category_ids,
        "is_base": labels.is_base,
        "score": labels.scores,
        "text_score": labels.text_scores,
        "image_score": labels.image_scores,
    }
    values = {k: v.tolist() if v is not None else [None] * len(labels) for k, v in columns.items()}
    attributes = _attribute_rows(labels)
    for place, row in enumerate(zip(*values.values(), strict=True)):
        yield {
            "image_id": image_id,
            "label": place,
            **dict(zip(values, row, strict=True)),
            "attributes": attributes[place],
        }


def _attribute_rows(labels: RegionLabels) -> list[list[dict[str, Any]]]:
    """For each label one entry an attribute set."""
    rows: list[list[dict[str, Any]]] = [[] for _ in range(len(labels))]
    for found in labels.attributes:
        numbers = zip(found.names, found.scores.tolist(), found.joint_scores.tolist(), strict=True)
        for row, (name, score, joint) in zip(rows, numbers, strict=True):
            row.append({"set": found.set, "name": name, "score": score, "joint": joint})
    return rows


def _commit(run: Path, unit: int, rows: _UnitRows) -> None:
    try:
        write_part(run, "regions", unit, rows.regions)
        write_part(run, "labels", unit, rows.labels)
        write_part(run, "images", unit, rows.images)
    except OSError as error:
        raise RunError(
            f"{run} cannot be written: {error.strerror or error}.",
            hint="Make room or give permission; the same command continues where it stopped.",
        ) from error


def _totals(run: Path, units: Iterable[int]) -> Counter[str]:
    """Images by status, and labels, of finished units."""
    counts: Counter[str] = Counter()
    for unit in units:
        counts.update(read_part(run, "images", unit, ["status"]).column("status").to_pylist())
        counts["labels"] += read_part(run, "labels", unit, ["label"]).num_rows
    return counts


def _peak_rss_mib() -> float:
    import resource  # not on every platform: imported where it is used

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
