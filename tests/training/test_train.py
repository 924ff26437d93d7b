from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_detector import TRAINED, is_closed, tiny_context, tiny_detector
from tiny_training import (
    NOVEL_ID,
    annotation,
    rewrite,
    tiny_cache,
    tiny_recipe,
    tiny_set,
    write_images,
)

from vildcli.data.batches import BatchPlan
from vildcli.data.training_set import TrainingSet
from vildcli.detector.detector import Detector
from vildcli.errors import ModelError
from vildcli.systems import SYSTEMS
from vildcli.training import train
from vildcli.training.processes import Processes
from vildcli.training.recipe import RECIPES, Recipe
from vildcli.training.train import make_optimiser, train_detector, weighted_sum


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trained(
    folder: Path,
    path: Path,
    recipe: Recipe,
    system: str = "vild-ensemble",
    workers: int = 0,
) -> Detector:
    """Train as a new process would: nothing is kept but what the folder holds."""
    torch.manual_seed(len(folder.name))  # what was drawn before must not matter
    torch.rand(17)
    detector = tiny_detector(system)
    teacher = None
    if SYSTEMS[system].distilled:
        teacher = tiny_cache(path.parent / "cache", [1, 2, 3, 4])
    folder.mkdir(exist_ok=True)
    train_in_place(detector, tiny_set(path, teacher), recipe, folder, workers)
    return detector


def train_in_place(
    detector: Detector, data: TrainingSet, recipe: Recipe, folder: Path, workers: int = 0
) -> None:
    train_detector(
        detector,
        data,
        BatchPlan(len(data), recipe.batch, 0, 0, recipe.length),
        tiny_context(detector.system.name),
        recipe,
        folder,
        processes=Processes(torch.device("cpu")),
        workers=workers,
        advance=lambda count=1, text=None: None,
    )


def assert_same_weights(a: Detector, b: Detector) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []


@pytest.mark.parametrize("system", TRAINED)
def test_every_trained_system_moves_what_it_trains(system: str, tmp_path: Path) -> None:
    detector = trained(tmp_path / "run", write_images(tmp_path), tiny_recipe(steps=2), system)
    start = tiny_detector(system).state_dict()
    moved = {k for k, v in detector.state_dict().items() if not torch.equal(v, start[k])}
    assert {"boxes.weight", "mask_head.logits.weight"} <= moved
    assert ("head.project.weight" in moved) != is_closed(system)
    assert ("classifier.weight" in moved) == is_closed(system)
    assert ("background" in moved) == (SYSTEMS[system].text_side == "student")
    assert not detector.training
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]


class Killed(Exception):
    pass


def test_a_killed_run_continues_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recipe = write_images(tmp_path), tiny_recipe(steps=4, checkpoint_every=2)
    unbroken = trained(tmp_path / "unbroken", path, recipe)
    step, calls = train.training_step, []

    def killed_in_the_fourth(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 4:
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(train, "training_step", killed_in_the_fourth)
    with pytest.raises(Killed):
        trained(tmp_path / "broken", path, recipe)
    monkeypatch.setattr(train, "training_step", step)
    continued = trained(tmp_path / "broken", path, recipe)
    assert_same_weights(continued, unbroken)
    metrics = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("unbroken", "broken")]
    assert metrics[0] == metrics[1]  # the third step, run twice, is there once


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    path, recipe = write_images(tmp_path), tiny_recipe(steps=2)
    first = trained(tmp_path / "run", path, recipe)
    before = (tmp_path / "run" / "state.pt").read_bytes()
    again = trained(tmp_path / "run", path, recipe)
    assert_same_weights(first, again)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before


def test_novel_annotations_train_nothing(tmp_path: Path) -> None:
    path, recipe = write_images(tmp_path), tiny_recipe(steps=2)
    first = trained(tmp_path / "first", path, recipe)

    def nonsense(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            if row["category_id"] == NOVEL_ID:
                row |= annotation(row["id"], row["image_id"], NOVEL_ID, [1, 2, 55, 9])

    rewrite(path, nonsense)
    assert_same_weights(trained(tmp_path / "second", path, recipe), first)

    def base_nonsense(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            if row["category_id"] != NOVEL_ID:
                row |= annotation(row["id"], row["image_id"], row["category_id"], [1, 2, 55, 9])

    rewrite(path, base_nonsense)  # the comparison can fail
    with pytest.raises(AssertionError):
        assert_same_weights(trained(tmp_path / "third", path, recipe), first)


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    detector = tiny_detector("vild-text")
    detector.background.data.fill_(float("nan"))
    path = write_images(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(ModelError) as error:
        train_in_place(detector, tiny_set(path), tiny_recipe(), tmp_path / "run")
    assert str(error.value) == "The loss is not finite at step 0: total, text (images 3, 2)."
    assert error.value.hint == "Lower the learning rate, or look at these images' annotations."
    assert not (tmp_path / "run" / "state.pt").exists()


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_weight_decay__weights_and_the_background_alone(optimiser: str) -> None:
    detector = tiny_detector()
    groups = make_optimiser(detector, tiny_recipe(optimiser=optimiser)).param_groups
    decayed, others = ({id(p) for p in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [1e-2, 0.0]
    for name, parameter in detector.named_parameters():
        is_weight = name == "background" or (name.endswith("weight") and parameter.ndim > 1)
        assert (id(parameter) in decayed) == is_weight, name
        assert (id(parameter) in others) != is_weight, name
    assert type(make_optimiser(detector, tiny_recipe(optimiser=optimiser))).__name__.lower() == (
        optimiser
    )


def test_weighted_sum() -> None:
    losses = {
        name: torch.tensor(value)
        for name, value in {
            "objectness": 1.0,
            "proposal_box": 10.0,
            "box": 100.0,
            "text": 1000.0,
            "mask": 10_000.0,
            "distillation": 100_000.0,
        }.items()
    }
    recipe = tiny_recipe(box_weight=2.0, distillation_weight=0.5)
    assert weighted_sum(losses, recipe).item() == 1 + 20 + 200 + 1000 + 10_000 + 50_000


def test_rate__warms_up_and_falls() -> None:
    recipe = tiny_recipe(steps=100, warmup_steps=10, learning_rate=1.0)
    assert recipe.rate(0) == pytest.approx(0.01)
    assert recipe.rate(5) == pytest.approx(0.505)
    assert recipe.rate(10) == pytest.approx(1.0)
    assert recipe.rate(55) == pytest.approx(0.5)
    assert 0 < recipe.rate(99) < 0.001
    steps = tiny_recipe(steps=100, warmup_steps=0, drops=(0.9, 0.95), learning_rate=1.0)
    assert [steps.rate(s) for s in (0, 89, 90, 94, 95, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_recipes_can_be_written_down() -> None:
    for recipe in RECIPES.values():
        values = json.loads(json.dumps(recipe.in_steps(100_170).as_dict()))
        assert values["steps"] > recipe.warmup_steps


def test_recipe__epochs_become_steps() -> None:
    recipe = tiny_recipe(steps=None, epochs=3, batch=4)
    assert recipe.in_steps(10).length == 8  # 30 images in batches of 4
    assert recipe.in_steps(10.5).length == 8
    assert tiny_recipe(steps=7).in_steps(10).length == 7


def test_recipe__another_batch_takes_the_rate_along_for_sgd_alone() -> None:
    assert tiny_recipe(optimiser="sgd", batch=16, learning_rate=0.02).with_batch(
        4
    ).learning_rate == pytest.approx(0.005)
    assert tiny_recipe(optimiser="adamw", batch=16, learning_rate=0.02).with_batch(
        4
    ).learning_rate == pytest.approx(0.02)
