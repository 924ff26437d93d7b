"""`vildcli detect --devices`: one run, several processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from shared_run import draw_noise, parts
from tiny_student import save_clip, save_student

from vildcli.cli import run
from vildcli.labelling.records import part_path


@pytest.mark.slow
def test_devices__write_what_one_device_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vildcli"])
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    save_student(tmp_path / "model.safetensors", save_clip(tmp_path / "clip"))
    draw_noise(tmp_path / "photos", 19)
    command = ["detect", "photos", "--model", "model.safetensors", "--classes", "apple, plum"]
    command += ["--regions", "8", "--offline", "--keep-regions"]
    assert run([*command, "--out", "one", "--device", "cpu"]) == 3
    capsys.readouterr()
    assert run([*command, "--out", "two", "--devices", "cpu,cpu", "--json"]) == 3
    shown = capsys.readouterr()
    assert parts(Path("two")) == parts(Path("one"))
    assert json.loads(shown.out)["labelled"] == 20
    assert "Starting two: 21 images to label in 2 units." in shown.err
    assert "Labelling: 21/21  " in shown.err
    one, two = (json.loads(Path(name, "run.json").read_text()) for name in ("one", "two"))
    assert one["fingerprint"] == two["fingerprint"]
    # So that either goes on with what the other began.
    part_path(Path("two"), "images", 1).unlink()
    assert run([*command, "--out", "two", "--device", "cpu"]) == 3
    assert parts(Path("two")) == parts(Path("one"))
