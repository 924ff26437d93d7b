"""`vildcli relabel`: what `detect` would have said, from stored regions alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_student import save_clip, save_student

from vildcli.cli import run
from vildcli.labelling.records import done_units, part_path
from vildcli.runs import read_run

VOCABULARY = """\
format: vildcli-vocabulary/1
name: orchard
categories:
  - {id: 3, name: apple, parent: fruit, threshold: 0.25}
  - {id: 5, name: plum, parent: fruit}
  - {id: 8, name: chair}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vildcli"])
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    save_student(tmp_path / "model.safetensors", save_clip(tmp_path / "clip"))
    Path("orchard.yaml").write_text(VOCABULARY)
    Path("photos").mkdir()
    generator = np.random.default_rng(0)
    for i in range(3):
        pixels = generator.integers(0, 256, (60 + 60 * i, 90, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
    return tmp_path


def detect(out: str, *options: object) -> None:
    command = ["detect", "photos", "--model", "model.safetensors", "--regions", "30", "--out", out]
    given = map(str, options)
    assert run([*command, "--vocab", "orchard.yaml", "--offline", "--keep-regions", *given]) == 0


def relabel(out: str, *options: object) -> None:
    assert run(["relabel", "kept", "--out", out, "--offline", *map(str, options)]) == 0


def labels(out: str) -> list[bytes]:
    return [part_path(Path(out), "labels", unit).read_bytes() for unit in done_units(Path(out))]


STORES = {
    "float16": (),
    "int8": ("--region-dtype", "int8"),
    "tiles": ("--tile", 64, "--tile-overlap", 0.25),
    "int8 tiles": ("--region-dtype", "int8", "--tile", 64),
}
CHANGES = {
    "class": ("--nms", "class"),
    "group": ("--nms", "group"),
    "none": ("--nms", "none"),
    "floor": ("--floor", 0.35),
    "max-det": ("--max-det", 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_relabel__says_what_detect_says(folder: Path, store: str) -> None:
    torch.set_num_threads(1)
    detect("kept", *STORES[store])
    relabel("same")
    assert labels("same") == labels("kept")
    for name, change in CHANGES.items():
        detect(name, *STORES[store], *change)
        relabel(f"re-{name}", *change)
        assert labels(f"re-{name}") == labels(name), name
        if name in ("none", "max-det"):  # of random weights one name is the best nearly everywhere
            assert labels(name) != labels("kept"), name


def test_relabel__by_default_with_the_runs_own_names_and_thresholds(folder: Path) -> None:
    detect("kept")
    vocabulary = Path("kept/vocabulary.yaml")
    vocabulary.write_text(vocabulary.read_text().replace("0.25", "0.75"))
    relabel("re", "--nms", "none")
    assert Path("re/vocabulary.yaml").read_text() == vocabulary.read_text()
    before, after = (read_run(Path(out), "labelling") for out in ("kept", "re"))
    changed = {"nms": "none", "regions_of": before["fingerprint"]}
    assert after["settings"] == before["settings"] | changed
    assert after["arguments"] == before["arguments"]  # sources, and what the model has seen


def test_relabel__needs_no_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detect("kept")
    shutil.rmtree("photos")
    capsys.readouterr()
    relabel("re", "--classes", "pear", "--json")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["images"] == 3
    assert "Next: vildcli export re --to coco" in shown.err


def test_relabel__of_a_run_without_regions(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", "photos", "--model", "model.safetensors", "--regions", "5"]
    assert run([*command, "--classes", "apple", "--out", "bare", "--offline"]) == 0
    capsys.readouterr()
    assert run(["relabel", "bare", "--out", "re"]) == 1
    assert capsys.readouterr().err == (
        "Error: bare kept no region embeddings.\nHint: Run detect with --keep-regions.\n"
    )
