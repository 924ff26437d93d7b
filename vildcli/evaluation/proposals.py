"""Proposal recall: how many objects have a proposal, whatever they are called. No torch.

AR@k is COCO's: the best k proposals of an image by objectness, matched to objects one to one,
recall averaged over the IoU thresholds 0.50, 0.55, …, 0.95.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vildcli.evaluation.engine import AREAS, Engine
from vildcli.evaluation.predictions import Floats, Predictions
from vildcli.evaluation.result import mean_present

LIMITS = (100, 300, 1000)  # proposals an image


def proposals_of_image(
    image_id: int, category_id: int, boxes: Floats, objectness: Floats
) -> Predictions:
    """Proposals of one image as predictions.

    Args:
        image_id: the truth's.
        category_id: any of the truth's; it is not looked at.
        boxes: [R, 4] x1 y1 x2 y2, pixels of the upright original image.
        objectness: [R].
    """
    count = len(objectness)
    return Predictions(
        np.full(count, image_id, np.int64),
        np.full(count, category_id, np.int64),
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        objectness,
        None,
    )


def evaluate_proposals(
    content: Mapping[str, Any],
    proposals: Predictions,
    groups: Mapping[str, frozenset[int]],
) -> dict[str, float]:
    """Average recall of proposals, of all objects and of those of each group.

    Args:
        content: JSON value of the truth.
        proposals: of its images, the score being the objectness.
        groups: category ids by the name of their group.

    Returns:
        `all AR@100`, …, `all ARs@1000`, … (small, medium, large objects), then the same for each
        group; in 0-1, -1 where there is no object.
    """
    every = frozenset(row["id"] for row in content["categories"])
    metrics: dict[str, float] = {}
    for name, ids in {"all": every, **groups}.items():
        metrics |= {f"{name} {key}": value for key, value in _recalls(content, proposals, ids)}
    return metrics


def _recalls(
    content: Mapping[str, Any], proposals: Predictions, category_ids: frozenset[int]
) -> list[tuple[str, float]]:
    rows = [row for row in content["annotations"] if row["category_id"] in category_ids]
    if not rows:
        return [(f"AR@{limit}", -1.0) for limit in LIMITS]
    engine = Engine({**content, "annotations": rows}, proposals)
    recall = engine.coco("bbox", limits=LIMITS, use_categories=False).recall  # [T, 1, A, M]
    found = [(f"AR@{k}", mean_present(recall[:, :, 0, i])) for i, k in enumerate(LIMITS)]
    for i, area in enumerate(AREAS[1:], start=1):
        found.append((f"AR{area[0]}@{LIMITS[-1]}", mean_present(recall[:, :, i, -1])))
    return found
