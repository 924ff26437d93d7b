from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from tiny_clip import tiny_clip, tiny_config
from tiny_training import NOVEL_ID, rewrite
from torch import Tensor

from vildcli.cli import run
from vildcli.errors import ModelError, NothingToDoError, RunError
from vildcli.runs import read_run
from vildcli.teacher.adapt import STATE_FILE, AdaptRecipe, Loss
from vildcli.teacher.adapt_session import (
    AdaptOptions,
    AdaptResult,
    adapt_teacher,
    adapted_from,
    count_steps,
)
from vildcli.teacher.session import TeachOptions, teach
from vildcli.text.open_clip_models import load_open_clip, save_open_clip
from vildcli.text.open_clip_weights import WEIGHTS_FILE
from vildcli.training.own_cache import check_cache

RECIPE = AdaptRecipe(epochs=2, batch=3, learning_rate=3e-3)
Adapt = Callable[..., AdaptResult]


def quiet(steps: int = 1, note: str | None = None, facts: object = None) -> None:
    pass


@pytest.fixture
def adapt(data: Path, clip: str, tmp_path: Path) -> Adapt:
    def adapt(out: str = "out", advance: Any = quiet, **changes: Any) -> AdaptResult:
        options = AdaptOptions(data, data.parent, clip, recipe=RECIPE, device="cpu", offline=True)
        return adapt_teacher(
            replace(options, **changes), tmp_path / out, force=False, advance=advance
        )

    return adapt


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def changed(before: Path, after: Path) -> set[str]:
    old, new = weights(before), weights(after)
    return {name for name in old if not torch.equal(old[name], new[name])}


def is_norm(name: str) -> bool:
    return "ln_" in name


def test_adapt__changes_the_layer_norms_and_nothing_else(adapt: Adapt, tmp_path: Path) -> None:
    result = adapt()
    assert (result.vision, result.text, result.objects) == (512, 160, 8)
    names = changed(tmp_path / "clip", result.folder)
    assert all(is_norm(name) for name in names)
    assert any(name.startswith("visual.") for name in names)
    assert any(not name.startswith("visual.") for name in names)
    assert not (result.folder / STATE_FILE).exists()


def test_adapt__vision_only(adapt: Adapt, tmp_path: Path) -> None:
    result = adapt(recipe=replace(RECIPE, towers="vision"))
    assert (result.vision, result.text) == (512, 0)
    names = changed(tmp_path / "clip", result.folder)
    assert names
    assert all(is_norm(name) and name.startswith("visual.") for name in names)


def test_adapt__what_comes_out_is_a_teacher_that_says_where_it_is_from(
    adapt: Adapt, clip: str
) -> None:
    folder = adapt().folder
    before, after = (load_open_clip(r, offline=True) for r in (clip, f"local-dir:{folder}"))
    assert before.identity != after.identity
    assert before.preprocessing == after.preprocessing
    assert before.temperature == after.temperature
    assert adapted_from(f"local-dir:{folder}") == adapted_from(str(folder)) == before.identity
    assert adapted_from(clip) is None
    assert adapted_from("ViT-B-32:openai") is None
    assert read_run(folder, "adapted-teacher")["arguments"]["teacher"] == clip


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_adapt__learns_the_base_categories(adapt: Adapt, tmp_path: Path, loss: Loss) -> None:
    torch.manual_seed(0)
    save_open_clip(tmp_path / "fresh", open_clip.CLIP(**tiny_config()), tiny_config())
    losses: list[float] = []

    def note(steps: int = 1, note: str | None = None, facts: object = None) -> None:
        if note and note.startswith("loss "):
            losses.append(float(note.split()[1]))

    recipe = replace(RECIPE, epochs=15, learning_rate=0.02, loss=loss)
    result = adapt(teacher=str(tmp_path / "fresh"), advance=note, recipe=recipe)
    assert len(losses) == 15 * 2
    assert losses[-1] < 0.1 * losses[0]
    assert (result.before["base"], result.after["base"]) == (0.0, 0.5)  # plum takes the pears


def test_adapt__an_interrupted_one_ends_as_an_unbroken_one(adapt: Adapt) -> None:
    steps: list[int] = []

    def stop(steps_: int = 1, note: str | None = None, facts: object = None) -> None:
        if note and note.startswith("loss "):
            steps.append(1)
            if len(steps) == 3:  # the first step of the second epoch
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt("broken", advance=stop)
    counted: list[int] = []

    def count(steps: int = 1, note: str | None = None, facts: object = None) -> None:
        counted.append(steps)

    broken, whole = adapt("broken", advance=count), adapt("whole")
    assert sum(counted) == 4
    assert changed(broken.folder, whole.folder) == set()
    assert broken.before == whole.before
    assert adapt("whole", advance=stop) == whole  # nothing is left to do


def test_adapt__novel_annotations_change_nothing(adapt: Adapt, data: Path) -> None:
    before = adapt("before")

    def change(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            if row["category_id"] == NOVEL_ID:
                row["bbox"] = [1, 1, 50, 40]

    rewrite(data, change)
    after = adapt("after")
    assert changed(before.folder, after.folder) == set()
    headers = [read_run(r.folder, "adapted-teacher") for r in (before, after)]
    assert headers[0]["settings"] == headers[1]["settings"]


def test_adapt__no_base_object(adapt: Adapt, data: Path) -> None:
    rewrite(data, lambda content: content.update(annotations=content["annotations"][2::3]))
    with pytest.raises(NothingToDoError) as error:
        adapt()
    assert str(error.value) == f"{data} has no object of a base category."


def test_adapt__other_settings_are_refused(adapt: Adapt) -> None:
    adapt()
    with pytest.raises(RunError, match="other settings \\(recipe: "):
        adapt(recipe=replace(RECIPE, epochs=3))


def test_adapt__a_teacher_without_layer_norms(adapt: Adapt, tmp_path: Path) -> None:
    config = tiny_config()
    config["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    save_open_clip(tmp_path / "resnet", tiny_clip(config), config)
    reference = f"local-dir:{tmp_path / 'resnet'}"
    with pytest.raises(ModelError) as error:
        adapt(teacher=reference)
    assert str(error.value) == (
        f"The vision tower of {reference} is a ModifiedResNet without a LayerNorm, and LayerNorms "
        "are all that adaptation trains."
    )
    assert not (tmp_path / "out").exists()


def test_a_cache_of_the_unadapted_teacher_is_refused(
    adapt: Adapt, data: Path, clip: str, tmp_path: Path
) -> None:
    adapted = f"local-dir:{adapt().folder}"
    names = tmp_path / "boxes.json"
    rows = ", ".join(
        f'{{"image_id": {i}, "bbox": [4, 5, 14, 20], "score": 1}}' for i in range(1, 5)
    )
    names.write_text(f"[{rows}]")
    unadapted = TeachOptions(
        data, data.parent, clip, str(names), prompts="single", device="cpu", offline=True
    )
    cache = teach(unadapted, tmp_path / "taught", force=False, advance=quiet).folder
    with pytest.raises(RunError) as error:
        teach(replace(unadapted, teacher=adapted), cache, force=False, advance=quiet)
    assert f"{cache} holds a run with other settings (adapted_from: None there, '" in str(
        error.value
    )
    with pytest.raises(ModelError) as refused:
        check_cache(cache, load_open_clip(adapted, offline=True).identity, lambda text: None)
    assert str(refused.value) == (
        f"The teacher cache {cache} was filled by another teacher than --teacher."
    )
    own = teach(replace(unadapted, teacher=adapted), tmp_path / "own", force=False, advance=quiet)
    settings = read_run(own.folder, "teacher")["settings"]
    assert settings["adapted_from"] == load_open_clip(clip, offline=True).identity


def test_count_steps(data: Path, clip: str) -> None:
    options = AdaptOptions(data, data.parent, clip, recipe=RECIPE)
    assert count_steps(options) == 2 * 2


def test_command__shows_accuracy_before_and_after(
    data: Path, clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapted"
    paths = ["--data", data, "--images", data.parent, "--teacher", clip, "--out", out]
    chosen = ["--adapt", "--epochs", "1", "--adapt-towers", "vision", "--adapt-loss", "softmax"]
    given = [*map(str, paths), *chosen, "--learning-rate", "0.01", "--device", "cpu", "--offline"]
    assert run(["teach", *given, "--val", str(data), "--val-images", str(data.parent)]) == 0
    lines = capsys.readouterr().err.splitlines()
    table = lines.index("Top-1 on crops of true boxes of --val; novel for analysis only")
    assert [line.split()[0] for line in lines[table + 1 : table + 4]] == [
        "categories", "base", "novel",
    ]  # fmt: skip
    assert lines[table + 1].split()[1:] == ["before", "after"]
    assert f"Adapted teacher: {out} (512 vision and 0 text parameters, 8 base objects)" in lines
    assert any(line.startswith("Next: ") and f"local-dir:{out}" in line for line in lines)
    settings = read_run(out, "adapted-teacher")["settings"]
    assert settings["recipe"]["loss"] == "softmax"
    assert settings["recipe"]["learning_rate"] == 0.01
