"""A model's predictions on an annotation set, by the publication's policy.

Per-category NMS 0.5, no threshold, 300 detections an image, scored among the annotation set's own
categories: unlike labelling, which gives a region one name and scores it in a context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage, AnnotationSet
from vildcli.detector.postprocess import top_detections
from vildcli.detector.scoring import ScoringHead, named_boxes, score_regions
from vildcli.errors import DataError
from vildcli.evaluation.lvis import FIXED_DETECTIONS, MAX_DETECTIONS, best_of_categories
from vildcli.evaluation.predictions import Predictions, concatenate
from vildcli.labelling.masks import mask_to_rle
from vildcli.text.context import ScoringBank
from vildcli.types import Regions, made

NMS_IOU = 0.5

# Told of each image: what it is, its regions (boxes as the first scorer has them), and their scores
# [R, C] by scorer.
Watcher = Callable[[AnnotatedImage, Regions, Mapping[str, Tensor]], None]


@dataclass(frozen=True, slots=True)
class Scorer:
    """One way to score an image's regions: an embedding bank and a model's scoring head."""

    bank: ScoringBank
    head: ScoringHead

    def scores(self, regions: Regions) -> Tensor:
        """[R, C] in 0-1."""
        return self.named(regions)[0]

    def named(self, regions: Regions) -> tuple[Tensor, Tensor]:
        """Scores [R, C] in 0-1, and boxes [R, 4], which names may have a say in."""
        bank = self.bank
        scores = score_regions(
            regions.text_side,
            regions.image_side,
            bank.text_embeddings,
            bank.is_base,
            self.head,
            regions.objectness,
        )
        boxes = named_boxes(regions, scores, bank.text_embeddings, self.head)
        return scores.fused[:, : len(bank.category_ids)], boxes


class Collection(Protocol):
    """Which detections of an image are kept, and all that were."""

    def choose(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Region rows [K] and category columns [K] of boxes [R, 4] and scores [R, C]."""

    def add(self, found: Predictions) -> None: ...

    def all(self) -> Predictions: ...


@dataclass(slots=True)
class BestOfImages:
    """The best `count` of each image: LVIS's own rule, and more than any other protocol reads."""

    count: int = MAX_DETECTIONS
    _parts: list[Predictions] = field(default_factory=list)

    def choose(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return top_detections(boxes, scores, count=self.count, iou=NMS_IOU)

    def add(self, found: Predictions) -> None:
        self._parts.append(found)

    def all(self) -> Predictions:
        return concatenate(self._parts)


@dataclass(slots=True)
class BestOfCategories:
    """The best `count` of each category over all images, for fixed AP.

    Once a category is full, what does not beat its last one is not looked at: a detection's fate
    under NMS depends on higher-scored ones alone.

    Attributes:
        category_ids: [C] of the score columns.
    """

    category_ids: Tensor
    count: int = FIXED_DETECTIONS
    _parts: list[Predictions] = field(default_factory=list)
    _floors: Tensor | None = None

    def choose(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        floors = torch.full((scores.shape[1],), -1.0) if self._floors is None else self._floors
        columns, rows = torch.where((scores > floors).T)  # equal scores by (category, region)
        found = scores[rows, columns]
        kept = batched_nms(boxes[rows].double(), found.double(), columns, NMS_IOU).sort().values
        kept = kept[found[kept].sort(descending=True, stable=True).indices]
        return rows[kept], columns[kept]

    def add(self, found: Predictions) -> None:
        self._parts.append(found)
        if sum(map(len, self._parts)) > 2 * self.count * len(self.category_ids):
            self._shrink()

    def all(self) -> Predictions:
        self._shrink()
        return concatenate(self._parts)

    def _shrink(self) -> None:
        best = best_of_categories(concatenate(self._parts), self.count)
        self._parts = [best]
        floors = []
        for category_id in self.category_ids.tolist():
            scores = best.scores[best.category_ids == category_id]
            floors.append(float(scores.min()) if len(scores) >= self.count else -1.0)
        self._floors = torch.tensor(floors)


def predict(
    detector: Callable[[Tensor], Regions],
    scorers: Mapping[str, Scorer],
    annotations: AnnotationSet,
    images: Path,
    *,
    collections: Mapping[str, Collection] | None = None,
    masks: bool = True,
    watch: Watcher | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Predictions]:
    """Predict every image once and score its regions in several ways.

    Args:
        detector: image [3, H, W] uint8 to its regions.
        scorers: by name; all read the same regions.
        collections: what is kept, by scorer; default the best 300 of each image.
        masks: whether masks are pasted; boxes cost less.
        watch: told of each image.

    Returns:
        Predictions by scorer.

    Raises:
        DataError: an image cannot be read, or is of another size than the annotation set says.
    """
    kept = collections or {name: BestOfImages() for name in scorers}
    for info in annotations.images:
        regions = detector(_pixels(info, images))
        named = {name: scorer.named(regions) for name, scorer in scorers.items()}
        scores = {name: found for name, (found, _) in named.items()}
        pasted: dict[int, dict[str, Any]] = {}
        for name, scorer in scorers.items():
            boxes = named[name][1]
            rows, columns = kept[name].choose(boxes, scores[name])
            best = scores[name][rows, columns]
            if masks:
                _paste(regions, rows.tolist(), info, pasted)
            ids = scorer.bank.category_ids[columns]
            kept[name].add(
                _predictions(info, boxes[rows], rows, ids, best, pasted if masks else None)
            )
        if watch is not None:
            boxes = next((boxes for _, boxes in named.values()), regions.boxes)
            watch(info, replace(regions, boxes=boxes), scores)
        advance()
    return {name: kept[name].all() for name in scorers}


def _pixels(info: AnnotatedImage, images: Path) -> Tensor:
    decoded = read_image(images / info.file_name)
    if (decoded.width, decoded.height) != (info.width, info.height):
        raise DataError(
            f"{info.file_name} is {decoded.width} x {decoded.height} pixels, in the annotation "
            f"file {info.width} x {info.height}.",
            hint="Name the folder of the very images that were annotated.",
        )
    return torch.from_numpy(decoded.pixels).permute(2, 0, 1)


def _paste(
    regions: Regions, rows: list[int], info: AnnotatedImage, pasted: dict[int, dict[str, Any]]
) -> None:
    """Paste the masks of regions that are not pasted yet: several names share one."""
    masks = made(regions.masks)
    for row in set(rows) - pasted.keys():
        x1, y1, x2, y2 = regions.boxes[row].tolist()
        mask = masks[row].numpy()
        pasted[row] = mask_to_rle(mask, (x1, y1, x2, y2), info.height, info.width)


def _predictions(
    info: AnnotatedImage,
    boxes: Tensor,
    rows: Tensor,
    category_ids: Tensor,
    scores: Tensor,
    pasted: Mapping[int, dict[str, Any]] | None,
) -> Predictions:
    corners = boxes.double().numpy()
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return Predictions(
        np.full(len(rows), info.id, np.int64),
        category_ids.numpy().astype(np.int64),
        sides,
        scores.double().numpy(),
        None if pasted is None else [pasted[row] for row in rows.tolist()],
    )
