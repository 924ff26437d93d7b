"""The script runs, at a size that says nothing about speed, and compares like with like."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip, tiny_config

from benchmarks import teacher_crops


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    settings = {"size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    settings |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    model: Any = tiny_clip(tiny_config())
    model.visual.preprocess_cfg = settings
    monkeypatch.setattr(open_clip, "create_model", lambda name, pretrained: model)
    return teacher_crops


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


def test_it_prints_and_records_both_stages(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "performance.json"
    script.main(arguments("--out", str(out)))
    lines = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}" in lines[0]
    assert lines[1].startswith("python ")
    assert lines[2] == "ViT-B-32, 7 proposals an image, 2 images (80x60)"
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    assert [(row["parameters"]["stage"], row["row"]) for row in rows] == [
        ("crops", "the PIL loop"),
        ("crops", "vildcli"),
        ("crops and embeddings", "the PIL loop"),
        ("crops and embeddings", "vildcli"),
    ]
    for row in rows:
        assert min(row["measured"].values()) > 0
        assert row["row"] == "vildcli" or row["measured"]["ratio"] == 1
    # The same boxes through the same encoder: 8-bit rounding is all that differs.
    assert float(lines[-1].rsplit(" ", 1)[1]) > 0.99


def test_the_encoder_can_be_left_out(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(arguments("--crops-only"))
    assert "embeddings" not in capsys.readouterr().out


def test_photographs(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"holds no \.jpg"):
        script.main(arguments("--folder", str(tmp_path)))
    Image.effect_noise((70, 50), 60).convert("RGB").save(tmp_path / "a.jpg")
    script.main(arguments("--folder", str(tmp_path)))
    assert f"2 images ({tmp_path})" in capsys.readouterr().out
