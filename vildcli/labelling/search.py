"""Free texts, or a region, against the stored regions of a whole run. No image is looked at.

    units ─▶ embeddings of one side ─▶ cosines with the queries ─▶ best few of each query, so far

One unit is in memory at a time. Of overlapping regions of an image the best one alone is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, box_iou
from torchvision.ops.boxes import box_area

from vildcli.detector.scoring import ScoringHead
from vildcli.errors import DataError, RunError
from vildcli.labelling.ask import MIN_AREA, NMS_IOU, score_texts
from vildcli.labelling.plan import PlannedImage, read_plan, source_roots
from vildcli.labelling.records import MASK_SIDE, done_units, is_done, read_part
from vildcli.labelling.relabel import column_tensor

TOP = 24  # regions found of each query
_NUMBERS = ("image_id", "region", "objectness")
_COLUMNS = (*_NUMBERS, "box")
IMAGE_SIDE, TEXT_SIDE = "image_side", "text_side"  # the first that is there is compared with
_ROWS_AT_ONCE = 16_384  # regions in float32 at a time: 32 MB of 512 numbers each


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """One stored region.

    Attributes:
        region: number within the image.
        box: x1 y1 x2 y2 in pixels of the upright original image.
        score: cosine, or with a temperature the query's share in 0-1.
    """

    image_id: int
    region: int
    box: tuple[float, float, float, float]
    objectness: float
    score: float


def search_run(
    run: Path,
    queries: Tensor,
    *,
    top: int = TOP,
    objectness: float = 0.0,
    head: ScoringHead | None = None,
    advance: Callable[[int], None] = lambda units: None,
) -> list[list[FoundRegion]]:
    """The best regions of a run's finished units for each query, best first.

    Args:
        run: made with `--keep-regions`.
        queries: [Q, D].
        top: regions of each query.
        objectness: least objectness of a region.
        head: gives the τ of a softmax over the queries; without it they are compared by cosine.
        advance: told of each unit that was searched.

    Raises:
        RunError: the run kept no region embeddings.
    """
    best = [_Best(top) for _ in range(len(queries))]
    for unit in done_units(run):
        if (regions := _read_unit(run, unit)) is not None:
            is_sure = regions.objectness >= objectness
            regions = regions[is_sure & (box_area(regions.boxes) > MIN_AREA)]
            scores = _scores(regions.side, queries, regions.temperature(head))
            for column, kept in enumerate(best):
                kept.add(regions, scores[:, column])
        advance(1)
    return [kept.regions for kept in best]


@dataclass(frozen=True, slots=True)
class StoredRegion:
    """A region to find others like.

    Attributes:
        overlap: IoU in 0-1 of its box with the given one.
        embedding: [D].
    """

    found: FoundRegion
    overlap: float
    embedding: Tensor


def find_region(run: Path, path: str, box: tuple[float, float, float, float]) -> StoredRegion:
    """The stored region of an image that overlaps a box most.

    Args:
        path: as the run has it, with or without its source, or of the file itself.
        box: x1 y1 x2 y2 in pixels of the upright original image.

    Raises:
        DataError: no such image, several, or none of its regions overlaps the box.
        RunError: the run kept no region embeddings.
    """
    image = _planned(run, path)
    regions = _read_unit(run, image.unit) if is_done(run, image.unit) else None
    overlaps = torch.zeros(0)
    if regions is not None:
        regions = regions[regions.image_ids == image.image_id]
        overlaps = box_iou(torch.tensor([box]), regions.boxes)[0]
    if regions is None or not overlaps.any():
        raise DataError(
            f"{run} has no region of {path} there.",
            hint="Write x1,y1,x2,y2 in pixels of the upright image.",
        )
    row = int(overlaps.argmax())
    found = regions.found(row, 1.0)
    return StoredRegion(found, float(overlaps[row]), regions.side[row].float())


def find_like(
    run: Path, like: StoredRegion, *, top: int = TOP, **choices: Any
) -> list[FoundRegion]:
    """The regions most like one, itself and what overlaps it left out; as `search_run`."""
    (found,) = search_run(run, like.embedding[None], top=top + 1, **choices)
    own = (like.found.image_id, like.found.region)
    return [region for region in found if (region.image_id, region.region) != own][:top]


def region_masks(
    run: Path, plan: Sequence[PlannedImage], regions: Iterable[FoundRegion]
) -> dict[tuple[int, int], NDArray[np.uint8]]:
    """Masks of stored regions by image id and region, [28, 28] uint8 relative to their boxes."""
    wanted: dict[int, set[tuple[int, int]]] = {}
    for found in regions:
        key = (found.image_id, found.region)
        wanted.setdefault(plan[found.image_id - 1].unit, set()).add(key)
    masks = {}
    for unit, keys in wanted.items():
        table = read_part(run, "regions", unit, ["image_id", "region", "mask"])
        numbers = zip(*(table.column(n).to_pylist() for n in ("image_id", "region")), strict=True)
        for row, key in enumerate(numbers):
            if key in keys:
                mask = np.frombuffer(table.column("mask")[row].as_py(), np.uint8)
                masks[key] = mask.reshape(MASK_SIDE, MASK_SIDE)
    return masks


@dataclass(frozen=True, slots=True)
class _UnitRegions:
    """R regions of several images, `side` what queries are compared with, [R, D] float16."""

    image_ids: Tensor
    numbers: Tensor
    objectness: Tensor
    boxes: Tensor
    side: Tensor
    side_name: str

    def __getitem__(self, rows: Tensor) -> _UnitRegions:
        columns = ("image_ids", "numbers", "objectness", "boxes", "side")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def temperature(self, head: ScoringHead | None) -> float | None:
        if head is None:
            return None
        return head.image_temperature if self.side_name == IMAGE_SIDE else head.temperature

    def found(self, row: int, score: float) -> FoundRegion:
        return FoundRegion(
            int(self.image_ids[row]),
            int(self.numbers[row]),
            tuple(self.boxes[row].tolist()),
            float(self.objectness[row]),
            score,
        )


@dataclass(slots=True)
class _Best:
    """The best regions seen so far, best first."""

    count: int
    regions: list[FoundRegion] = field(default_factory=list)

    def add(self, regions: _UnitRegions, scores: Tensor) -> None:
        is_full = len(self.regions) == self.count
        worst = self.regions[-1].score if is_full else -torch.inf
        # What overlaps a worse one only cannot suppress anything that is kept.
        rows = torch.where(scores > worst)[0]
        rows = rows[scores[rows].argsort(descending=True, stable=True)]
        kept = _first_apart(regions.boxes[rows], scores[rows], regions.image_ids[rows], self.count)
        new = [regions.found(row, float(scores[row])) for row in rows[kept].tolist()]
        # Stable: of equal scores the earlier image comes first.
        self.regions = sorted([*self.regions, *new], key=lambda r: -r.score)[: self.count]


def _first_apart(boxes: Tensor, scores: Tensor, image_ids: Tensor, count: int) -> Tensor:
    """The first `count` of ranked regions, without those that a better one of their image overlaps.

    A region's fate depends on better ones alone, so a few are looked at first.
    """
    size = 16 * count
    while True:
        some = slice(0, size)
        kept = batched_nms(boxes[some].double(), scores[some].double(), image_ids[some], NMS_IOU)
        if len(kept) >= count or size >= len(boxes):
            ranked: Tensor = kept.sort().values[:count]
            return ranked
        size *= 4


def _scores(side: Tensor, queries: Tensor, temperature: float | None) -> Tensor:
    parts = torch.split(side, _ROWS_AT_ONCE)
    return torch.cat([score_texts(part, queries, temperature) for part in parts])


def _read_unit(run: Path, unit: int) -> _UnitRegions | None:
    """The regions of a unit; None where it has none."""
    table = read_part(run, "regions", unit, _COLUMNS).combine_chunks()
    if not len(table):
        return None
    boxes, (side_name, side) = column_tensor(table, "box", 4), _side(run, unit)
    assert boxes is not None
    image_ids, numbers, objectness = (
        torch.from_numpy(table.column(name).to_numpy().copy()) for name in _NUMBERS
    )
    return _UnitRegions(image_ids, numbers, objectness, boxes, side, side_name)


def _side(run: Path, unit: int) -> tuple[str, Tensor]:
    for name in (IMAGE_SIDE, TEXT_SIDE):
        side = column_tensor(read_part(run, "regions", unit, [name]).combine_chunks(), name)
        if side is not None:
            return name, side
    raise RunError(
        f"{run} kept no region embeddings.",
        hint="Run detect with --keep-regions.",
    )


def _planned(run: Path, path: str) -> PlannedImage:
    """The image of a plan that is called so."""
    names, file = {path}, Path(path).resolve()
    for source, root in source_roots(run).items():
        if file.is_relative_to(root.resolve()):
            names.add(f"{source}/{file.relative_to(root.resolve()).as_posix()}")
    found = [i for i in read_plan(run) if not names.isdisjoint((i.path, f"{i.source}/{i.path}"))]
    if not found:
        raise DataError(f"{run} has no image {path}.", hint="Write its path as the run has it.")
    if len(found) > 1:
        raise DataError(
            f"{run} has {len(found)} images called {path}.",
            hint=f"Put its source before it: {found[0].source}/{found[0].path}",
        )
    return found[0]
