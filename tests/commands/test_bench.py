"""`vildcli bench`: a table of stages, one of numbers of names, and the same as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_student import save_clip, save_student

from vildcli.cli import run
from vildcli.commands import bench
from vildcli.labelling import stage_times
from vildcli.labelling.operations import Rates


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small detector, on a machine whose rates are known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vildcli", "bench", "--json"])
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench, "RANDOM_ARCHITECTURE", "small")
    monkeypatch.setattr(stage_times, "measure_rates", lambda device, dtype: Rates(1e11, 1e10))


def said(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict[str, Any], list[str]]:
    """JSON of stdout, lines of stderr."""
    assert run(["bench", "--json", "--device", "cpu", *options]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err.splitlines()


def test_bench__of_random_weights(capsys: pytest.CaptureFixture[str]) -> None:
    result, lines = said(capsys, "--names", "70,9", "--regions", "20")
    assert lines[0] == f"Warning: {bench.RANDOM}"
    table = lines[lines.index("An image, stage by stage") + 1 :]
    assert table[0].split("  ")[0] == "stage"
    forward = ["canvas", "backbone", "proposals", "region heads", "masks"]
    stages = [line.split("  ")[0] for line in table[1:10]]
    assert stages == ["decode", *forward, "score", "score", "write"]
    assert [line.split()[1] for line in table[7:9]] == ["9", "70"]
    assert table[10] == "By number of names"
    assert [line.split()[0] for line in table[11:14]] == ["names", "9", "70"]
    assert result["weights"] == "random, small"
    assert result["command"] == "vildcli bench --json"
    assert (result["turns"], result["images"], result["precision"]) == (5, 1, "fp32")
    assert [stage["stage"] for stage in result["stages"]] == [
        "decode",
        *forward,
        "score",
        "score",
        "write",
    ]
    assert result["peak_rss_mib"] > 10
    assert result["rates"]["rest"] == {"flops": 1e11, "bytes": 1e10}
    (nine, seventy) = result["names"]
    known = sum(s["seconds"] for s in result["stages"] if s["names"] in (None, 9))
    assert (nine["names"], seventy["names"]) == (9, 70)
    assert nine["seconds"] == pytest.approx(known)


def test_bench__of_a_model_its_names_and_photographs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_student(tmp_path / "model.safetensors", save_clip(tmp_path / "clip"))
    Path("photos").mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
    Path("names.txt").write_text("apple\npear\nplum\n")
    given = ("--model", "model.safetensors", "--vocab", "names.txt", "--offline")
    result, lines = said(capsys, "photos", *given, "--images", "2", "--regions", "10")
    assert not any("RANDOM" in line for line in lines)
    assert result["weights"] == "model.safetensors"
    assert (result["images"], result["source"]) == (2, "photos")
    assert [row["names"] for row in result["names"]] == [3]
    assert 0 < result["regions"] <= 10


def test_bench__a_vocabulary_without_a_model_is_its_number_of_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("names.txt").write_text("apple\npear\n")
    result, _ = said(capsys, "--vocab", "names.txt", "--regions", "5")
    assert [row["names"] for row in result["names"]] == [2]


def test_bench__refuses_a_closed_set_random_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clip = save_clip(tmp_path / "clip")
    save_student(tmp_path / "model.safetensors", clip, "supervised")
    assert run(["bench", "--model", "model.safetensors", "--device", "cpu"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Error: model.safetensors knows only the names that it was trained on.",
        "Hint: Give some of them as --vocab V, and no --names.",
    ]


def test_bench__without_images(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run(["bench", "empty", "--device", "cpu"]) == 2
    assert "Error: No image found in empty" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["0", "a,b", "80,-1", ""])
def test_bench__names_are_numbers(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--names", names]) == 2
    assert f"{names!r} is not a list of numbers such as 80,1203." in capsys.readouterr().err
