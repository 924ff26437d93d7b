"""ViLD against EZSD and each of its parts alone, where scenes do not look like the teacher's world.

    python -m benchmarks.ezsd --seeds 0 1 2
    python -m benchmarks.ezsd --rows vild ezsd --steps 20 --images 40 --teacher-steps 20   # small

Draws a small world with a domain gap: the teacher learns from clean crops, scenes are darker,
blurred and tinted. Every row is trained for the same number of steps, and for a tenth of it, which
EZSD is published to need. As detectors that start from nothing learn nothing in so few steps, that
tenth goes on from the detector of the proposals. What is done offline is timed apart: training that
detector on base boxes, adapting the teacher, choosing and embedding regions. Results go to
docs/results.json after each row, and an interrupted command continues.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.recording import RESULTS, Results
from benchmarks.small_world import REGIONS, _numbers
from vildcli import console
from vildcli.evaluation.model import open_subject, predict_subject
from vildcli.evaluation.truth import load_truth
from vildcli.labelling.options import LabellingOptions
from vildcli.runs import write_json
from vildcli.teacher.adapt import AdaptRecipe
from vildcli.teacher.adapt_session import AdaptOptions, adapt_teacher, count_steps
from vildcli.teacher.chosen_regions import ANCHORS, TEACHER
from vildcli.teacher.session import TeachOptions, count_images, teach
from vildcli.text.open_clip_models import CONFIG_FILE
from vildcli.training.initialise import SCRATCH
from vildcli.training.inputs import TrainingOptions
from vildcli.training.session import train_system
from vildcli.world.quotas import PLANS
from vildcli.world.sprites import SpriteKind
from vildcli.world.teacher import train_teacher
from vildcli.world.world import World, draw_world

# Regions an image: a detector's proposals, and of the teacher's own what is kept and what is used.
PROPOSED, KEPT, USED = 40, 60, 40
_DRAWN = {"distilled_regions": USED, "redrawn_regions": True}
PROPOSER = "vild-text"  # its proposals are embedded, or chosen among
_SECONDS = "seconds.json"  # what each stage took, for commands that continue


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        adapted: whether the teacher is adapted.
        chosen: whether the teacher chooses regions among the proposals of a base-trained detector;
            else that one's first are taken.
        overrides: of the recipe; variation: of the system's row.
    """

    name: str
    system: str
    adapted: bool = False
    chosen: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    variation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        """Whether it can from the proposals' detector: Seesaw's background has two vectors more."""
        return self.overrides.get("class_loss") != "seesaw"

    @property
    def prompts(self) -> str | None:
        """An adapted teacher knows the sentence that it was adapted with."""
        return "ezsd" if self.adapted else None


_EZSD = {**_DRAWN, "distillation_weight": 1.0, "novel_logits": "masked"}
ROWS = (
    Row("vild", "vild"),
    Row("ezsd", "ezsd", adapted=True, chosen=True, overrides=_EZSD),
    Row("vild, adapted teacher", "vild", adapted=True),
    Row("vild, teacher's regions", "vild", chosen=True, overrides=_DRAWN),
    Row("vild, semantic boxes", "vild", variation={"semantic_boxes": True}),
    Row(
        "ezsd, w = 0.5",
        "ezsd",
        adapted=True,
        chosen=True,
        overrides={**_EZSD, "distillation_weight": 0.5},
    ),
    Row(
        "ezsd, Seesaw loss",
        "ezsd",
        adapted=True,
        chosen=True,
        overrides={**_EZSD, "class_loss": "seesaw"},
    ),
)


class Stages:
    """What was done offline, and how long it took: each stage once, whoever asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / _SECONDS
        self.seconds: dict[str, float | None] = (
            json.loads(path.read_text()) if path.exists() else {}
        )

    def timed(self, name: str, work: Callable[[], object]) -> float | None:
        """Seconds that a stage took, None where it was interrupted; nothing is done twice."""
        if name in self.seconds:
            work()  # goes on, or finds everything done
            return self.seconds[name]
        self._note(name, None)
        begin = time.perf_counter()
        work()
        self._note(name, round(time.perf_counter() - begin, 1))
        return self.seconds[name]

    def _note(self, name: str, seconds: float | None) -> None:
        self.seconds[name] = seconds
        write_json(self.folder / _SECONDS, self.seconds)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything lies, and what was asked for."""

    given: argparse.Namespace
    world: World
    stages: Stages

    @property
    def folder(self) -> Path:
        folder: Path = self.given.out
        return folder

    def teacher(self, adapted: bool) -> str:
        return f"local-dir:{self.folder / ('adapted-teacher' if adapted else 'teacher')}"

    def proposer(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}" / PROPOSER

    def training(
        self, row: Row, seed: int, steps: int, cache: Path | None, init: str = SCRATCH
    ) -> TrainingOptions:
        return TrainingOptions(
            row.system,
            self.world.train_json,
            self.world.train_images,
            self.teacher(row.adapted),
            teacher_cache=cache,
            init=str(self.proposer(seed)) if init == PROPOSER else init,
            prompts=row.prompts,
            overrides={"steps": steps, "warmup_steps": steps // 10, **row.overrides},
            variation=row.variation,
            seed=seed,
            device=self.given.device,
            offline=True,
        )


def main() -> None:
    given = _arguments()
    names = given.rows or [row.name for row in ROWS]
    if unknown := set(names) - {row.name for row in ROWS}:
        sys.exit(f"No such rows: {', '.join(sorted(unknown))}. There are {[r.name for r in ROWS]}.")
    bench = _prepare(given)
    results = Results(given.results, "benchmarks.ezsd", f"{given.sprites}, gap {given.gap:g}")
    tenth = max(1, given.steps // 10)
    for seed in given.seeds:
        for steps, init in ((given.steps, SCRATCH), (tenth, PROPOSER)):
            for row in (row for row in ROWS if row.name in names):
                if init == PROPOSER and not row.goes_on:
                    continue
                measure = partial(_measure, bench, row, seed, steps, init)
                results.once(measure, row=row.name, seed=seed, steps=steps, init=init)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ezsd"), help="runs, resumable")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sprites", choices=["shapes", "emoji"], default="shapes")
    parser.add_argument("--gap", type=float, default=0.2, help="0 to 1; 0.2 halves the teacher")
    parser.add_argument("--names", default="all", help="known to the teacher that chooses")
    parser.add_argument("--rows", nargs="+", help="names of rows; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=300, help="then a tenth of them")
    parser.add_argument("--images", type=int, help="of training; half for validation")
    parser.add_argument("--teacher-steps", type=int)
    parser.add_argument("--adapt-epochs", type=int, default=AdaptRecipe().epochs)
    parser.add_argument("--adapt-loss", choices=["sigmoid", "softmax"], default=AdaptRecipe().loss)
    parser.add_argument("--adapt-rate", type=float, default=AdaptRecipe().learning_rate)
    parser.add_argument("--device")
    return parser.parse_args()


def _prepare(given: argparse.Namespace) -> Bench:
    sprites: SpriteKind = given.sprites
    images = given.images or PLANS[sprites].images
    world = draw_world(
        given.out / "world",
        sprites=sprites,
        gap=given.gap,
        images=images,
        val_images=images // 2,
        caption_images=min(max(40, images), PLANS[sprites].caption_images),
    )
    bench = Bench(given, world, Stages(given.out))
    teacher = given.out / "teacher"
    if not (teacher / CONFIG_FILE).is_file():  # written last
        with console.progress("Training the teacher", given.teacher_steps) as advance:
            train_teacher(
                world.captions_json,
                world.caption_images,
                teacher,
                steps=given.teacher_steps,
                tower="transformer",
                advance=advance,
            )
    return bench


def _measure(bench: Bench, row: Row, seed: int, steps: int, init: str) -> dict[str, Any]:
    offline = {
        "proposals": bench.stages.timed(f"proposals, seed {seed}", lambda: _proposer(bench, seed))
    }
    if row.adapted:
        offline["adaptation"] = bench.stages.timed("adaptation", lambda: _adapt(bench))
    cache = _cache_folder(bench, row, seed)
    offline["regions"] = bench.stages.timed(cache.name, lambda: _teach(bench, row, seed, cache))
    name = f"{row.name}, {steps} steps" + (f" after {init}" if init == PROPOSER else "")
    out = bench.folder / f"seed-{seed}" / name.replace(" ", "_")
    options = bench.training(row, seed, steps, cache, init)
    trained = bench.stages.timed(
        f"{name}, seed {seed}",
        lambda: train_system(options, out, force=False, progress=console.progress, say=console.say),
    )
    begin = time.perf_counter()
    numbers = _evaluate(bench, out)
    return {
        **numbers,
        **({"teacher_accuracy": _accuracy(bench)} if row.adapted else {}),
        "names": bench.given.names if row.chosen else "base",
        "offline": offline,
        "offline_seconds": None if None in offline.values() else _sum(offline.values()),
        "train_seconds": trained,
        "evaluation_seconds": round(time.perf_counter() - begin, 1),
    }


def _sum(seconds: Iterable[float | None]) -> float:
    return round(sum(s for s in seconds if s is not None), 1)


def _evaluate(bench: Bench, model: Path) -> dict[str, float]:
    truth = load_truth(bench.world.val_json, "lvis")
    options = LabellingOptions(
        model=str(model), regions=REGIONS, device=bench.given.device, offline=True
    )
    opened, seen = open_subject(truth, options)
    subject = predict_subject(truth, opened, seen, bench.world.val_images)
    assert subject.predictions is not None, "predict_subject predicts"
    return _numbers(truth, subject.predictions)


def _adapt(bench: Bench) -> None:
    options = AdaptOptions(
        bench.world.train_json,
        bench.world.train_images,
        bench.teacher(adapted=False),
        val=bench.world.val_json,
        val_images=bench.world.val_images,
        recipe=AdaptRecipe(
            loss=bench.given.adapt_loss,
            epochs=bench.given.adapt_epochs,
            learning_rate=bench.given.adapt_rate,
        ),
        device=bench.given.device,
        offline=True,
    )
    with console.progress("Adapting the teacher", count_steps(options)) as advance:
        found = adapt_teacher(
            options, bench.folder / "adapted-teacher", force=False, advance=advance
        )
    console.say(f"Accuracy on true boxes: {found.before} before, {found.after} after")


def _accuracy(bench: Bench) -> dict[str, dict[str, float | None]]:
    """The teacher's top-1 on true boxes of validation, before and after it was adapted."""
    path = bench.folder / "adapted-teacher" / "accuracy.json"
    found: dict[str, dict[str, float | None]] = json.loads(path.read_text())
    return found


def _proposer(bench: Bench, seed: int) -> Path:
    """A base-trained detector, of the larger number of steps whatever the row's."""
    options = bench.training(Row("", PROPOSER), seed, bench.given.steps, None)
    return train_system(
        options,
        bench.proposer(seed),
        force=False,
        progress=console.progress,
        say=console.say,
    )


def _cache_folder(bench: Bench, row: Row, seed: int) -> Path:
    teacher = "adapted" if row.adapted else "plain"
    of = "s-choice" if row.chosen else "-on-proposals"
    return bench.folder / f"{teacher}-teacher{of}-{seed}"


def _teach(bench: Bench, row: Row, seed: int, out: Path) -> None:
    proposer = str(bench.proposer(seed))
    options = TeachOptions(
        bench.world.train_json,
        bench.world.train_images,
        bench.teacher(row.adapted),
        TEACHER if row.chosen else proposer,
        among=proposer if row.chosen else ANCHORS,
        regions=KEPT if row.chosen else PROPOSED,
        names=bench.given.names,
        device=bench.given.device,
        offline=True,
    )
    with console.progress("Embedding regions", count_images(options)) as advance:
        teach(options, out, force=False, advance=advance)


if __name__ == "__main__":
    main()
