"""The script runs, at a size that says nothing about speed, and compares like with like."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip, tiny_config

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "teacher_crops.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("teacher_crops", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {"size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    settings |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    model: Any = tiny_clip(tiny_config())
    model.visual.preprocess_cfg = settings
    monkeypatch.setattr(open_clip, "create_model", lambda name, pretrained: model)
    return module


def arguments(*more: str) -> list[str]:
    sizes = [
        "--device",
        "cpu",
        "--regions",
        "7",
        "--images",
        "2",
        "--width",
        "80",
        "--height",
        "60",
    ]
    return [*sizes, *more]


def test_it_prints_a_table_with_where_and_when(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(arguments())
    lines = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}" in lines[0]
    assert lines[1].startswith("python ")
    assert lines[2] == "ViT-B-32, 7 proposals an image, 2 images (80x60)"
    assert lines[3].split() == ["milliseconds", "an", "image", "PIL", "loop", "ours", "ratio"]
    for line, stage in zip(lines[4:6], ("crops", "crops and embeddings"), strict=True):
        loop, ours, ratio = (float(word) for word in line.removeprefix(stage).split())
        assert min(loop, ours, ratio) > 0
    # The same boxes through the same encoder: 8-bit rounding is all that differs.
    assert float(lines[6].rsplit(" ", 1)[1]) > 0.99


def test_photographs(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"holds no \.jpg"):
        script.main(arguments("--folder", str(tmp_path)))
    Image.effect_noise((70, 50), 60).convert("RGB").save(tmp_path / "a.jpg")
    script.main(arguments("--folder", str(tmp_path)))
    assert f"2 images ({tmp_path})" in capsys.readouterr().out
