"""Average precision: `lvis` and `pycocotools` beside ours, on the same predictions, in one run.

    python -m benchmarks.evaluation                    # 500 images, LVIS, boxes and masks
    python -m benchmarks.evaluation --rules coco --images 5000
    python -m benchmarks.evaluation --images 19809 --detections 300 --ours-only --repeats 1

The last has the size of LVIS val. Truth and predictions are made up: names by Zipf's law,
negatives, names that are not annotated exhaustively, detections near objects and elsewhere; layouts
of boxes come again after 500 images, names and scores do not. Each measurement is a process of its
own, so that its peak memory is known; the turns alternate, so that whatever else the machine does
falls on both. Counted is the way from predictions in memory (dictionaries there, columns here, both
part of the peak) to the summary, by the clock and of all threads. The last column says how far the
numbers differ.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import resource
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

from benchmarks.recording import Row, command_line, hardware, record
from vildcli.evaluation.coco import evaluate_coco
from vildcli.evaluation.engine import Engine
from vildcli.evaluation.lvis import best_of_images, evaluate_lvis
from vildcli.evaluation.predictions import Predictions

WIDTH, HEIGHT = 640, 480
CATEGORIES = {"lvis": 1203, "coco": 80}
OFFICIAL = {"lvis": "lvis", "coco": "pycocotools"}
OBJECTS = 12  # an image
LAYOUTS = 500  # of boxes, and of masks
TITLES = {"bbox": "boxes", "segm": "masks"}

Content = dict[str, Any]
Results = list[dict[str, Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


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
    cpu_seconds: float
    peak_mib: float
    metrics: tuple[float, ...]


@dataclass(frozen=True)
class Layout:
    """Where the objects and detections of an image are; masks are run-length counts."""

    objects: Floats
    object_masks: list[bytes]
    near: np.ndarray
    detections: Floats
    masks: list[bytes]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    print(f"{date.today()}, {hardware()}")
    print(", ".join(f"{name} {version(name)}" for name in ("hotcoco", "lvis", "pycocotools")))
    print(command_line("benchmarks.evaluation"))
    print(f"{given.images} images, {given.images * given.detections} detections")
    head = ("", "", "s", "CPU s", "peak MiB", "ratio", "CPU ratio", "difference")
    print("{:<7}{:<13}{:>9}{:>9}{:>10}{:>9}{:>11}{:>12}".format(*head))
    for iou_type in ("bbox", "segm")[given.masks == "only" : 1 + (given.masks != "no")]:
        rows = _rows(given, iou_type, _turns(given, iou_type))
        for row in rows:
            _show(row)
        if given.out:
            record(rows, given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", choices=tuple(OFFICIAL), default="lvis")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=100, help="an image")
    parser.add_argument("--masks", choices=("yes", "no", "only"), default="yes")
    parser.add_argument("--ours-only", action="store_true", help="leave the official package out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def _turns(given: argparse.Namespace, iou_type: str) -> dict[str, list[Measured]]:
    sides = (True,) if given.ours_only else (False, True)
    found: dict[str, list[Measured]] = {}
    for _ in range(given.repeats):
        for ours in sides:
            task = Task(given.rules, iou_type, given.images, given.detections, ours)
            name = "vildcli" if ours else OFFICIAL[given.rules]
            found.setdefault(name, []).append(_in_a_process(task))
    return found


def _in_a_process(task: Task) -> Measured:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (task,))


def measure(task: Task) -> Measured:
    """Evaluate once; the process must be new for its peak memory to mean anything."""
    content, predictions = make_case(task)
    if task.ours:
        work = _our_work(task, content, predictions)
    else:
        work = _official_work(task, content, results_of(predictions))
    del predictions
    begin, busy = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = work()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(
        seconds, cpu, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), metrics
    )


def _our_work(
    task: Task, content: Content, predictions: Predictions
) -> Callable[[], tuple[float, ...]]:
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


def make_case(task: Task) -> tuple[Content, Predictions]:
    """Truth and predictions, the same for every contender."""
    rng = np.random.default_rng(0)
    count = CATEGORIES[task.rules]
    weights = 1 / np.arange(1, count + 1)
    chances = weights / weights.sum()
    names = rng.permutation(np.arange(1, count + 1))
    layouts = [_layout(rng, task) for _ in range(min(LAYOUTS, task.images))]
    content: Content = {
        "images": [],
        "categories": [
            {"id": i, "name": f"c{i}", "frequency": "fcr"[(i * 3) // (count + 1)]}
            for i in range(1, count + 1)
        ],
        "annotations": [],
    }
    categories, masks = [], []
    for image_id in range(1, task.images + 1):
        layout = layouts[image_id % len(layouts)]
        own = rng.choice(names, OBJECTS, p=chances)
        _annotate(content, image_id, own, layout, rng.choice(names, 6))
        is_right, other = rng.random(task.detections) < 0.7, rng.choice(names, task.detections)
        categories.append(np.where(is_right, own[layout.near], other))
        masks += [_encoded(counts) for counts in layout.masks]
    chosen = [layouts[image_id % len(layouts)] for image_id in range(1, task.images + 1)]
    predictions = Predictions(
        image_ids=np.repeat(np.arange(1, task.images + 1), task.detections),
        category_ids=np.concatenate(categories),
        boxes=np.concatenate([layout.detections for layout in chosen]),
        scores=rng.random(task.images * task.detections),
        masks=masks or None,
    )
    return content, predictions


def results_of(predictions: Predictions) -> Results:
    """The same as the dictionaries that the official packages take."""
    columns = (predictions.image_ids, predictions.category_ids, predictions.boxes)
    rows = zip(*(c.tolist() for c in columns), predictions.scores.tolist(), strict=True)
    results: Results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in rows
    ]
    for result, mask in zip(results, predictions.masks or (), strict=False):
        result["segmentation"] = mask
    return results


def _layout(rng: np.random.Generator, task: Task) -> Layout:
    objects = _boxes(rng, OBJECTS)
    near = rng.integers(0, OBJECTS, task.detections)
    moved = objects[near] + rng.normal(0, 6, (task.detections, 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], 2)
    elsewhere = rng.random(task.detections) < 0.5
    moved[elsewhere] = _boxes(rng, int(elsewhere.sum()))
    return Layout(objects, _masks(objects, task), near, moved, _masks(moved, task))


def _boxes(rng: np.random.Generator, count: int) -> Floats:
    """[N, 4] x y width height, sides log-uniform from 8 pixels to half the image."""
    sides = 8 * (np.array([WIDTH, HEIGHT]) / 16) ** rng.random((count, 2))
    corners = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, sides], axis=1)


def _annotate(
    content: Content, image_id: int, own: np.ndarray, layout: Layout, others: np.ndarray
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
    for place, (category_id, box) in enumerate(
        zip(own.tolist(), layout.objects.tolist(), strict=True)
    ):
        masks = layout.object_masks
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "area": box[2] * box[3],
                "segmentation": _encoded(masks[place]) if masks else [],
                "iscrowd": 0,
            }
        )


def _encoded(counts: bytes) -> dict[str, Any]:
    """A mask as a reader of JSON makes it: no two share their text."""
    return {"size": [HEIGHT, WIDTH], "counts": counts.decode()}


def _masks(boxes: Floats, task: Task) -> list[bytes]:
    """Ellipses, compressed; nothing where boxes are compared."""
    if task.iou_type == "bbox":
        return []
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    unit = (np.stack([np.cos(angles), np.sin(angles)], axis=1) + 1) / 2
    outlines = [(box[:2] + unit * box[2:]).ravel().tolist() for box in boxes]
    return [mask["counts"] for mask in coco_mask.frPyObjects(outlines, HEIGHT, WIDTH)]


def _digits(value: float) -> float:
    """Four of them: a fixed number of decimals makes the smallest cases zero."""
    return float(f"{value:.4g}")


def _rows(given: argparse.Namespace, iou_type: str, turns: dict[str, list[Measured]]) -> list[Row]:
    def median(name: str, kind: str) -> float:
        return float(statistics.median(getattr(turn, kind) for turn in turns[name]))

    first = next(iter(turns))  # the official one, where it had its turn
    rows = []
    for name, of_one in turns.items():
        measured = {
            "whole s": _digits(median(name, "seconds")),
            "CPU s": _digits(median(name, "cpu_seconds")),
            "peak MiB": round(max(turn.peak_mib for turn in of_one)),
        }
        if not given.ours_only:
            metrics = (of_one[0].metrics, turns[first][0].metrics)
            for kind, of in (("ratio", "seconds"), ("CPU ratio", "cpu_seconds")):
                measured[kind] = _digits(median(first, of) / median(name, of))
            measured["difference"] = float(np.abs(np.subtract(*metrics)).max())
        rows.append(
            Row(
                item="evaluation",
                row=name,
                parameters={
                    "rules": given.rules,
                    "compared": TITLES[iou_type],
                    "images": given.images,
                    "detections": given.detections,
                    "categories": CATEGORIES[given.rules],
                },
                measured=measured,
                hardware=hardware(),
                command=command_line("benchmarks.evaluation"),
                note=given.note,
            )
        )
    return rows


def _show(row: Row) -> None:
    values: Any = row.measured
    compared = [f"{values[k]:{form}}" for k, form in _COMPARED.items() if k in values]
    print(
        f"{row.parameters['compared']:<7}{row.row:<13}{values['whole s']:>9.3f}"
        f"{values['CPU s']:>9.3f}{values['peak MiB']:>10}" + "".join(compared),
        flush=True,
    )


_COMPARED = {"ratio": ">9.1f", "CPU ratio": ">11.1f", "difference": ">12.1e"}


if __name__ == "__main__":
    main()
