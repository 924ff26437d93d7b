"""Against the development kit's definition, written down once more in its own form and frame.

`VOCevaldet.m` counts pixels from 1, boxes include their last pixel, and every side gets 1 added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from official_evaluation import SHARED_DATA, annotate, needs, predict, random_case, truth

from vildcli.data.voc import read_voc
from vildcli.evaluation.predictions import predictions_of_results
from vildcli.evaluation.result import Result
from vildcli.evaluation.voc import VocCurve, evaluate_voc

BCCD = SHARED_DATA / "images" / "bccd" / "BCCD"


def devkit_truth(content: Any, category: int) -> dict[int, list[dict[str, Any]]]:
    gt: dict[int, list[dict[str, Any]]] = {}
    for row in content["annotations"]:
        if row["category_id"] == category:
            difficult = bool(row.get("difficult"))
            found = {"bb": corners(row["bbox"]), "diff": difficult, "det": False}
            gt.setdefault(row["image_id"], []).append(found)
    return gt


def corners(bbox: Any) -> tuple[float, ...]:
    """First and last pixel, counted from 1."""
    x, y, w, h = bbox
    return x + 1, y + 1, x + w, y + h


def devkit_overlap(bb: Any, bbgt: Any) -> float:
    iw = min(bb[2], bbgt[2]) - max(bb[0], bbgt[0]) + 1
    ih = min(bb[3], bbgt[3]) - max(bb[1], bbgt[1]) + 1
    if iw <= 0 or ih <= 0:
        return -np.inf
    ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
    ua += (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1) - iw * ih
    return float(iw * ih / ua)


def devkit(content: Any, results: Any, category: int, overlap: float) -> tuple[Any, Any] | None:
    """Recall and precision after each detection, step by step as VOCevaldet.m takes them."""
    gt = devkit_truth(content, category)
    npos = sum(not found["diff"] for rows in gt.values() for found in rows)
    if npos == 0:
        return None
    detections = [row for row in results if row["category_id"] == category]
    detections.sort(key=lambda row: -row["score"])
    tp, fp = np.zeros(len(detections)), np.zeros(len(detections))
    for d, row in enumerate(detections):
        ovmax, jmax = -np.inf, None
        for found in gt.get(row["image_id"], []):
            ov = devkit_overlap(corners(row["bbox"]), found["bb"])
            if ov > ovmax:
                ovmax, jmax = ov, found
        if jmax is None or ovmax < overlap:
            fp[d] = 1
        elif not jmax["diff"]:
            tp[d], fp[d] = not jmax["det"], jmax["det"]
            jmax["det"] = True
    tp, fp = tp.cumsum(), fp.cumsum()
    with np.errstate(invalid="ignore"):  # 0 / 0 where the first ones are on difficult objects
        return tp / npos, np.nan_to_num(tp / (fp + tp))


def devkit_area(rec: Any, prec: Any) -> float:
    """VOCap.m of 2010 and later."""
    mrec, mpre = [0.0, *rec, 1.0], [0.0, *prec, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return float(
        sum(
            (mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1]
        )
    )


def devkit_11_points(rec: Any, prec: Any) -> float:
    """VOCevaldet.m up to 2009."""
    ap = 0.0
    for tenth in range(11):
        reached = [p for r, p in zip(rec, prec, strict=True) if r >= tenth / 10 - 1e-9]
        ap += max(reached, default=0.0) / 11
    return ap


def evaluated(content: Any, results: Any) -> Result:
    return evaluate_voc(content, predictions_of_results(results))


def assert_same(content: Any, results: Any) -> None:
    found = evaluated(content, results)
    area50 = {}
    for key, overlap in (("AP50", 0.5), ("AP75", 0.75)):
        curves = {
            c["id"]: devkit(content, results, c["id"], overlap) for c in content["categories"]
        }
        there = {i: curve for i, curve in curves.items() if curve is not None}
        areas = {i: devkit_area(*curve) for i, curve in there.items()}
        points = [devkit_11_points(*curve) for curve in there.values()]
        assert found.metrics[key] == pytest.approx(np.mean(list(areas.values())), abs=1e-9)
        assert found.metrics[f"{key} 11-point"] == pytest.approx(np.mean(points), abs=1e-9)
        area50 = area50 or areas
    assert found.per_category_ap50 == pytest.approx(area50, abs=1e-9)


@pytest.mark.parametrize(("seed", "detections"), [(0, 12), (1, 40), (3, 340)])
def test_evaluate_voc__equals_the_development_kit(seed: int, detections: int) -> None:
    content, results = random_case(seed, detections)
    for row in content["annotations"][::4]:
        row["difficult"] = 1
    assert_same(content, results)


def test_evaluate_voc__equals_the_development_kit_on_real_annotations() -> None:
    content = read_voc(needs(BCCD / "ImageSets" / "Main" / "val.txt"))
    rng = np.random.default_rng(0)
    results = []
    for row in content["annotations"]:
        box = [float(n) for n in np.asarray(row["bbox"]) + rng.normal(0, 4, 4)]
        category = int(rng.integers(1, 4)) if rng.random() < 0.2 else row["category_id"]
        score = float(rng.integers(1, 30)) / 30
        results.append(predict(row["image_id"], category, [1, 1, 5, 5], score) | {"bbox": box})
    results = [row for row in results if min(row["bbox"][2:]) > 0]
    assert 0.2 < evaluated(content, results).metrics["AP50"] < 0.95
    assert_same(content, results)


def test_evaluate_voc__by_hand() -> None:
    """Three objects; right at 0.9, wrong at 0.8, right at 0.7: precision 1, 1/2, 2/3."""
    content = truth(1, 1)
    for x in (0, 30, 60):
        annotate(content, 1, 1, [x, 0, 20, 20])
    results = [
        predict(1, 1, [0, 0, 20, 20], 0.9),
        predict(1, 1, [0, 60, 20, 20], 0.8),
        predict(1, 1, [30, 0, 20, 16], 0.7),  # overlap 0.8
    ]
    metrics = evaluated(content, results).metrics
    assert metrics["AP50"] == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    # Recalls 0, 0.1, 0.2, 0.3 at precision 1, then 0.4, 0.5, 0.6 at 2/3.
    assert metrics["AP50 11-point"] == pytest.approx((4 + 3 * 2 / 3) / 11)
    assert metrics["AP75"] == pytest.approx(metrics["AP50"])


def test_evaluate_voc__ap75_is_stricter() -> None:
    content = truth(1, 1)
    annotate(content, 1, 1, [0, 0, 20, 20])
    metrics = evaluated(content, [predict(1, 1, [0, 0, 20, 12], 0.9)]).metrics  # overlap 0.6
    assert (metrics["AP50"], metrics["AP75"]) == (pytest.approx(1), 0)


def test_evaluate_voc__the_overlap_itself_is_enough() -> None:
    content = truth(1, 1)
    annotate(content, 1, 1, [0, 0, 20, 20])
    assert evaluated(content, [predict(1, 1, [0, 0, 20, 10], 0.9)]).metrics["AP50"] == 1


@pytest.mark.parametrize("key", ["difficult", "ignore", "iscrowd"])
def test_evaluate_voc__a_difficult_object_is_neither_right_nor_wrong(key: str) -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [0, 0, 20, 20])
    annotate(content, 1, 1, [60, 60, 20, 20])
    annotate(content, 1, 2, [60, 0, 20, 20])
    for row in content["annotations"][1:]:
        row[key] = 1
    results = [
        predict(1, 1, [60, 60, 20, 20], 0.9),
        predict(1, 1, [60, 60, 20, 20], 0.8),  # a second one on it does no harm either
        predict(1, 1, [0, 0, 20, 20], 0.7),
        predict(1, 2, [60, 0, 20, 20], 0.7),
    ]
    found = evaluated(content, results)
    assert found.metrics["AP50"] == 1
    assert list(found.categories) == [1]  # the second has only a difficult object


def test_evaluate_voc__an_object_is_found_once() -> None:
    content = truth(2, 1)
    annotate(content, 1, 1, [0, 0, 20, 20])
    annotate(content, 2, 1, [0, 0, 20, 20])
    twice = [predict(1, 1, [0, 0, 20, 20], score) for score in (0.9, 0.8)]
    found = evaluated(content, [*twice, predict(2, 1, [0, 0, 20, 20], 0.7)])
    assert found.metrics["AP50"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_evaluate_voc__without_predictions_or_truth() -> None:
    content = truth(1, 1)
    assert evaluated(content, []).metrics["AP50"] == -1
    annotate(content, 1, 1, [0, 0, 20, 20])
    assert evaluated(content, []).metrics["AP50"] == 0


def test_eleven_points__reads_recall_without_rounding() -> None:
    """3 of 10 reach the recall 0.3, which binary fractions just miss."""
    curve = VocCurve(np.arange(1, 4) / 10, np.ones(3))
    assert curve.eleven_points() == pytest.approx(4 / 11)
