"""The paper's table on the small world: every system trained and evaluated, from one command.

    python -m benchmarks.small_world                          # every row, one seed
    python -m benchmarks.small_world --seeds 0 1 2            # on a GPU
    python -m benchmarks.small_world --rows vild-text vild-ensemble --steps 200      # small

Draws the world, trains its teacher, then row by row trains and evaluates; what was measured is
written to docs/results.json after each row, and an interrupted command continues. `make docs` makes
docs/results.md of it. All rows train from scratch for the same number of steps, on the same world,
with the same teacher; seeds differ in weights, order and sampling.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.attribute_accuracy import attribute_accuracy
from benchmarks.gloss_vectors import write_gloss_vectors
from benchmarks.recording import RESULTS, Results
from vildcli import console
from vildcli.data.lvis import Annotation, annotation_mask
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.devices import choose_device
from vildcli.evaluation.evaluate import evaluate
from vildcli.evaluation.model import (
    open_subject,
    predict_subject,
    propose_subject,
    scorer_of,
    shuffled,
)
from vildcli.evaluation.predict import Scorer, predict
from vildcli.evaluation.predictions import Predictions
from vildcli.evaluation.proposals import evaluate_proposals
from vildcli.evaluation.truth import Truth, load_truth
from vildcli.labelling.options import CLIP_ON_CROPS, LabellingOptions
from vildcli.systems import SYSTEMS
from vildcli.teacher.clip_on_crops import CropDetector
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.session import TeachOptions, count_images, teach
from vildcli.text.open_clip_models import CONFIG_FILE, load_open_clip
from vildcli.training.inputs import TrainingOptions
from vildcli.training.session import train_system
from vildcli.types import MASK_SIZE, Regions
from vildcli.vocabulary.files import load_vocabulary
from vildcli.world.sprites import SpriteKind
from vildcli.world.teacher import WIDTH, train_teacher
from vildcli.world.world import World, draw_world

REGIONS = 80  # an image, in evaluation
CROPPED_REGIONS = 40  # that the teacher is asked about
TAUGHT_REGIONS = 40  # an image, that are distilled
TEACHER_WIDTH: Mapping[SpriteKind, int] = {"shapes": WIDTH, "emoji": 2 * WIDTH}  # 60 and 240 names


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        system: what is trained; None for what needs no training.
        training: changes of the training options, `overrides` of the recipe among them.
        labelling: changes of the options that the model is evaluated with.
        of: the row whose model is evaluated, where this one trains none.
    """

    name: str
    system: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    labelling: Mapping[str, Any] = field(default_factory=dict)
    of: str | None = None


def _vild(loss: str, weight: float) -> Row:
    overrides = {"distillation": loss, "distillation_weight": weight}
    return Row(f"vild {loss} w={weight:g}", "vild", {"overrides": overrides})


# In the order in which they say most, should somebody stop halfway.
ROWS = (
    Row("vild-text", "vild-text"),
    Row("supervised, base", "supervised"),
    _vild("l1", 0.5),
    Row("vild-ensemble", "vild-ensemble"),
    Row("clip-on-crops", labelling={"model": CLIP_ON_CROPS}, of="vild-text"),
    Row(
        "clip-on-crops, objectness",
        labelling={"model": CLIP_ON_CROPS, "fusion": "objectness"},
        of="vild-text",
    ),
    Row("vild-text-clip", labelling={"teacher": True}, of="vild-text"),
    Row("vild-image", "vild-image"),
    Row("glove", "glove"),
    Row("supervised, base + novel", "supervised", {"base": "all"}),
    Row("supervised-rfs, base + novel", "supervised-rfs", {"base": "all"}),
    Row("vild-ensemble, no novel objects", "vild-ensemble", {"world": "without-novel"}),
    _vild("l1", 1.0),
    _vild("l1", 0.1),
    _vild("l2", 0.5),
    _vild("l2", 1.0),
)
LADDER = ("chance", "teacher on its regions", "teacher on true boxes")  # of vild-ensemble
RECALL = ("vild-text", "supervised, base + novel")  # proposals of base, and of all supervision


COLOURS = "colours of vild-ensemble"
COLOUR_SCENES = 200


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything lies, and what was asked for."""

    folder: Path
    sprites: SpriteKind
    world: World
    without_novel: World | None
    teacher: str
    glove: str
    steps: int
    device: str | None

    def model(self, row: str, seed: int) -> Path:
        return self.folder / f"seed-{seed}" / row.replace(" ", "_")

    def world_of(self, absent: bool) -> World:
        """The world, or its twin whose training images show no novel object."""
        world = self.without_novel if absent else self.world
        assert world is not None, "drawn where a row asks for it"
        return world

    def truth(self) -> Truth:
        return load_truth(self.world.val_json, "lvis")


def main() -> None:
    given = _arguments()
    names = given.rows or [row.name for row in ROWS]
    rows = [row for row in ROWS if row.name in names]
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        sys.exit(f"No such rows: {', '.join(sorted(unknown))}. There are {[r.name for r in ROWS]}.")
    needs_absent = any("world" in row.training for row in rows)
    bench = _prepare(given, needs_absent)
    results = Results(given.results, "benchmarks.small_world", given.sprites)
    for seed in given.seeds:
        of = {"seed": seed, "steps": given.steps}
        for row in rows:
            results.once(partial(_measure, bench, row, seed), row=row.name, **of)
        if "vild-ensemble" in names:
            if not all(results.has(row=name, **of) for name in LADDER):
                for name, numbers in _ladder(bench, seed):
                    results.add(numbers, row=name, **of)
            results.once(partial(_colours, bench, seed), row=COLOURS, **of)
        for name in (name for name in RECALL if name in names):
            results.once(partial(_recall, bench, name, seed), row=f"proposals of {name}", **of)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/small-world"), help="runs, resumable"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sprites", choices=["shapes", "emoji"], default="emoji")
    parser.add_argument("--rows", nargs="+", help="names of rows; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=400, help="of every row's training")
    parser.add_argument("--device")
    return parser.parse_args()


def _prepare(given: argparse.Namespace, needs_absent: bool) -> Bench:
    folder = given.out
    world = draw_world(folder / "world", sprites=given.sprites)
    absent = None
    if needs_absent:
        absent = draw_world(folder / "world-without-novel", sprites=given.sprites, novel=False)
    teacher = folder / "teacher"
    if not (teacher / CONFIG_FILE).is_file():  # written last
        with console.progress("Training the teacher", None) as advance:
            train_teacher(
                world.captions_json,
                world.caption_images,
                teacher,
                width=TEACHER_WIDTH[given.sprites],
                device=choose_device(given.device),
                advance=advance,
            )
    glove = folder / "gloss-vectors.txt"
    if not glove.exists():
        write_gloss_vectors(glove)
    return Bench(
        folder,
        given.sprites,
        world,
        absent,
        f"local-dir:{teacher}",
        f"glove:{glove}",
        given.steps,
        given.device,
    )


def _measure(bench: Bench, row: Row, seed: int) -> dict[str, Any]:
    if _distils(row):
        _cache(bench, seed, absent="world" in row.training)  # shared by rows, timed in none
    begin = time.perf_counter()
    if row.system is not None:
        _train(bench, row, seed)
    trained = time.perf_counter()
    model = str(bench.model(row.of or row.name, seed))
    options = {"model": model, "regions": REGIONS, **row.labelling}
    if options["model"] == CLIP_ON_CROPS:
        options |= {"teacher": bench.teacher, "proposals": model}
    elif options.get("teacher"):
        options["teacher"] = bench.teacher
    if options.get("teacher"):
        options["regions"] = CROPPED_REGIONS
    truth = bench.truth()
    chosen = LabellingOptions(**options, device=bench.device, offline=True)
    opened, seen = open_subject(truth, chosen)
    subject = predict_subject(truth, opened, seen, bench.world.val_images)
    assert subject.predictions is not None, "predict_subject predicts"
    return {
        "system": opened.settings["system"],
        **_numbers(truth, subject.predictions),
        "train_seconds": round(trained - begin, 1),
        "evaluation_seconds": round(time.perf_counter() - trained, 1),
    }


def _train(bench: Bench, row: Row, seed: int) -> None:
    training = dict(row.training)
    absent = training.pop("world", None) is not None
    world = bench.world_of(absent)
    assert row.system is not None, "the row trains"
    overrides = {"steps": bench.steps, **training.pop("overrides", {})}
    options = TrainingOptions(
        row.system,
        world.train_json,
        world.train_images,
        bench.teacher,
        text_encoder=bench.glove if row.system == "glove" else None,
        overrides=overrides,
        seed=seed,
        device=bench.device,
        offline=True,
        **training,
    )
    if _distils(row):
        options = replace(options, teacher_cache=_cache(bench, seed, absent))
    train_system(
        options,
        bench.model(row.name, seed),
        force=False,
        progress=console.progress,
        say=console.say,
    )


def _distils(row: Row) -> bool:
    return row.system is not None and SYSTEMS[row.system].distilled


def _cache(bench: Bench, seed: int, absent: bool) -> Path:
    """The proposals of the base-trained vild-text, embedded once a seed."""
    _train(bench, ROWS[0], seed)
    world = bench.world_of(absent)
    folder = bench.folder / f"seed-{seed}" / ("cache-without-novel" if absent else "cache")
    options = TeachOptions(
        world.train_json,
        world.train_images,
        bench.teacher,
        str(bench.model("vild-text", seed)),
        regions=TAUGHT_REGIONS,
        device=bench.device,
        offline=True,
    )
    with console.progress("Embedding proposals", count_images(options)) as advance:
        return teach(options, folder, force=False, advance=advance).folder


def _numbers(truth: Truth, predictions: Predictions) -> dict[str, float]:
    """Mask AP, in percent."""
    results, _ = evaluate(truth, predictions)
    metrics = results[-1].metrics
    return {key: round(100 * metrics[key], 2) for key in ("APr", "APc", "APf", "AP", "AP50")}


def _ladder(bench: Bench, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Chance, and the teacher on the ensemble's regions and on true boxes."""
    begin = time.perf_counter()
    truth, images = bench.truth(), bench.world.val_images
    model = str(bench.model("vild-ensemble", seed))
    options = LabellingOptions(model=model, regions=REGIONS, device=bench.device, offline=True)
    opened, _ = open_subject(truth, options)
    scorer, seen = scorer_of(opened), []

    def detect(image: Tensor) -> Regions:
        seen.append(opened.detector.regions([image])[0])
        return seen[-1]

    annotations = truth.annotations
    found = predict(detect, {"chance": shuffled(scorer)}, annotations, images)
    device = choose_device(bench.device)
    encoder = image_encoder_of(load_open_clip(bench.teacher, offline=True), device)
    τ = encoder.temperature
    teacher = Scorer(scorer.bank, ScoringHead(None, τ, τ, Fusion("image")))
    true = [
        _true_regions(annotations.annotations.get(i.id, ()), i.height, i.width)
        for i in annotations.images
    ]
    for name, regions in ((LADDER[1], seen), (LADDER[2], true)):
        asked = CropDetector(
            _one_by_one(regions), encoder, keep_text_side=False, count=CROPPED_REGIONS
        )
        found |= predict(_regions_of(asked), {name: teacher}, annotations, images)
    seconds = round(time.perf_counter() - begin, 1)
    for name, predictions in found.items():
        yield name, {**_numbers(truth, predictions), "evaluation_seconds": seconds}


def _one_by_one(regions: Sequence[Regions]) -> Callable[[Sequence[Tensor]], list[Regions]]:
    """Proposals that are there already, in the order in which images are asked about."""
    again = iter(regions)
    return lambda images: [next(again) for _ in images]


def _regions_of(detector: CropDetector) -> Callable[[Tensor], Regions]:
    return lambda image: detector.regions([image])[0]


def _true_regions(objects: Sequence[Annotation], height: int, width: int) -> Regions:
    """Ground truth as a detector would give it that finds everything."""
    boxes = torch.tensor([o.box for o in objects], dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(objects), MASK_SIZE, MASK_SIZE, dtype=torch.uint8)
    for mask, annotation in zip(masks, objects, strict=True):
        x1, y1, x2, y2 = (round(v) for v in annotation.box)
        inside = annotation_mask(annotation, height, width)[y1:y2, x1:x2].astype(np.float32)
        fitted = F.interpolate(
            torch.from_numpy(inside)[None, None], (MASK_SIZE, MASK_SIZE), mode="area"
        )
        mask.copy_((255 * fitted[0, 0]).round().to(torch.uint8))
    return Regions(boxes, boxes, torch.ones(len(boxes)), masks, None, None)


def _recall(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    begin = time.perf_counter()
    truth = bench.truth()
    options = LabellingOptions(
        model=str(bench.model(name, seed)), regions=1000, device=bench.device, offline=True
    )
    opened, seen = open_subject(truth, options)
    subject = propose_subject(truth, opened, seen, bench.world.val_images)
    assert subject.proposals is not None, "propose_subject proposes"
    found = evaluate_proposals(truth.content, subject.proposals, truth.groups)
    kept = {k: round(100 * v, 2) for k, v in found.items() if k.split("@")[0].endswith(" AR")}
    return {"recall": kept, "evaluation_seconds": round(time.perf_counter() - begin, 1)}


def _colours(bench: Bench, seed: int) -> dict[str, Any]:
    begin = time.perf_counter()
    model = str(bench.model("vild-ensemble", seed))
    options = LabellingOptions(model=model, regions=REGIONS, device=bench.device, offline=True)
    # Scenes of another seed, whose captions say the colour of every object.
    fresh = draw_world(
        bench.folder / "fresh",
        images=1,
        val_images=1,
        caption_images=COLOUR_SCENES,
        seed=1,
        sprites=bench.sprites,
    )
    vocabulary = load_vocabulary(str(bench.world.vocabulary))
    found = attribute_accuracy(fresh.captions_json, fresh.caption_images, vocabulary, options)
    return {"accuracy": found, "evaluation_seconds": round(time.perf_counter() - begin, 1)}


if __name__ == "__main__":
    main()
