"""Average precision: `lvis` and `pycocotools` beside ours, on the same predictions, in one run.

    python benchmarks/evaluation.py                    # 500 images, LVIS, boxes and masks
    python benchmarks/evaluation.py --rules coco --images 5000
    python benchmarks/evaluation.py --images 19809 --masks no --repeats 1   # as many as LVIS val

Truth and predictions are made up: names by Zipf's law, negatives, names that are not annotated
exhaustively, detections near objects and elsewhere. Each measurement is a process of its own, so
that its peak memory is known (made-up dictionaries included, on both sides); the turns alternate,
so that whatever else the machine does falls on both. Counted is the way from predictions in memory
(dictionaries there, columns here) to the summary. The last column says how far the numbers differ.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from vildcli.evaluation.coco import evaluate_coco
from vildcli.evaluation.engine import Engine
from vildcli.evaluation.lvis import best_of_images, evaluate_lvis
from vildcli.evaluation.predictions import predictions_of_results

WIDTH, HEIGHT = 640, 480
CATEGORIES = {"lvis": 1203, "coco": 80}
OFFICIAL = {"lvis": "lvis", "coco": "pycocotools"}
OBJECTS = 12  # an image

Content = dict[str, Any]
Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    rules: str
    iou_type: str
    images: int
    detections: int
    ours: bool


@dataclass(frozen=True)
class Measured:
    seconds: float
    peak_mib: float
    metrics: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    print(f"{date.today()}, {_processor()}, {os.cpu_count()} cores")
    print(", ".join(f"{name} {version(name)}" for name in ("hotcoco", "lvis", "pycocotools")))
    print("python " + shlex.join([sys.argv[0], *(arguments or sys.argv[1:])]))
    print(f"{given.images} images, {given.images * given.detections} detections")
    head = ("", OFFICIAL[given.rules], "MiB", "ours", "MiB", "ratio", "difference")
    print("{:<8}{:>14}{:>8}{:>10}{:>8}{:>8}{:>12}".format(*head))
    for iou_type in ("bbox", "segm")[: 1 + (given.masks == "yes")]:
        theirs, ours = _turns(given, iou_type)
        _show("boxes" if iou_type == "bbox" else "masks", theirs, ours)


def _processor() -> str:
    """The CPU's name, which Python knows only on some systems."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", choices=tuple(OFFICIAL), default="lvis")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=100, help="an image")
    parser.add_argument("--masks", choices=("yes", "no"), default="yes")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(arguments)


def _turns(given: argparse.Namespace, iou_type: str) -> tuple[list[Measured], list[Measured]]:
    found: dict[bool, list[Measured]] = {False: [], True: []}
    for _ in range(given.repeats):
        for ours in (False, True):
            task = Task(given.rules, iou_type, given.images, given.detections, ours)
            found[ours].append(_in_a_process(task))
    return found[False], found[True]


def _in_a_process(task: Task) -> Measured:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (task,))


def measure(task: Task) -> Measured:
    """Evaluate once; the process must be new for its peak memory to mean anything."""
    content, results = make_case(task)
    work = (
        _our_work(task, content, results) if task.ours else _official_work(task, content, results)
    )
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = work()
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(seconds, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), metrics)


def _our_work(task: Task, content: Content, results: Results) -> Callable[[], tuple[float, ...]]:
    predictions = predictions_of_results(results)
    results.clear()
    iou_type: Any = task.iou_type

    def work() -> tuple[float, ...]:
        if task.rules == "coco":
            found = evaluate_coco(Engine(content, predictions), iou_type)
        else:
            found = evaluate_lvis(Engine(content, best_of_images(predictions)), content, iou_type)
        return tuple(found.metrics.values())

    return work


def _official_work(
    task: Task, content: Content, results: Results
) -> Callable[[], tuple[float, ...]]:
    def coco() -> tuple[float, ...]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), task.iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return tuple(evaluation.stats.tolist())

    def lvis() -> tuple[float, ...]:
        import lvis
        import lvis.eval

        logging.getLogger().handlers.clear()  # importing lvis configures the root logger
        logging.disable(logging.WARNING)
        lvis.eval.np = _Numpy()
        truth = lvis.LVIS.__new__(lvis.LVIS)
        truth.logger, truth.dataset = logging.getLogger("lvis"), content
        truth._create_index()
        found = lvis.LVISResults(truth, results)
        evaluation = lvis.LVISEval(truth, found, task.iou_type)
        evaluation.run()
        return tuple(map(float, evaluation.get_results().values()))

    return coco if task.rules == "coco" else lvis


class _Numpy:
    """numpy as lvis 0.5.3 knew it."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def make_case(task: Task) -> tuple[Content, Results]:
    """Truth and predictions, the same for every contender."""
    rng = np.random.default_rng(0)
    count = CATEGORIES[task.rules]
    weights = 1 / np.arange(1, count + 1)
    names = rng.permutation(np.arange(1, count + 1))
    content: Content = {
        "images": [],
        "categories": [
            {"id": i, "name": f"c{i}", "frequency": "fcr"[(i * 3) // (count + 1)]}
            for i in range(1, count + 1)
        ],
        "annotations": [],
    }
    results: Results = []
    for image_id in range(1, task.images + 1):
        own = rng.choice(names, OBJECTS, p=weights / weights.sum())
        boxes = _boxes(rng, OBJECTS)
        _annotate(content, image_id, own, boxes, rng.choice(names, 6), task)
        near = rng.integers(0, OBJECTS, task.detections)
        moved = boxes[near] + rng.normal(0, 6, (task.detections, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], 2)
        elsewhere = rng.random(task.detections) < 0.5
        moved[elsewhere] = _boxes(rng, int(elsewhere.sum()))
        said = np.where(rng.random(task.detections) < 0.7, own[near], rng.choice(names, len(near)))
        scores = rng.random(task.detections)
        results += _results(image_id, said, moved, scores, task)
    return content, results


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """[N, 4] x y width height, sides log-uniform from 8 pixels to half the image."""
    sides = 8 * (np.array([WIDTH, HEIGHT]) / 16) ** rng.random((count, 2))
    corners = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, sides], axis=1)


def _annotate(
    content: Content,
    image_id: int,
    own: np.ndarray,
    boxes: np.ndarray,
    others: np.ndarray,
    task: Task,
) -> None:
    content["images"].append(
        {
            "id": image_id,
            "width": WIDTH,
            "height": HEIGHT,
            "neg_category_ids": sorted(set(others.tolist()) - set(own.tolist())),
            "not_exhaustive_category_ids": own[:1].tolist(),
        }
    )
    masks = _masks(boxes, task)
    for category_id, box, mask in zip(own.tolist(), boxes.tolist(), masks, strict=True):
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "area": box[2] * box[3],
                "segmentation": mask,
                "iscrowd": 0,
            }
        )


def _results(
    image_id: int, said: np.ndarray, boxes: np.ndarray, scores: np.ndarray, task: Task
) -> Results:
    rows = zip(said.tolist(), boxes.tolist(), scores.tolist(), _masks(boxes, task), strict=True)
    return [
        {"image_id": image_id, "category_id": c, "bbox": box, "score": score}
        | ({"segmentation": mask} if task.iou_type == "segm" else {})
        for c, box, score, mask in rows
    ]


def _masks(boxes: np.ndarray, task: Task) -> list[Any]:
    """Ellipses, compressed; nothing where boxes are compared."""
    if task.iou_type == "bbox":
        return [[] for _ in boxes]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    unit = (np.stack([np.cos(angles), np.sin(angles)], axis=1) + 1) / 2
    outlines = [(box[:2] + unit * box[2:]).ravel().tolist() for box in boxes]
    found = coco_mask.frPyObjects(outlines, HEIGHT, WIDTH)
    return [{"size": [HEIGHT, WIDTH], "counts": mask["counts"].decode()} for mask in found]


def _show(name: str, theirs: Sequence[Measured], ours: Sequence[Measured]) -> None:
    seconds = [statistics.median(m.seconds for m in turn) for turn in (theirs, ours)]
    memory = [max(m.peak_mib for m in turn) for turn in (theirs, ours)]
    difference = np.abs(np.subtract(theirs[0].metrics, ours[0].metrics)).max()
    print(
        f"{name:<8}{seconds[0]:>12.3g} s{memory[0]:>8.0f}{seconds[1]:>8.3g} s{memory[1]:>8.0f}"
        f"{seconds[0] / seconds[1]:>8.3g}{difference:>12.1e}"
    )


if __name__ == "__main__":
    main()
