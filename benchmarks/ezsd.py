"""ViLD against EZSD and each of its parts alone, where scenes do not look like the teacher's world.

    python -m benchmarks.ezsd --seeds 0 1 2
    python -m benchmarks.ezsd --rows vild ezsd --steps 20 --images 40 --teacher-steps 20   # small

Draws a small world with a domain gap: the teacher learns from clean crops, scenes are darker,
blurred and tinted. Every row is trained for the same number of steps, and for a tenth of them: what
EZSD is published to need. What is done offline is timed apart: training a detector for its
proposals, adapting the teacher, choosing and embedding regions. Results go to docs/results.json
after each row, and an interrupted command continues. Do not run it beside benchmarks.small_world,
which writes the same file.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.small_world import REGIONS, RESULTS, _hardware, _numbers
from vildcli import console
from vildcli.evaluation.model import open_subject, predict_subject
from vildcli.evaluation.truth import load_truth
from vildcli.labelling.options import LabellingOptions
from vildcli.runs import write_json
from vildcli.teacher.adapt import AdaptRecipe
from vildcli.teacher.adapt_session import AdaptOptions, adapt_teacher, count_steps
from vildcli.teacher.session import TeachOptions, count_images, teach
from vildcli.text.open_clip_models import CONFIG_FILE
from vildcli.training.inputs import TrainingOptions
from vildcli.training.session import train_system
from vildcli.world.quotas import PLANS
from vildcli.world.sprites import SpriteKind
from vildcli.world.teacher import train_teacher
from vildcli.world.world import World, draw_world

# Regions an image: a detector's proposals, and of the teacher's own what is kept and what is used.
PROPOSED, KEPT, USED = 40, 60, 40
_DRAWN = {"distilled_regions": USED, "redrawn_regions": True}
_SECONDS = "seconds.json"  # what each stage took, for commands that continue


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        adapted: whether the teacher is adapted.
        chosen: whether the teacher chooses the regions, else a base-trained detector.
        overrides: of the recipe; variation: of the system's row.
    """

    name: str
    system: str
    adapted: bool = False
    chosen: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    variation: Mapping[str, Any] = field(default_factory=dict)

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

    def training(self, row: Row, seed: int, steps: int, cache: Path | None) -> TrainingOptions:
        return TrainingOptions(
            row.system,
            self.world.train_json,
            self.world.train_images,
            self.teacher(row.adapted),
            teacher_cache=cache,
            prompts=row.prompts,
            overrides={"steps": steps, **row.overrides},
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
    bench, results = _prepare(given), _Results(given)
    for seed in given.seeds:
        for steps in (given.steps, max(1, given.steps // 10)):
            for row in (row for row in ROWS if row.name in names):
                if not results.has(row.name, seed, steps):
                    results.add(row.name, seed, steps, _measure(bench, row, seed, steps))


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


def _measure(bench: Bench, row: Row, seed: int, steps: int) -> dict[str, Any]:
    offline: dict[str, float | None] = {}
    if row.adapted:
        offline["adaptation"] = bench.stages.timed("adaptation", lambda: _adapt(bench))
    if not row.chosen:
        name = f"proposals, seed {seed}"
        offline["proposals"] = bench.stages.timed(name, lambda: _proposer(bench, seed))
    cache = _cache_folder(bench, row, seed)
    offline["regions"] = bench.stages.timed(cache.name, lambda: _teach(bench, row, seed, cache))
    out = bench.folder / f"seed-{seed}" / f"{row.name}, {steps} steps".replace(" ", "_")
    options = bench.training(row, seed, steps, cache)
    trained = bench.stages.timed(
        f"{row.name}, seed {seed}, {steps} steps",
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
    """A base-trained vild-text, of the larger number of steps whatever the row's."""
    options = bench.training(Row("", "vild-text"), seed, bench.given.steps, None)
    return train_system(
        options,
        bench.folder / f"seed-{seed}" / "vild-text",
        force=False,
        progress=console.progress,
        say=console.say,
    )


def _cache_folder(bench: Bench, row: Row, seed: int) -> Path:
    teacher = "adapted" if row.adapted else "plain"
    if row.chosen:  # no chance takes part, nor any detector
        return bench.folder / f"{teacher}-teachers-choice"
    return bench.folder / f"{teacher}-teacher-on-proposals-{seed}"


def _teach(bench: Bench, row: Row, seed: int, out: Path) -> None:
    proposals = "teacher" if row.chosen else str(bench.folder / f"seed-{seed}" / "vild-text")
    options = TeachOptions(
        bench.world.train_json,
        bench.world.train_images,
        bench.teacher(row.adapted),
        proposals,
        regions=KEPT if row.chosen else PROPOSED,
        names=bench.given.names,
        device=bench.given.device,
        offline=True,
    )
    with console.progress("Embedding regions", count_images(options)) as advance:
        teach(options, out, force=False, advance=advance)


class _Results:
    """docs/results.json: rows that were measured, each with hardware, date and command."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.path: Path = given.results
        self.world = f"{given.sprites}, gap {given.gap:g}"

    def has(self, name: str, seed: int, steps: int) -> bool:
        wanted = {"row": name, "seed": seed, "steps": steps, "world": self.world}
        return any(all(row.get(k) == v for k, v in wanted.items()) for row in self._rows())

    def add(self, name: str, seed: int, steps: int, measured: Mapping[str, Any]) -> None:
        row = {
            "row": name,
            "seed": seed,
            "world": self.world,
            "steps": steps,
            **measured,
            "hardware": _hardware(),
            "date": date.today().isoformat(),
            "command": shlex.join(["python", "-m", "benchmarks.ezsd", *sys.argv[1:]]),
        }
        write_json(self.path, [*self._rows(), row])
        console.say(f"{name}, seed {seed}, {steps} steps: {dict(measured)}")

    def _rows(self) -> Sequence[dict[str, Any]]:
        rows: Sequence[dict[str, Any]] = (
            json.loads(self.path.read_text()) if self.path.exists() else []
        )
        return rows


if __name__ == "__main__":
    main()
