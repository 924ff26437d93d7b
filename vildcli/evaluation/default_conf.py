"""The score from which a model's labels are worth showing: best F1 on its validation images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torchvision.ops import box_iou

from vildcli.data.lvis import Annotation
from vildcli.types import RegionLabels, Regions

MATCH_IOU = 0.5

Labelled = tuple[Regions, RegionLabels, Sequence[Annotation]]  # of one image


def best_f1_threshold(images: Iterable[Labelled]) -> float:
    """The score whose labels have the best F1 over all images and categories; 0 without a hit.

    A label is right when it is the best-scored one of its category on an object not taken yet, box
    IoU at least 0.5.
    """
    scores: list[float] = []
    right: list[bool] = []
    objects = 0
    for regions, labels, truth in images:
        objects += len(truth)
        scores += labels.scores.tolist()
        right += _matches(regions, labels, truth)
    if not any(right):
        return 0.0
    order = torch.tensor(scores).argsort(descending=True)
    hits = torch.tensor(right)[order].cumsum(0)
    shown = torch.arange(1, len(order) + 1)
    f1 = 2 * hits / (shown + objects)
    return round(float(torch.tensor(scores)[order[f1.argmax()]]), 4)


def _matches(
    regions: Regions, labels: RegionLabels, annotations: Sequence[Annotation]
) -> list[bool]:
    boxes = torch.tensor([a.box for a in annotations]).reshape(-1, 4)
    found = regions.boxes[labels.regions] if labels.boxes is None else labels.boxes
    overlaps = box_iou(found, boxes)
    taken: set[int] = set()
    right = []
    for category_id, row in zip(labels.category_ids.tolist(), overlaps.tolist(), strict=True):
        free = [
            (iou, i)
            for i, iou in enumerate(row)
            if iou >= MATCH_IOU and i not in taken and annotations[i].category_id == category_id
        ]
        if free:
            taken.add(max(free)[1])
        right.append(bool(free))
    return right
