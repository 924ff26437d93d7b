"""The demo in small: every stage once, and nothing twice when it is called again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vildcli.cli import run
from vildcli.training.recipe import RECIPES
from vildcli.world import demo, teacher
from vildcli.world.world import World, draw_world


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of images and steps: what is learned is not looked at."""

    def draw(folder: Path, **options: object) -> World:
        sizes = {"images": 6, "val_images": 6, "caption_images": 24}
        return draw_world(folder, **{**options, **sizes})  # type: ignore[arg-type]

    monkeypatch.setattr(demo, "draw_world", draw)
    monkeypatch.setattr(demo, "ENSEMBLE_STEPS", 2)
    kwdefaults = teacher.train_teacher.__kwdefaults__
    monkeypatch.setattr(teacher.train_teacher, "__kwdefaults__", {**kwdefaults, "steps": 2})
    monkeypatch.setitem(RECIPES, "world", replace(RECIPES["world"], steps=2, batch=2))


@pytest.mark.slow
def test_demo__every_stage_then_nothing_twice(
    tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert run(["demo", "--out", str(out), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert set(first) == {
        "seconds",
        "base_ap50",
        "novel_ap50",
        "text_only_novel_ap50",
        "chance_novel_ap50",
        "teacher_novel_ap50",
        "model",
        "run",
        "coco",
        "truth",
        "novel_ids",
    }
    assert len(first["novel_ids"]) == 15
    truth = json.loads(Path(first["truth"]).read_text())
    labels = json.loads(Path(first["coco"]).read_text())
    assert {i["file_name"]: i["id"] for i in truth["images"]} == {
        i["file_name"]: i["id"] for i in labels["images"]
    }
    assert (out / "sheet.png").stat().st_size > 0
    weights = Path(first["run"]).parent / "vild-text" / "state.pt"
    trained = weights.stat().st_mtime_ns
    assert run(["demo", "--out", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert weights.stat().st_mtime_ns == trained
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
