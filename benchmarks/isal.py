"""Does ISAL choose well? On the small world, from one command, part by part.

    python -m benchmarks.isal --model runs/shapes/seed-0/vild-text --teacher runs/shapes/teacher
    python -m benchmarks.isal … --parts leave-one-in           # influence against retraining
    python -m benchmarks.isal … --parts curves --seeds 0 1 2   # AP by label budget, every strategy
    python -m benchmarks.isal … --parts classification         # the same: crops and a linear head
    python -m benchmarks.isal … --parts full --steps 300       # whole detectors at 10% and 30%
    python -m benchmarks.isal … --parts cost                   # CPU seconds beside detect's

The backbone, the proposals and the FC features are those of --model, frozen and shared: it was
trained on the base categories of another world (seed 0). The pool is the training part of a fresh
one; of its validation part, the first quarter is the reference set and the rest is evaluated on.
What is retrained is the head: region projection, background embedding, box regressor. Every point
is written to docs/results.json as it is measured, and an interrupted command continues.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.ops import nms

from benchmarks.isal_heads import (
    HEAD_STEPS,
    LABEL_NMS,
    PROPOSALS,
    Bench,
    Head,
    Scene,
    box_ap,
    pseudo_boxes,
    see_scenes,
    train_head,
)
from benchmarks.recording import RESULTS, Results
from vildcli import console
from vildcli.data.images import read_image
from vildcli.detector.losses import box_loss
from vildcli.devices import choose_device
from vildcli.evaluation.evaluate import evaluate
from vildcli.evaluation.model import open_for_evaluation, open_subject, predict_subject
from vildcli.evaluation.truth import load_truth
from vildcli.labelling.detectors import Student
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import ImageRecord
from vildcli.runs import write_atomically, write_json
from vildcli.selection.choice import Effort, ranked, valued
from vildcli.selection.curvature import influence, kronecker_inverse, mean_gradient
from vildcli.selection.detector_pass import KnownBoxes, draw_classes, draw_codes
from vildcli.selection.influence import loss_of
from vildcli.selection.last_layers import HeadPass, cut_at
from vildcli.selection.linear_head import LinearHead, as_features, fit_head
from vildcli.selection.pool import PSEUDO_SCORE, Candidate
from vildcli.selection.strategies import (
    SHORTLIST,
    by_calibrated_entropy,
    by_entropy,
    by_margin,
    k_center,
)
from vildcli.teacher.crops import embed_regions
from vildcli.teacher.encoder import image_encoder_of
from vildcli.text.open_clip_models import load_open_clip
from vildcli.training.inputs import TrainingOptions
from vildcli.training.session import train_system
from vildcli.world.world import draw_world

WORLD = "selection, shapes"
STRATEGIES = ("random", "entropy", "margin", "coreset", "hybrid", "isal", "similarity")
BUDGETS = (5, 10, 20, 30, 40, 50)  # percent of the pool
FULL_STRATEGIES, FULL_BUDGETS = ("random", "entropy", "isal"), (10, 30)
START, ADDED, ROWS, RIDGE, COMPONENTS = 300, 100, 30, 1e-3, 128  # of leave-one-in
NEWTON_STEPS, FLAT = 8, 1e-8
CROPS = 2000  # of the classification pool
COST_IMAGES = 40
Floats = NDArray[np.float64]


def main() -> None:
    given = _arguments()
    results = Results(given.results, "benchmarks.isal", WORLD)
    bench = _prepare(given)
    parts: dict[str, Callable[[], None]] = {
        "leave-one-in": lambda: _leave_one_in(bench, given, results),
        "curves": lambda: _curves(bench, given, results),
        "classification": lambda: _classification(bench, given, results),
        "full": lambda: _full(bench, given, results),
        "cost": lambda: _cost(bench, given, results),
    }
    for part in given.parts:
        parts[part]()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="vild-text of the small world")
    parser.add_argument("--teacher", required=True, help="its teacher's folder")
    parser.add_argument("--out", type=Path, default=Path("runs/selection"), help="resumable")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--images", type=int, default=600, help="of the pool")
    parser.add_argument("--val-images", type=int, default=400)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of a whole detector's training")
    parser.add_argument("--start", type=int, default=START, help="labelled ones of leave-one-in")
    parser.add_argument("--added", type=int, default=ADDED, help="images of leave-one-in")
    parser.add_argument("--ridge", type=float, default=RIDGE, help="of leave-one-in's head")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["leave-one-in", "curves", "classification"],
        choices=["leave-one-in", "curves", "classification", "full", "cost"],
    )
    return parser.parse_args()


def _prepare(given: argparse.Namespace) -> Bench:
    world = draw_world(
        given.out / "world",
        images=given.images,
        val_images=given.val_images,
        caption_images=1,
        seed=1,
    )
    pool, val = load_truth(world.train_json, "lvis"), load_truth(world.val_json, "lvis")
    opened = open_for_evaluation(
        val.annotations, given.model, regions=PROPOSALS, options=LabellingOptions(offline=True)
    )
    assert isinstance(opened.detector, Student), "a trained detector"
    detector, bank = opened.detector.detector, opened.labeller.bank
    seen = [
        see_scenes(detector, truth.annotations, folder, given.out / f"{name}.safetensors")
        for name, truth, folder in (
            ("pool", pool, world.train_images),
            ("val", val, world.val_images),
        )
    ]
    held = len(seen[1]) // 4
    ids = [scene.info.id for scene in seen[1][held:]]
    part = val.restricted(ids, [c.id for c in val.annotations.categories])
    return Bench(
        world, seen[0], seen[1][:held], seen[1][held:], part, bank.text_embeddings, bank.temperature
    )


# Choosing.


def _order(bench: Bench, head: Head, left: list[int], count: int, strategy: str, seed: int,
           labelled: list[int]) -> list[int]:  # fmt: skip
    """The next `count` images of the pool by a strategy."""
    if strategy == "random":
        return np.random.default_rng([seed, len(left)]).permutation(left)[:count].tolist()
    found = {place: pseudo_boxes(head, bench.pool[place]) for place in left}
    candidates = [
        Candidate(_record(place), found[place][2].numpy(), found[place][1].numpy())
        for place in left
    ]
    rows = torch.stack([found[place][3] for place in left]).numpy()
    covered = torch.stack([pseudo_boxes(head, bench.pool[place])[3] for place in labelled]).numpy()
    if strategy == "coreset":
        return [left[row] for row in k_center(rows, count, covered).rows]
    values: dict[str, Callable[[], Floats]] = {
        "entropy": lambda: by_entropy(candidates),
        "margin": lambda: by_margin(candidates),
        "hybrid": lambda: by_calibrated_entropy(candidates),
        "isal": lambda: _influences(bench, head, left, found, "ekfac"),
        "similarity": lambda: _influences(bench, head, left, found, "none"),
    }
    order = ranked(valued(candidates, values[strategy](), Effort()))
    places = [one.candidate.image_id for one in order]
    if strategy == "hybrid":
        shortlist = places[: SHORTLIST * count]
        at = {place: row for row, place in enumerate(left)}
        spread = k_center(rows[[at[place] for place in shortlist]], count, covered)
        places = [shortlist[row] for row in spread.rows]
    return places[:count]


def _influences(
    bench: Bench, head: Head, left: list[int], found: dict[int, Any], inverse: str
) -> Floats:
    """Minus the influence of each image that is left, its pseudo boxes for labels."""

    def reference() -> Iterator[HeadPass]:
        for scene in bench.reference:
            yield _head_pass(head, scene, scene.true_boxes, scene.columns, len(scene.boxes))

    direction = mean_gradient(reference())
    if inverse == "ekfac":
        direction = kronecker_inverse(reference, direction).direction
    return np.array(
        [
            -influence(
                _head_pass(head, bench.pool[p], *found[p][:2], bench.pool[p].proposals), direction
            )
            for p in left
        ]
    )


def _head_pass(head: Head, scene: Scene, boxes: Tensor, columns: Tensor, rows: int) -> HeadPass:
    labels, wanted = scene.labels(boxes, columns, rows)
    objects = labels > 0
    with cut_at({"projection": head.project, "boxes": head.boxes}) as passes:
        logits = head.logits(scene.features[:rows])
        codes = head.boxes(scene.features[:rows][objects])
    loss = F.cross_entropy(logits, labels) + box_loss(codes, wanted[objects]).mean()

    def draw(generator: torch.Generator) -> Tensor:
        signs = draw_codes(codes, wanted[objects], codes.numel(), 1.0, generator)
        return draw_classes(logits, generator) + signs

    return HeadPass(passes, loss, draw)


def _record(place: int) -> ImageRecord:
    return ImageRecord(place, "pool", str(place), 0, 0, "", 0, 0, "ok", None)


# The parts.


def _curves(bench: Bench, given: argparse.Namespace, results: Results) -> None:
    size = len(bench.pool)
    for seed in given.seeds:
        heads: dict[tuple[int, ...], Head] = {}
        for strategy in given.strategies:
            file = given.out / f"order-{strategy}-{seed}.json"
            order: list[int] = json.loads(file.read_text()) if file.exists() else []
            if not order:
                first = np.random.default_rng(seed).permutation(size)
                order = first[: max(1, size * BUDGETS[0] // 100)].tolist()
            for budget in BUDGETS:
                wanted = max(1, size * budget // 100)
                begin = time.perf_counter()
                if len(order) < wanted:
                    left = sorted({*range(size)} - {*order})
                    more = wanted - len(order)
                    head = _head_of(order, bench, seed, heads)
                    order += _order(bench, head, left, more, strategy, seed, order)
                    write_json(file, order)
                of = {"row": strategy, "seed": seed, "part": "curve", "budget": budget}
                if results.has(**of):
                    continue
                numbers = box_ap(bench, _head_of(order[:wanted], bench, seed, heads))
                objects = sum(len(bench.pool[p].columns) for p in order[:wanted])
                seconds = round(time.perf_counter() - begin, 1)
                measured = {**numbers, "objects": objects, "seconds": seconds}
                results.add(measured, **of, steps=HEAD_STEPS)


def _head_of(
    places: Sequence[int], bench: Bench, seed: int, heads: dict[tuple[int, ...], Head]
) -> Head:
    """A head trained on images of the pool, once: what one budget trains, the next chooses by."""
    if (key := tuple(places)) not in heads:
        heads[key] = train_head(bench, [bench.pool[p] for p in places], seed)
    return heads[key]


def _leave_one_in(bench: Bench, given: argparse.Namespace, results: Results) -> None:
    """A convex head on FC features: influence by pseudo labels, change by true ones."""
    basis = _whitening([s.features for s in bench.reference])
    classes = len(bench.words) + 1
    for seed in given.seeds:
        of = {"seed": seed, "part": "leave-one-in", "budget": given.ridge}
        if results.has(row="isal", **of):
            continue
        begin = time.perf_counter()
        order = np.random.default_rng(seed).permutation(len(bench.pool)).tolist()
        first = min(given.start, len(order) // 2)
        start, added = order[:first], order[first : first + given.added]

        def true(scene: Scene) -> tuple[Tensor, Tensor]:
            """Features [ROWS, F + 1] and labels of true boxes, then of proposals."""
            labels, _ = scene.labels(scene.true_boxes, scene.columns, len(scene.boxes))
            rows = torch.arange(len(labels)).roll(len(scene.columns))[:ROWS]
            return as_features(scene.features[rows].double() @ basis), labels[rows]

        base = fit_head(
            *_joined([true(bench.pool[p]) for p in start]), classes, regularisation=given.ridge
        )
        base = _settled(base)
        reference = _joined([true(scene) for scene in bench.reference])
        v = base.gradient(*reference)
        directions = {
            "isal": base.exact_direction(v, 1e-6),
            "ekfac": base.kronecker_direction(v),
            "lissa": base.lissa_direction(v, chains=4, depth=1000)[0],
            "similarity": v,
        }
        images = [bench.pool[p] for p in added]
        guessed = [_guessed(base, scene, basis) for scene in images]
        predicted = {
            name: np.array([-float((s * base.gradient(*rows[:2])).sum()) for rows in guessed])
            for name, s in directions.items()
        }
        exact = directions["isal"]
        gradients = [base.gradient(*true(scene)) for scene in images]
        predicted["isal, true labels"] = np.array([-float((exact * g).sum()) for g in gradients])
        predicted["entropy"] = -by_entropy([rows[2] for rows in guessed])
        predicted["margin"] = -by_margin([rows[2] for rows in guessed])
        before = _loss(base, reference)
        change = np.array([_loss(_retrained(base, true(s)), reference) - before for s in images])
        seconds = round(time.perf_counter() - begin, 1)
        objects = reference[1] > 0
        right = base.probabilities(reference[0][objects]).argmax(1) == reference[1][objects]
        for name, values in predicted.items():
            found = {"spearman": round(_spearman(values, change), 3)}
            found["named"] = round(float(right.double().mean()), 3)  # what pseudo labels rest on
            found |= {"start": first, "added": len(added), "seconds": seconds}
            results.add(found, row=name, **of, steps=HEAD_STEPS)


def _whitening(features: Sequence[Tensor]) -> Tensor:
    """[F, COMPONENTS]: as many principal components, each of mean square 1 / COMPONENTS."""
    rows = torch.cat(list(features)).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return vectors[:, -COMPONENTS:] / (COMPONENTS * values[-COMPONENTS:]).sqrt()


def _guessed(base: LinearHead, scene: Scene, basis: Tensor) -> tuple[Tensor, Tensor, Candidate]:
    """Features and pseudo labels of pseudo boxes, then of proposals, and the boxes' scores."""
    features = as_features(scene.features[: scene.proposals].double() @ basis)
    best, columns = base.probabilities(features)[:, 1:].max(1)
    boxes = scene.boxes[: scene.proposals]
    kept = nms(boxes, best.float(), LABEL_NMS)
    kept = kept[best[kept] >= PSEUDO_SCORE]
    labels, _ = scene.labels(boxes[kept], columns[kept], scene.proposals)
    rows = torch.cat([kept, torch.arange(scene.proposals)])[:ROWS]  # as true boxes come first
    scores = best[kept].float().numpy()
    return features[rows], labels[rows], Candidate(_record(0), scores, columns[kept].numpy())


def _retrained(base: LinearHead, more: tuple[Tensor, Tensor]) -> LinearHead:
    """The minimum with one image more, from the one without."""
    features, labels = torch.cat([base.features, more[0]]), torch.cat([base.labels, more[1]])
    return _settled(replace(base, features=features, labels=labels))


def _settled(head: LinearHead) -> LinearHead:
    """The minimum, by Newton's steps: changes of a thousandth are compared."""
    for _ in range(NEWTON_STEPS):
        gradient = head.gradient(head.features, head.labels) + head.regularisation * head.weights
        if float(gradient.norm()) < FLAT:
            break
        head = replace(head, weights=head.weights - head.exact_direction(gradient, 1e-4))
    return head


def _loss(head: LinearHead, rows: tuple[Tensor, Tensor]) -> float:
    return float(F.cross_entropy(rows[0] @ head.weights.T, rows[1]))


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, labels = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(labels)


def _spearman(one: Floats, other: Floats) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def _classification(bench: Bench, given: argparse.Namespace, results: Results) -> None:
    """True objects cut out and embedded by the teacher: a pool of labelled crops."""
    pool = _crops(bench, bench.pool, bench.world.train_images, given, "pool-crops")
    reference = _crops(bench, bench.reference, bench.world.val_images, given, "reference-crops")
    tested = _crops(bench, bench.evaluated, bench.world.val_images, given, "test-crops")
    pool = (pool[0][:CROPS], pool[1][:CROPS])
    size, classes = len(pool[1]), len(bench.words)
    strategies = [s for s in given.strategies if s != "hybrid"]
    for seed in given.seeds:
        for strategy in strategies:
            chosen = np.random.default_rng(seed).permutation(size)[: size * BUDGETS[0] // 100]
            for budget in BUDGETS:
                wanted = size * budget // 100
                rows = torch.from_numpy(chosen)
                head = fit_head(pool[0][rows], pool[1][rows], classes)
                if len(chosen) < wanted:
                    left = np.setdiff1d(np.arange(size), chosen)
                    values = _crop_values(
                        head, pool, left, chosen, reference, strategy, seed, wanted
                    )
                    more = left[np.argsort(-values, kind="stable")[: wanted - len(chosen)]]
                    chosen = np.concatenate([chosen, more])
                    rows = torch.from_numpy(chosen)
                    head = fit_head(pool[0][rows], pool[1][rows], classes)
                of = {"row": strategy, "seed": seed, "part": "classification", "budget": budget}
                if results.has(**of):
                    continue
                right = head.probabilities(tested[0]).argmax(1) == tested[1]
                accuracy = round(100 * float(right.double().mean()), 2)
                results.add({"accuracy": accuracy}, **of, steps=HEAD_STEPS)


def _crop_values(
    head: LinearHead,
    pool: tuple[Tensor, Tensor],
    left: NDArray[np.int64],
    chosen: NDArray[np.int64],
    reference: tuple[Tensor, Tensor],
    strategy: str,
    seed: int,
    wanted: int,
) -> Floats:
    """What each crop that is left is worth [M], the larger the better."""
    features = pool[0][torch.from_numpy(left)]
    p = head.probabilities(features).numpy()
    if strategy == "random":
        return np.random.default_rng([seed, wanted]).random(len(left))
    if strategy == "entropy":
        return -(p * np.log(np.maximum(p, 1e-300))).sum(1)
    if strategy == "margin":
        best = np.sort(p, axis=1)
        return 1 - (best[:, -1] - best[:, -2])
    if strategy == "coreset":
        rows = pool[0][:, :-1].float().numpy()
        taken = k_center(rows[left], wanted - len(chosen), rows[chosen]).rows
        values = np.zeros(len(left))
        values[list(taken)] = np.arange(len(taken), 0, -1)
        return values
    v = head.gradient(*reference)
    direction = head.exact_direction(v, 1e-6) if strategy == "isal" else v
    return -head.influences(features, direction).numpy()


def _crops(
    bench: Bench, scenes: Sequence[Scene], images: Path, given: argparse.Namespace, name: str
) -> tuple[Tensor, Tensor]:
    """Features [N, D + 1] and labels [N] of all true objects."""
    cache = given.out / f"{name}.safetensors"
    if not cache.exists():
        clip = load_open_clip(f"local-dir:{given.teacher}", offline=True)
        encoder = image_encoder_of(clip, choose_device(None))
        rows = []
        with console.progress(f"Embedding {name}", len(scenes)) as advance:
            for scene in scenes:
                pixels = torch.from_numpy(read_image(images / scene.info.file_name).pixels)
                rows.append(embed_regions(pixels.permute(2, 0, 1), scene.true_boxes, encoder))
                advance()
        write_atomically(cache, lambda path: save_file({"rows": torch.cat(rows)}, path))
    labels = torch.cat([scene.columns for scene in scenes])
    return as_features(load_file(cache)["rows"]), labels


def _full(bench: Bench, given: argparse.Namespace, results: Results) -> None:
    """Whole detectors, trained from scratch on what the heads' curves chose."""
    content = json.loads(bench.world.train_json.read_text())
    for seed in given.seeds:
        for strategy in FULL_STRATEGIES:
            order = json.loads((given.out / f"order-{strategy}-{seed}.json").read_text())
            for budget in FULL_BUDGETS:
                of = {"row": strategy, "seed": seed, "part": "full", "budget": budget}
                if results.has(**of):
                    continue
                begin = time.perf_counter()
                places = order[: len(bench.pool) * budget // 100]
                ids = {bench.pool[p].info.id for p in places}
                part = {
                    **content,
                    "images": [i for i in content["images"] if i["id"] in ids],
                    "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
                }
                out = given.out / f"full-{strategy}-{budget}-{seed}"
                write_json(out.with_suffix(".json"), part)
                model = train_system(
                    TrainingOptions(
                        "vild-text",
                        out.with_suffix(".json"),
                        bench.world.train_images,
                        f"local-dir:{given.teacher}",
                        base="all",
                        overrides={"steps": given.steps},
                        seed=seed,
                        offline=True,
                    ),
                    out,
                    force=False,
                    progress=console.progress,
                    say=console.say,
                )
                options = LabellingOptions(model=str(model), regions=80, offline=True)
                opened, seen = open_subject(bench.truth, options)
                subject = predict_subject(bench.truth, opened, seen, bench.world.val_images)
                assert subject.predictions is not None, "predict_subject predicts"
                metrics = evaluate(bench.truth, subject.predictions)[0][-1].metrics
                numbers = {k: round(100 * metrics[k], 2) for k in ("APr", "APc", "APf", "AP")}
                seconds = round(time.perf_counter() - begin, 1)
                results.add({**numbers, "seconds": seconds}, **of, steps=given.steps)


def _cost(bench: Bench, given: argparse.Namespace, results: Results) -> None:
    """What an image takes: found by detect, and by influence on top; interleaved, CPU seconds."""
    of = {"row": "isal", "seed": 0, "part": "cost", "budget": 0}
    if results.has(**of):
        return
    opened = open_for_evaluation(
        bench.truth.annotations, given.model, regions=300, options=LabellingOptions(offline=True)
    )
    student, loss = opened.detector, loss_of(opened)
    seconds = {"detect": 0.0, "isal": 0.0}
    direction: dict[str, Tensor] = {}
    scenes = bench.pool[:COST_IMAGES]
    for place, scene in enumerate(scenes):
        pixels = read_image(bench.world.train_images / scene.info.file_name).pixels
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        known = KnownBoxes(scene.true_boxes, scene.columns)
        if not direction:  # the first image warms up
            direction = loss(image, known, 0).gradient()
            student.regions([image])
            continue
        start = time.process_time()
        student.regions([image])
        middle = time.process_time()
        influence(loss(image, known, place), direction)
        seconds["detect"] += middle - start
        seconds["isal"] += time.process_time() - middle
    count = max(1, len(scenes) - 1)
    each = {name: round(value / count, 4) for name, value in seconds.items()}
    times = round(seconds["isal"] / seconds["detect"], 2)
    results.add({"images": count, "times": times, **each}, **of, steps=HEAD_STEPS)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    main()
