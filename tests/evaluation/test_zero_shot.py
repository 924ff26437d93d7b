from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from official_evaluation import (
    COCO_128,
    annotate,
    jittered_truth,
    mean_of,
    needs,
    official_coco,
    predict,
    truth,
)

from vildcli.evaluation.evaluate import evaluate
from vildcli.evaluation.predictions import predictions_of_results
from vildcli.evaluation.truth import load_truth
from vildcli.evaluation.zero_shot import evaluate_split

COCO_TRAIN = COCO_128 / "instances_train2017_128.json"


@pytest.mark.parametrize(
    ("protocol", "names"),
    [("coco-48-17", ("novel", "base", "all")), ("coco-65-15", ("unseen", "seen", "all"))],
)
def test_evaluate_split__equals_pycocotools_group_by_group(protocol: str, names: Any) -> None:
    """Per-category numbers of pycocotools on the cut-down file, averaged over each group."""
    found = load_truth(needs(COCO_TRAIN), protocol)
    results = jittered_truth(dict(found.content), np.random.default_rng(1), masks=False)
    rng = np.random.default_rng(2)
    for row in list(results):  # a second name for many of the same boxes: more than 100 an image
        others = rng.choice([r["id"] for r in found.content["categories"]], 10, replace=False)
        extra = ({"category_id": int(c), "score": float(rng.integers(1, 9)) / 9} for c in others)
        results += [row | change for change in extra]
    (result,), _ = evaluate(found, predictions_of_results(results))

    official = official_coco(dict(found.content), results, "bbox")
    capped = []
    for image in found.content["images"]:
        own = [row for row in results if row["image_id"] == image["id"]]
        capped += sorted(own, key=lambda row: -row["score"])[:100]
    assert len(capped) < len(results)
    recalled = official_coco(dict(found.content), capped, "bbox")
    groups = {**found.groups, "all": frozenset().union(*found.groups.values())}
    expected = {}
    for name in names:
        columns = [i for i, c in enumerate(official.params.catIds) if c in groups[name]]
        precision = official.eval["precision"][0, :, :, 0, -1]
        expected[f"{name} AP50"] = mean_of(precision[:, columns])
        recall = recalled.eval["recall"][0, :, 0, -1]
        expected[f"{name} Recall@100"] = mean_of(recall[columns])
    assert dict(result.metrics) == pytest.approx(expected, abs=1e-9)
    assert result.metrics["all AP50"] == pytest.approx(
        mean_of(official.eval["precision"][0, :, :, 0, -1]), abs=1e-9
    )


def test_evaluate_split__novel_names_compete_with_base_ones_for_recall() -> None:
    """100 better-scored base boxes leave no place for the novel one; AP has a list for each."""
    content = truth(1, 2)
    annotate(content, 1, 2, [1, 1, 20, 20])
    results = [predict(1, 1, [60, 60, 9, 9], 0.9) for _ in range(100)]
    results.append(predict(1, 2, [1, 1, 20, 20], 0.8))
    groups = {"novel": frozenset({2}), "base": frozenset({1})}
    metrics = evaluate_split(content, predictions_of_results(results), groups).metrics
    assert metrics["novel AP50"] == pytest.approx(1)
    assert metrics["novel Recall@100"] == 0
    assert metrics["base AP50"] == -1  # no truth
    metrics = evaluate_split(content, predictions_of_results(results[1:]), groups).metrics
    assert metrics["novel Recall@100"] == 1


def test_evaluate_split__65_15_counts_images_without_any_object() -> None:
    """Wrong boxes there cost precision, as in COCO's own evaluation of all images."""
    content = json.loads(needs(COCO_TRAIN).read_text())
    empty = {row["id"] for row in content["images"]}
    empty -= {row["image_id"] for row in content["annotations"]}
    assert empty
    found = load_truth(COCO_TRAIN, "coco-65-15")
    assert {image.id for image in found.annotations.images} >= empty
