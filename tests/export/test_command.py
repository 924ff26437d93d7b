from __future__ import annotations

import json

import pytest
from run_builder import build_run

from vildcli.cli import run as vildcli


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "run", tmp_path / "photos")


def test_export__default_out_and_next_command(run, capsys):
    assert vildcli(["export", str(run)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "4 labels on 3 images, 2 below their thresholds.",
        "1 failed images are left out.",
        f"Wrote {run / 'coco.json'}",
        f"Next: vildcli review {run}",
    ]
    assert len(json.loads((run / "coco.json").read_text())["annotations"]) == 4


def test_export__existing_file_needs_force(run, tmp_path, capsys):
    out = tmp_path / "coco.json"
    out.write_text("mine")
    assert vildcli(["export", str(run), "--out", str(out)]) == 1
    assert out.read_text() == "mine"
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {out} exists.",
        "Hint: Choose another --out, or --force to overwrite it.",
    ]
    assert vildcli(["export", str(run), "--out", str(out), "--force"]) == 0
    assert out.read_text() != "mine"


def test_export__json(run, tmp_path, capsys):
    out = tmp_path / "coco.json"
    assert vildcli(["export", str(run), "--out", str(out), "--conf", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out),
        "images": 3,
        "failed": 1,
        "labels": 6,
        "hidden": 0,
        "units_done": 2,
        "units_total": 2,
    }


def test_export__incomplete_run_warns(tmp_path, capsys):
    run = build_run(tmp_path / "run", tmp_path / "photos", finished=1)
    assert vildcli(["export", str(run)]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"Warning: {run} is not complete: 1 of 2 units are done."


def test_export__unknown_format(run, capsys):
    assert vildcli(["export", str(run), "--to", "pascal"]) == 2
    assert (
        "'pascal' is none of: coco, lvis, yolo, voc, labelstudio, cvat, csv, parquet, fiftyone."
        in capsys.readouterr().err
    )


def test_export__not_a_run(tmp_path, capsys):
    assert vildcli(["export", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {tmp_path} is not a labelling run: it has no run.json.",
        "Hint: Name the folder that was given as --out.",
    ]
