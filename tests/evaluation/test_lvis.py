from __future__ import annotations

import copy
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vildcli.errors import DataError
from vildcli.evaluation.lvis import evaluate_lvis

SIDE = 128
SHARED_DATA = Path(
    os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")
)


def rectangle(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def truth(images: int, categories: int) -> dict[str, Any]:
    """Images without negatives or annotations; frequencies r, c, f in turn."""
    return {
        "images": [
            {
                "id": i,
                "width": SIDE,
                "height": SIDE,
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
            for i in range(1, images + 1)
        ],
        "categories": [
            {"id": c, "name": f"c{c}", "frequency": "rcf"[c % 3]} for c in range(1, categories + 1)
        ],
        "annotations": [],
    }


def annotate(content: dict[str, Any], image_id: int, category_id: int, box: list[int]) -> None:
    content["annotations"].append(
        {
            "id": len(content["annotations"]) + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": box[2] * box[3],
            "segmentation": rectangle(*box),
        }
    )


def predict(image_id: int, category_id: int, box: list[int], score: float) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "score": score,
        "segmentation": rectangle(*box),
    }


def random_case(seed: int, detections_an_image: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Random truth and predictions: tied scores, categories without truth, not-exhaustive lists."""
    rng = np.random.default_rng(seed)
    content = truth(images=6, categories=9)
    results = []
    for image in content["images"]:
        for category in rng.choice(np.arange(1, 9), 4, replace=False):  # 9 never has truth
            for _ in range(rng.integers(1, 4)):
                annotate(content, image["id"], int(category), random_box(rng))
        image["neg_category_ids"] = [9, int(rng.integers(1, 9))]
        image["not_exhaustive_category_ids"] = [int(rng.integers(1, 9))]
        for _ in range(detections_an_image):
            near = rng.random() < 0.6
            row = content["annotations"][-int(rng.integers(1, 5))]
            box = jittered(row["bbox"], rng) if near else random_box(rng)
            category = row["category_id"] if near else int(rng.integers(1, 10))
            score = float(rng.integers(1, 6)) / 5  # five values: many ties
            results.append(predict(image["id"], category, box, score))
    return content, results


def random_box(rng: np.random.Generator) -> list[int]:
    x, y = (int(n) for n in rng.integers(0, 70, 2))
    width, height = (int(n) for n in rng.integers(4, 58, 2))
    return [x, y, width, height]


def jittered(box: list[int], rng: np.random.Generator) -> list[int]:
    x, y, width, height = (int(n) for n in np.asarray(box) + rng.integers(-3, 4, 4))
    return [max(0, x), max(0, y), max(2, width), max(2, height)]


class _Numpy:
    """numpy as lvis 0.5.3 knew it."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the official evaluation: (truth, results, iou type) -> metrics, AP, AP50 by category."""
    handlers = list(logging.getLogger().handlers)
    with np.errstate(all="ignore"):
        lvis = pytest.importorskip("lvis")
    logging.getLogger().handlers = handlers  # importing lvis configures the root logger
    monkeypatch.setattr("lvis.eval.np", _Numpy())

    def run(content: dict[str, Any], results: list[dict[str, Any]], iou_type: str) -> Any:
        truth_set = lvis.LVIS.__new__(lvis.LVIS)
        truth_set.logger = logging.getLogger("lvis")
        truth_set.dataset = copy.deepcopy(content)
        truth_set._create_index()
        found = lvis.LVISResults(truth_set, copy.deepcopy(results))
        evaluation = lvis.LVISEval(truth_set, found, iou_type)
        evaluation.run()
        precision = evaluation.eval["precision"][..., 0]
        there = {
            c: precision[:, :, i]
            for i, c in enumerate(evaluation.params.cat_ids)
            if (precision[:, :, i] > -1).any()
        }
        return (
            evaluation.get_results(),
            {c: p.mean() for c, p in there.items()},
            {c: p[0].mean() for c, p in there.items()},
        )

    return run


def assert_same(found: Any, official_numbers: Any) -> None:
    metrics, ap, ap50 = official_numbers
    assert len(found.metrics) == 13
    assert dict(found.metrics) == pytest.approx(dict(metrics), abs=1e-9)
    assert dict(found.per_category_ap) == pytest.approx(ap, abs=1e-9)
    assert dict(found.per_category_ap50) == pytest.approx(ap50, abs=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lvis calls logger.warn
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("seed", "detections"), [(0, 12), (1, 40), (2, 3), (3, 340)], ids=["12", "40", "3", "over-300"]
)
def test_evaluate_lvis__equals_the_official_numbers(
    official: Any, iou_type: Any, seed: int, detections: int
) -> None:
    content, results = random_case(seed, detections)
    found = evaluate_lvis(content, results, iou_type=iou_type)
    assert 9 not in found.per_category_ap50
    assert_same(found, official(content, results, iou_type))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_evaluate_lvis__equals_the_official_numbers_on_real_annotations(
    official: Any, iou_type: Any
) -> None:
    path = SHARED_DATA / "lvis" / "lvis_val_100.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    content = json.loads(path.read_text())
    results = jittered_truth(content, np.random.default_rng(0))
    found = evaluate_lvis(path, results, iou_type=iou_type)
    assert 0.2 < found.metrics["AP"] < 0.95
    assert_same(found, official(content, results, iou_type))


def jittered_truth(content: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Every annotation moved by a few pixels, one in five with a wrong name, scores with ties."""
    sizes = {row["id"]: (row["height"], row["width"]) for row in content["images"]}
    ids = [row["id"] for row in content["categories"]]
    results = []
    for row in content["annotations"]:
        height, width = sizes[row["image_id"]]
        encoded = coco_mask.merge(coco_mask.frPyObjects(row["segmentation"], height, width))
        moved = np.roll(coco_mask.decode(encoded), rng.integers(-3, 4, 2), axis=(0, 1))
        segmentation = coco_mask.encode(np.asfortranarray(moved))
        wrong = rng.random() < 0.2
        results.append(
            {
                "image_id": row["image_id"],
                "category_id": int(rng.choice(ids)) if wrong else row["category_id"],
                "bbox": [float(n) for n in coco_mask.toBbox(segmentation)],
                "score": float(rng.integers(1, 20)) / 20,
                "segmentation": {
                    "size": segmentation["size"],
                    "counts": segmentation["counts"].decode(),
                },
            }
        )
    return results


def test_evaluate_lvis__keeps_the_best_scored_of_an_image() -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [10, 10, 20, 20])
    results = [
        predict(1, 1, [60, 60, 9, 9], 0.9),
        predict(1, 1, [10, 10, 20, 20], 0.8),
    ]
    assert evaluate_lvis(content, results, iou_type="bbox").metrics["AP50"] == pytest.approx(0.5)
    found = evaluate_lvis(content, results, iou_type="bbox", max_dets=1)
    assert found.metrics["AP50"] == 0


def test_evaluate_lvis__without_predictions_is_zero_and_silent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [10, 10, 20, 20])
    found = evaluate_lvis(content, [], iou_type="segm")
    assert found.metrics["AP"] == 0
    assert found.per_category_ap50 == {1: 0.0}
    assert capfd.readouterr() == ("", "")


def test_mean_ap50__is_over_the_categories_that_have_truth() -> None:
    content = truth(2, 3)
    annotate(content, 1, 1, [10, 10, 20, 20])
    annotate(content, 2, 2, [10, 10, 20, 20])
    found = evaluate_lvis(content, [predict(1, 1, [10, 10, 20, 20], 0.9)], iou_type="segm")
    assert found.mean_ap50([1, 2, 3]) == pytest.approx(0.5)
    assert found.mean_ap50([1]) == pytest.approx(1)
    assert found.mean_ap50([3]) == -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "Prediction 0 has the score nan."),
        ({"image_id": 7}, "Prediction 0 is for image 7, which has no truth."),
        ({"category_id": 7}, "Prediction 0 has the unknown category 7."),
    ],
)
def test_evaluate_lvis__refuses_a_bad_prediction(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        evaluate_lvis(truth(1, 2), [predict(1, 1, [1, 1, 9, 9], 0.5) | change], iou_type="bbox")
    assert str(caught.value) == message


def test_evaluate_lvis__refuses_predictions_without_masks() -> None:
    result = predict(1, 1, [1, 1, 9, 9], 0.5)
    del result["segmentation"]
    with pytest.raises(DataError, match=r"^Prediction 0 has no 'segmentation'\.$"):
        evaluate_lvis(truth(1, 2), [result], iou_type="segm")


def test_evaluate_lvis__refuses_a_coco_file(tmp_path: Path) -> None:
    content = truth(1, 2)
    del content["images"][0]["neg_category_ids"]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        evaluate_lvis(path, [], iou_type="bbox")
    assert str(caught.value) == (f"{path} is not an LVIS file: an image has no 'neg_category_ids'.")
    assert caught.value.hint == "Evaluate a COCO file with --protocol coco."
