from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from official_evaluation import (
    LVIS_100,
    annotate,
    jittered_truth,
    needs,
    official_lvis,
    predict,
    random_case,
    truth,
)

from vildcli.errors import DataError
from vildcli.evaluation.engine import Engine
from vildcli.evaluation.lvis import (
    best_of_categories,
    best_of_images,
    check_lvis,
    evaluate_lvis,
)
from vildcli.evaluation.predictions import Predictions, predictions_of_results
from vildcli.evaluation.result import Result

# lvis calls logger.warn
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def evaluated(content: Any, results: Any, iou_type: Any, limit: int = 300) -> Result:
    predictions = best_of_images(predictions_of_results(results), limit)
    return evaluate_lvis(Engine(content, predictions), content, iou_type)


def assert_same(found: Result, official: Any) -> None:
    assert len(found.metrics) == 13
    assert list(found.metrics) == list(official.results)
    assert dict(found.metrics) == pytest.approx(dict(official.results), abs=1e-9)
    precision = official.eval["precision"][..., 0]
    there = {
        category: precision[:, :, i]
        for i, category in enumerate(official.params.cat_ids)
        if (precision[:, :, i] > -1).any()
    }
    ap = {category: values.mean() for category, values in there.items()}
    ap50 = {category: values[0].mean() for category, values in there.items()}
    assert found.per_category_ap == pytest.approx(ap, abs=1e-9)
    assert found.per_category_ap50 == pytest.approx(ap50, abs=1e-9)
    recall = official.eval["recall"][0, :, 0]
    recall50 = {c: recall[i] for i, c in enumerate(official.params.cat_ids) if c in there}
    found50 = {c: category.recall50 for c, category in found.categories.items()}
    assert found50 == pytest.approx(recall50, abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("seed", "detections"), [(0, 12), (1, 40), (2, 3), (3, 340)], ids=["12", "40", "3", "over-300"]
)
def test_evaluate_lvis__equals_the_official_numbers(
    iou_type: Any, seed: int, detections: int
) -> None:
    content, results = random_case(seed, detections)
    found = evaluated(content, results, iou_type)
    assert 9 not in found.categories
    assert_same(found, official_lvis(content, results, iou_type))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_evaluate_lvis__equals_the_official_numbers_on_real_annotations(iou_type: Any) -> None:
    content = json.loads(needs(LVIS_100).read_text())
    results = jittered_truth(content, np.random.default_rng(0))
    found = evaluated(content, results, iou_type)
    assert 0.2 < found.metrics["AP"] < 0.95
    assert_same(found, official_lvis(content, results, iou_type))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("limit", [150, 10_000])
def test_fixed_ap__is_lvis_with_a_limit_for_each_category_only(iou_type: Any, limit: int) -> None:
    """Images keep more than 300 with the higher limit, and categories are cut with the lower."""
    content, results = random_case(3, 340)
    best = best_of_categories(predictions_of_results(results), limit)
    found = evaluate_lvis(Engine(content, best), content, iou_type, limit=10_000)
    kept: list[dict[str, Any]] = []
    for category in range(1, 10):
        own = [row for row in results if row["category_id"] == category]
        kept += sorted(own, key=lambda row: -row["score"])[:limit]
    expected = official_lvis(content, kept, iou_type, max_dets=-1)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
    assert {n: found.metrics[n] for n in names} == pytest.approx(
        {n: expected.results[n] for n in names}, abs=1e-9
    )
    standard = evaluated(content, results, iou_type)
    assert abs(standard.metrics["AP"] - found.metrics["AP"]) > 1e-6


def test_best_of_images__keeps_the_best_scored_of_an_image() -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [10, 10, 20, 20])
    results = [
        predict(1, 1, [60, 60, 9, 9], 0.9),
        predict(1, 1, [10, 10, 20, 20], 0.8),
    ]
    assert evaluated(content, results, "bbox").metrics["AP50"] == pytest.approx(0.5)
    assert evaluated(content, results, "bbox", limit=1).metrics["AP50"] == 0


def test_best_of_images__takes_the_first_of_equal_scores() -> None:
    rows = [predict(i, 1, [i, 1, 9, 9], 0.5) for i in (2, 1, 2, 1, 2)]
    found = best_of_images(predictions_of_results(rows), 2)
    assert found.image_ids.tolist() == [2, 1, 2, 1]
    assert found.masks is not None


def test_evaluate_lvis__without_predictions_is_zero_and_silent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [10, 10, 20, 20])
    found = evaluated(content, [], "segm")
    assert found.metrics["AP"] == 0
    assert found.per_category_ap50 == {1: 0.0}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ids", [(0, 1), (7, 7)])
def test_evaluate_lvis__does_not_depend_on_annotation_ids(ids: tuple[int, int]) -> None:
    """To pycocotools, a match with the annotation 0 is no match, and equal ids are one object."""
    content = truth(1, 1)
    for x, id_ in zip((10, 60), ids, strict=True):
        annotate(content, 1, 1, [x, 10, 20, 20])
        content["annotations"][-1]["id"] = id_
    results = [predict(1, 1, [x, 10, 20, 20], 0.5) for x in (10, 60)]
    assert evaluated(content, results, "bbox").metrics["AP"] == pytest.approx(1)


def test_mean_ap50__is_over_the_categories_that_have_truth() -> None:
    content = truth(2, 3)
    annotate(content, 1, 1, [10, 10, 20, 20])
    annotate(content, 2, 2, [10, 10, 20, 20])
    found = evaluated(content, [predict(1, 1, [10, 10, 20, 20], 0.9)], "segm")
    assert found.mean_ap50([1, 2, 3]) == pytest.approx(0.5)
    assert found.mean_ap50([1]) == pytest.approx(1)
    assert found.mean_ap50([3]) == -1
    assert found.mean_recall50([1, 2]) == pytest.approx(0.5)


def test_check_lvis__refuses_a_coco_file() -> None:
    content = truth(1, 2)
    del content["images"][0]["neg_category_ids"]
    with pytest.raises(DataError) as caught:
        check_lvis(content, "coco.json")
    assert str(caught.value) == "coco.json is not an LVIS file: an image has no 'neg_category_ids'."
    assert caught.value.hint == "Evaluate a COCO file with --protocol coco."
    with pytest.raises(DataError, match=r"a category has no frequency\.$"):
        check_lvis({**truth(1, 1), "categories": [{"id": 1, "name": "a"}]}, "coco.json")


def test_predictions__keep_their_order_through_the_engine() -> None:
    """Float columns hold every id exactly."""
    content = truth(1, 1)
    content["images"][0]["id"] = 2**40 + 1
    annotate(content, 2**40 + 1, 1, [10, 10, 20, 20])
    results = [predict(2**40 + 1, 1, [10, 10, 20, 20], 0.5)]
    assert isinstance(predictions_of_results(results), Predictions)
    assert evaluated(content, results, "segm").metrics["AP"] == pytest.approx(1)
