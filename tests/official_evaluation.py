"""The official evaluation packages, and truth with predictions to compare ours with them on."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 128
SHARED_DATA = Path(
    os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)
LVIS_100 = SHARED_DATA / "lvis" / "lvis_val_100.json"
COCO_128 = SHARED_DATA / "images" / "coco128" / "coco_json"

Content = dict[str, Any]
Results = list[dict[str, Any]]


def needs(path: Path) -> Path:
    """The path, or a skip where the shared data is not there."""
    if not path.exists():
        pytest.skip(f"{path} is not there; set VILDCLI_SHARED_DATA")
    return path


def rectangle(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    return encoded(mask)


def encoded(mask: np.ndarray) -> dict[str, Any]:
    found = coco_mask.encode(np.asfortranarray(mask))
    return {"size": found["size"], "counts": found["counts"].decode()}


def truth(images: int, categories: int) -> Content:
    """Images without negatives or annotations; frequencies r, c, f in turn."""
    return {
        "images": [
            {
                "id": i,
                "file_name": f"{i}.png",
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


def annotate(content: Content, image_id: int, category_id: int, box: list[int]) -> None:
    content["annotations"].append(
        {
            "id": len(content["annotations"]) + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": box[2] * box[3],
            "segmentation": rectangle(*box),
            "iscrowd": 0,
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


def random_case(seed: int, detections_an_image: int) -> tuple[Content, Results]:
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


def jittered_truth(content: Content, rng: np.random.Generator, *, masks: bool = True) -> Results:
    """Every annotation moved by a few pixels, one in five with a wrong name, scores with ties."""
    sizes = {row["id"]: (row["height"], row["width"]) for row in content["images"]}
    ids = [row["id"] for row in content["categories"]]
    results = []
    for row in content["annotations"]:
        shift = rng.integers(-3, 4, 2)
        wrong = rng.random() < 0.2
        result = {
            "image_id": row["image_id"],
            "category_id": int(rng.choice(ids)) if wrong else row["category_id"],
            "bbox": [float(n) for n in row["bbox"] + np.array([*shift[::-1], 0.7, -0.3])],
            "score": float(rng.integers(1, 20)) / 20,
        }
        result["bbox"][2:] = np.maximum(result["bbox"][2:], 0.5).tolist()
        if masks:
            mask = np.roll(decoded(row["segmentation"], *sizes[row["image_id"]]), shift, (0, 1))
            result["segmentation"] = encoded(mask)
        results.append(result)
    return results


def decoded(segmentation: Any, height: int, width: int) -> np.ndarray:
    whole = coco_mask.frPyObjects(segmentation, height, width)
    merged = coco_mask.merge(whole) if isinstance(whole, list) else whole
    return np.asarray(coco_mask.decode(merged))


class _Numpy:
    """numpy as lvis 0.5.3 knew it."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def official_lvis(content: Content, results: Results, iou_type: str, max_dets: int = 300) -> Any:
    """Run the official LVIS evaluation; `results` and `eval` are filled."""
    handlers = list(logging.getLogger().handlers)
    lvis = pytest.importorskip("lvis")
    logging.getLogger().handlers = handlers  # importing lvis configures the root logger
    truth_set = lvis.LVIS.__new__(lvis.LVIS)
    truth_set.logger = logging.getLogger("lvis")
    truth_set.dataset = copy.deepcopy(content)
    truth_set._create_index()
    with mock.patch("lvis.eval.np", _Numpy()):
        found = lvis.LVISResults(truth_set, copy.deepcopy(results), max_dets)
        evaluation = lvis.LVISEval(truth_set, found, iou_type)
        evaluation.run()
    return evaluation


def official_coco(
    content: Content,
    results: Results,
    iou_type: str,
    *,
    max_dets: tuple[int, ...] = (1, 10, 100),
    use_categories: bool = True,
) -> Any:
    """Run pycocotools; `stats` and `eval` are filled, `lines` is what it prints."""
    truth_set = COCO()
    truth_set.dataset = copy.deepcopy(content)
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set.createIndex()
        found = truth_set.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(truth_set, found, iou_type)
        evaluation.params.maxDets = list(max_dets)
        evaluation.params.useCats = int(use_categories)
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(printed):
            evaluation.summarize()
    evaluation.lines = printed.getvalue().splitlines()
    return evaluation


def mean_of(values: np.ndarray) -> float:
    """As the official packages average: over what has truth."""
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0
