from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from official_evaluation import (
    COCO_128,
    annotate,
    mean_of,
    needs,
    official_coco,
    random_box,
    random_case,
    truth,
)

from vildcli.evaluation.predictions import Predictions, concatenate
from vildcli.evaluation.proposals import evaluate_proposals, proposals_of_image

GROUPS = {"rare": frozenset({3, 6}), "none": frozenset({9})}


def random_proposals(content: Any, count: int) -> Predictions:
    rng = np.random.default_rng(7)
    parts = []
    for image in content["images"]:
        boxes = np.array([random_box(rng) for _ in range(count)], float)
        boxes[:, 2:] += boxes[:, :2]
        objectness = np.sort(rng.integers(1, 50, count) / 50)[::-1]  # ties
        parts.append(proposals_of_image(image["id"], 1, boxes, objectness))
    return concatenate(parts)


def as_results(proposals: Predictions) -> list[dict[str, Any]]:
    columns = (proposals.image_ids, proposals.category_ids, proposals.boxes, proposals.scores)
    names = ("image_id", "category_id", "bbox", "score")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def official(content: Any, proposals: Predictions, prefix: str) -> dict[str, float]:
    """pycocotools with useCats=0; only its recalls are asked for."""
    evaluation = official_coco(
        content,
        as_results(proposals),
        "bbox",
        max_dets=(100, 300, 1000),
        use_categories=False,
    )
    recall = evaluation.eval["recall"]
    found = {
        f"{prefix} AR@{k}": mean_of(recall[:, :, 0, i]) for i, k in enumerate((100, 300, 1000))
    }
    areas = enumerate("sml", start=1)
    return found | {f"{prefix} AR{a}@1000": mean_of(recall[:, :, i, 2]) for i, a in areas}


def test_evaluate_proposals__equals_pycocotools_without_categories() -> None:
    content, _ = random_case(2, 0)
    proposals = random_proposals(content, 400)
    found = evaluate_proposals(content, proposals, GROUPS)
    rare = {**content, "annotations": [
        row for row in content["annotations"] if row["category_id"] in GROUPS["rare"]
    ]}  # fmt: skip
    expected = official(content, proposals, "all") | official(rare, proposals, "rare")
    assert 0.1 < expected["all AR@100"] < expected["all AR@300"] < expected["all AR@1000"] < 1
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-9), key
    assert [found[f"none AR@{k}"] for k in (100, 300, 1000)] == [-1, -1, -1]


def test_evaluate_proposals__equals_pycocotools_on_real_annotations() -> None:
    content = json.loads(needs(COCO_128 / "instances_train2017_128.json").read_text())
    rng = np.random.default_rng(0)
    parts = []
    for image in content["images"]:
        own = [row["bbox"] for row in content["annotations"] if row["image_id"] == image["id"]]
        if own:
            boxes = np.array(own, float)
            boxes[:, 2:] += boxes[:, :2]
            boxes += rng.normal(0, 5, boxes.shape)
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
            parts.append(proposals_of_image(image["id"], 1, boxes, rng.random(len(boxes))))
    proposals = concatenate(parts)
    found = evaluate_proposals(content, proposals, {})
    expected = official(content, proposals, "all")
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0.2 < found["all AR@100"] < 0.95


def test_evaluate_proposals__takes_the_best_by_objectness() -> None:
    content = truth(1, 2)
    annotate(content, 1, 2, [10, 10, 20, 20])
    boxes = np.tile([60.0, 60, 70, 70], (101, 1))
    boxes[50] = [10, 10, 30, 30]
    low, high = np.full(101, 0.5), np.full(101, 0.5)
    low[50], high[50] = 0.4, 0.6
    of = {name: proposals_of_image(1, 1, boxes, values)
          for name, values in (("low", low), ("high", high))}  # fmt: skip
    assert evaluate_proposals(content, of["low"], {})["all AR@100"] == 0
    assert evaluate_proposals(content, of["low"], {})["all AR@300"] == pytest.approx(1)
    assert evaluate_proposals(content, of["high"], {})["all AR@100"] == pytest.approx(1)


def test_evaluate_proposals__one_proposal_finds_one_object() -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [10, 10, 20, 20])
    annotate(content, 1, 2, [10, 10, 20, 20])
    proposals = proposals_of_image(1, 1, np.array([[10.0, 10, 30, 30]]), np.array([0.5]))
    assert evaluate_proposals(content, proposals, {})["all AR@100"] == pytest.approx(0.5)
