from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from official_evaluation import (
    COCO_128,
    jittered_truth,
    needs,
    official_coco,
    random_case,
    rectangle,
)

from vildcli.evaluation.coco import evaluate_coco
from vildcli.evaluation.engine import Engine
from vildcli.evaluation.predictions import predictions_of_results
from vildcli.evaluation.result import Result

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
KEYS += ["AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"]


def evaluated(content: Any, results: Any, iou_type: Any) -> Result:
    return evaluate_coco(Engine(content, predictions_of_results(results)), iou_type)


def assert_same(found: Result, official: Any) -> None:
    assert list(found.metrics) == KEYS
    assert list(found.metrics.values()) == pytest.approx(official.stats.tolist(), abs=1e-9)
    precision = official.eval["precision"][:, :, :, 0, -1]
    recall = official.eval["recall"][:, :, 0, -1]
    there = [i for i in range(precision.shape[2]) if (precision[:, :, i] > -1).any()]
    assert list(found.categories) == [official.params.catIds[i] for i in there]
    for i, category in zip(there, found.categories.values(), strict=True):
        assert category.ap == pytest.approx(precision[:, :, i].mean(), abs=1e-9)
        assert category.ap50 == pytest.approx(precision[0, :, i].mean(), abs=1e-9)
        assert category.curve == pytest.approx(precision[0, :, i], abs=1e-9)
        assert category.recall == pytest.approx(recall[:, i].mean(), abs=1e-9)
        assert category.recall50 == pytest.approx(recall[0, i], abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize(("seed", "detections"), [(0, 12), (1, 40), (3, 340)])
def test_evaluate_coco__equals_pycocotools(iou_type: Any, seed: int, detections: int) -> None:
    """Tied scores, a category without truth, crowds, more than 100 detections of one category."""
    content, results = random_case(seed, detections)
    for row in content["annotations"][::7]:
        row["iscrowd"] = 1
    found = evaluated(content, results, iou_type)
    assert 9 not in found.categories
    assert_same(found, official_coco(content, results, iou_type))


@pytest.mark.parametrize(
    ("name", "iou_type"),
    [
        ("instances_train2017_128.json", "bbox"),
        ("instances_train2017_128.json", "segm"),
        ("instances_val2017_128_boxes_derived.json", "bbox"),
    ],
)
def test_evaluate_coco__equals_pycocotools_on_real_annotations(name: str, iou_type: Any) -> None:
    content = json.loads(needs(COCO_128 / name).read_text())
    results = jittered_truth(content, np.random.default_rng(0), masks="train" in name)
    found = evaluated(content, results, iou_type)
    assert 0.2 < found.metrics["AP"] < 0.95
    assert_same(found, official_coco(content, results, iou_type))


def test_evaluate_coco__takes_a_predictions_area_from_its_box() -> None:
    """As pycocotools does when a prediction has a box, for masks too."""
    content, results = random_case(5, 60)
    for row in results:
        x, y, width, height = row["bbox"]
        row["segmentation"] = rectangle(x, y, max(1, width // 3), height)
    found = evaluated(content, results, "segm")
    assert_same(found, official_coco(content, results, "segm"))


@pytest.mark.parametrize("limits", [(100, 300, 1000), (1, 5, 20)])
def test_engine__without_categories_equals_pycocotools(limits: tuple[int, ...]) -> None:
    content, results = random_case(3, 340)
    curves = Engine(content, predictions_of_results(results)).coco(
        "bbox", limits=limits, use_categories=False
    )
    official = official_coco(content, results, "bbox", max_dets=limits, use_categories=False)
    assert curves.recall == pytest.approx(official.eval["recall"], abs=1e-9)
    assert curves.precision == pytest.approx(official.eval["precision"], abs=1e-9)
