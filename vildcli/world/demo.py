"""The whole path on the small world: draw, teach, train, evaluate, detect, export.

Every stage has a folder of its own and is skipped when it is there, so that an interrupted demo
continues.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vildcli.checkpoint import load_model, save_model
from vildcli.console import Advance, Progress
from vildcli.data.lvis import load_annotations
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.evaluation.default_conf import best_f1_threshold
from vildcli.evaluation.model import (
    SplitResult,
    evaluate_model,
    open_for_evaluation,
    scorer_of,
    shuffled,
    split_result,
)
from vildcli.evaluation.predict import Scorer, predict
from vildcli.evaluation.predictions import Predictions
from vildcli.export.coco import export_coco
from vildcli.export.selection import Selection
from vildcli.labelling.label import LabellingJob, Watch, label_images
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.run import labelling_settings, open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.thresholds import view_run
from vildcli.review.sheet import write_contact_sheet
from vildcli.runs import open_run
from vildcli.teacher.clip_on_crops import CropDetector
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.session import TeachOptions, teach
from vildcli.text.open_clip_models import CONFIG_FILE, load_open_clip
from vildcli.training.initialise import SCRATCH
from vildcli.training.inputs import TrainingOptions
from vildcli.training.session import train_system
from vildcli.types import Regions
from vildcli.vocabulary.files import load_vocabulary
from vildcli.world.quotas import PLANS
from vildcli.world.sprites import SpriteKind
from vildcli.world.teacher import teacher_steps, train_teacher
from vildcli.world.world import World, draw_world

REGIONS = 80  # an image, in evaluation and labelling
TAUGHT_REGIONS = 40  # proposals an image that are distilled, and that the teacher is asked about
ENSEMBLE_STEPS = 440  # on from the vild-text weights
FRESH_IMAGES = 60


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured, mask AP50 in 0-1, and where everything lies (absolute paths).

    Attributes:
        text_only_novel_ap50: of vild-text, which never saw the teacher's image side.
        chance_novel_ap50: of the ensemble with the novel names' text embeddings exchanged.
        teacher_novel_ap50: of the teacher on crops of the ensemble's regions.
        coco: every label of `run`, whose images are those of `truth`.
    """

    seconds: float
    base_ap50: float
    novel_ap50: float
    text_only_novel_ap50: float
    chance_novel_ap50: float
    teacher_novel_ap50: float
    model: str
    run: str
    coco: str
    truth: str
    novel_ids: list[int]


def run_demo(out: Path, *, seed: int, sprites: SpriteKind, progress: Progress) -> DemoResult:
    """Run or continue the demo in a folder.

    Raises:
        RunError: the folder holds something else.
    """
    begin = time.perf_counter()
    open_run(out, kind="demo", settings={"seed": seed, "sprites": sprites})
    plan = PLANS[sprites]
    with progress("Drawing the world", plan.total) as advance:
        world = draw_world(out / "world", seed=seed, sprites=sprites, advance=advance)
    teacher = _teacher(world, out / "teacher", seed, progress)
    text = _train("vild-text", world, teacher, out, seed, progress)
    with progress("Embedding proposals", plan.images) as advance:
        options = TeachOptions(
            world.train_json, world.train_images, teacher, str(text), regions=TAUGHT_REGIONS
        )
        cache = teach(options, out / "teacher-cache", force=False, advance=advance).folder
    ensemble = _train(
        "vild-ensemble", world, teacher, out, seed, progress, cache=cache, init=str(text)
    )
    ladder = _Ladder(world, teacher, ensemble)
    with progress("Evaluating vild-ensemble", plan.val_images) as advance:
        results = ladder.evaluate(advance)
    with progress("Evaluating vild-text", plan.val_images) as advance:
        text_only = evaluate_model(
            world.val_json, world.val_images, str(text), regions=REGIONS, advance=advance
        )
    fresh = draw_world(
        out / "fresh",
        images=1,
        val_images=FRESH_IMAGES,
        caption_images=1,
        seed=seed + 1,
        sprites=sprites,
    )
    run, coco = _label(fresh, ensemble, out, progress)
    return DemoResult(
        seconds=round(time.perf_counter() - begin, 1),
        base_ap50=round(results["ensemble"].base_ap50, 4),
        novel_ap50=round(results["ensemble"].novel_ap50, 4),
        text_only_novel_ap50=round(text_only.novel_ap50, 4),
        chance_novel_ap50=round(results["chance"].novel_ap50, 4),
        teacher_novel_ap50=round(results["teacher"].novel_ap50, 4),
        model=str(ensemble.resolve()),
        run=str(run.resolve()),
        coco=str(coco.resolve()),
        truth=str(fresh.val_json.resolve()),
        novel_ids=ladder.novel_ids,
    )


def _teacher(world: World, folder: Path, seed: int, progress: Progress) -> str:
    if not (folder / CONFIG_FILE).is_file():  # written last
        categories = load_vocabulary(world.vocabulary).categories
        with progress("Training the teacher", teacher_steps(len(categories))) as advance:
            train_teacher(
                world.captions_json, world.caption_images, folder, seed=seed, advance=advance
            )
    return f"local-dir:{folder}"


def _train(
    system: str,
    world: World,
    teacher: str,
    out: Path,
    seed: int,
    progress: Progress,
    *,
    cache: Path | None = None,
    init: str | None = None,
) -> Path:
    options = TrainingOptions(
        system,
        world.train_json,
        world.train_images,
        teacher,
        teacher_cache=cache,
        init=init or SCRATCH,
        overrides={"steps": ENSEMBLE_STEPS} if init else {},
        seed=seed,
    )
    return train_system(options, out / system, force=False, progress=progress)


class _Ladder:
    """Ensemble, chance and teacher, all on the ensemble's regions of the validation images."""

    def __init__(self, world: World, teacher: str, model: Path) -> None:
        self.world, self.model_file = world, model
        self.annotations = load_annotations(world.val_json)
        self.opened = open_for_evaluation(self.annotations, str(model), regions=REGIONS)
        self.clip = load_open_clip(teacher)
        bank = self.opened.labeller.bank
        self.is_base = bank.is_base.tolist()
        self.novel_ids = bank.category_ids[~bank.is_base].tolist()

    def evaluate(self, advance: Advance) -> dict[str, SplitResult]:
        """Mask AP of each rung; writes the score of best F1 into the model file."""
        seen: list[Regions] = []

        def detect(image: torch.Tensor) -> Regions:
            seen.append(self.opened.detector.regions([image])[0])
            return seen[-1]

        scorer = scorer_of(self.opened)
        scorers = {"ensemble": scorer, "chance": shuffled(scorer)}
        found = predict(
            detect, scorers, self.annotations, self.world.val_images, advance=lambda: advance(1)
        )
        self._write_default_conf(seen)
        found |= self._ask_teacher(seen, scorer)
        categories = self.annotations.categories
        return {
            name: split_result(self.world.val_json, rows, categories, self.is_base)
            for name, rows in found.items()
        }

    def _ask_teacher(self, seen: list[Regions], scorer: Scorer) -> dict[str, Predictions]:
        encoder = image_encoder_of(self.clip, torch.device("cpu"))
        again = iter(seen)
        crops = CropDetector(
            lambda images: [next(again) for _ in images],
            encoder,
            keep_text_side=False,
            count=TAUGHT_REGIONS,
        )
        τ = encoder.temperature
        teacher = Scorer(scorer.bank, ScoringHead(None, τ, τ, Fusion("image")))
        return predict(
            lambda image: crops.regions([image])[0],
            {"teacher": teacher},
            self.annotations,
            self.world.val_images,
        )

    def _write_default_conf(self, seen: list[Regions]) -> None:
        """Labels as `detect` gives them: here the vocabulary holds the whole context already."""
        truth = [self.annotations.annotations[image.id] for image in self.annotations.images]
        labels = [self.opened.labeller.label(regions) for regions in seen]
        conf = best_f1_threshold(zip(seen, labels, truth, strict=True))
        model = load_model(self.model_file, torch.device("cpu"))
        card = replace(model.card, default_conf=conf)
        save_model(self.model_file, model.detector, model.text_tower, card)


def _label(fresh: World, model: Path, out: Path, progress: Progress) -> tuple[Path, Path]:
    """Label fresh scenes, export every label, draw the contact sheet."""
    vocabulary = load_vocabulary(fresh.vocabulary)
    opened = open_labelling_model(vocabulary, LabellingOptions(str(model), regions=REGIONS))
    run = out / "run"
    settings = labelling_settings({**opened.settings, "keep_regions": True})
    arguments = {"default_conf": opened.default_conf}
    open_labelling_run(
        run,
        find_images([str(fresh.val_images)]),
        settings,
        vocabulary,
        arguments=arguments,
        force=True,
    )
    opened.save_head(run)
    with progress("Labelling fresh scenes", FRESH_IMAGES) as advance:
        watch = Watch(advance=lambda images: advance(images))
        label_images(run, opened, LabellingJob(keep_regions=True), watch)
    coco = out / "coco.json"
    export_coco(Selection(view_run(run, conf=0.0)), coco)
    write_contact_sheet(run, out / "sheet.png")
    return run, coco
