from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import training_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        Image.effect_noise((70, 50 + i), 60).convert("RGB").save(tmp_path / f"{i}.jpg")
    return tmp_path


def run(folder: Path, *more: str) -> dict[str, Any]:
    out = folder / "performance.json"
    given = ["--folder", str(folder), "--size", "128", "--objects", "2", "--out", str(out)]
    training_data.main([*given, *more])
    (row,) = json.loads(out.read_text())
    return dict(row)


def test_examples_alone(folder: Path) -> None:
    row = run(folder, "--images", "2")
    assert row["parameters"] | {"pictures": ""} == {
        "pictures": "",
        "pixels": 128,
        "objects": 2,
        "workers": 0,
        "batch": 1,
    }
    assert row["measured"].keys() == {"examples/s", "image ms", "CPU ms"}
    assert min(row["measured"].values()) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_how_much_of_training_waits(folder: Path) -> None:
    row = run(folder, "--steps", "1", "--batch", "1", "--width", "8", "--precision", "float32")
    assert 0 < row["measured"]["waiting %"] < 100
    assert row["measured"]["images/s"] > 0


def test_a_folder_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"holds no \.jpg"):
        run(tmp_path)
