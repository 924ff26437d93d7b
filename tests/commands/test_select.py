from __future__ import annotations

import json
from pathlib import Path

import pytest
from choosable_run import Seen, choosable_run, write_annotations

from vildcli import cli
from vildcli.labelling.sources import find_images

IMAGES = (
    Seen("sure.png", (0.95,)),
    Seen("deep/torn.png", (0.5, 0.9)),
    Seen("nothing.png", (0.05,)),
)


def select(run: Path, out: Path, *more: object) -> int:
    rest = [*map(str, more)]
    return cli.run(["select", str(run), "--budget", "2", "--out", str(out), *rest])


def test_select__writes_paths_scores_and_the_view(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = choosable_run(tmp_path, IMAGES), tmp_path / "next.txt"
    assert select(run, out, "--strategy", "entropy", "--json") == 0
    said, shown = capsys.readouterr()
    photos = tmp_path / "photos"
    assert out.read_text().splitlines() == [f"{photos}/deep/torn.png", f"{photos}/sure.png"]
    # the list is a source of detect
    assert {i.path.rpartition("/")[2] for i in find_images([str(out)]).images} == {
        *("torn.png", "sure.png")
    }
    assert json.loads((run / "selection.json").read_text()) == {
        "strategy": "entropy",
        "image_ids": [2, 1],
    }
    scores = json.loads(out.with_suffix(".json").read_text())
    assert scores["format"] == 1
    assert scores["chosen"][0] == {
        "rank": 1,
        "image_id": 2,
        "source": "photos",
        "path": "deep/torn.png",
        "value": pytest.approx(1),
        "boxes": 2,
        "per_box": pytest.approx(0.5),
        "minutes": 0.333,
        "per_minute": pytest.approx(3),
    }
    assert scores["left_out"] == [3]
    assert (tmp_path / "next.left-out.txt").read_text() == f"{photos}/nothing.png\n"
    assert json.loads(said) == {
        "run": str(run),
        "strategy": "entropy",
        "candidates": 3,
        "reviewed": 0,
        "chosen": 2,
        "left_out": 1,
        "minutes": 0.6,
        "paths": str(out),
        "scores": str(out.with_suffix(".json")),
    }
    assert "Warning: 1 images have nothing to rank them by: " in shown
    assert f"Next: vildcli review {run}" in shown


def test_select__says_that_a_run_is_not_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = choosable_run(tmp_path, IMAGES, finished=1)
    assert select(run, tmp_path / "next.txt", "--strategy", "random") == 0
    assert f"Warning: {run} is not complete: 1 of 2 units are done." in capsys.readouterr().err


def test_select__takes_a_reference_set_that_the_strategy_does_not_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = choosable_run(tmp_path, IMAGES)
    held = write_annotations(tmp_path / "held.json", ["elsewhere.png"])
    assert select(run, tmp_path / "next.txt", "--strategy", "random", "--reference", held) == 0
    assert "random does not ask --reference; isal does.\n" in capsys.readouterr().err


def test_select__leaves_reviewed_images_out(tmp_path: Path) -> None:
    run, out = choosable_run(tmp_path, IMAGES), tmp_path / "next.txt"
    done = write_annotations(tmp_path / "done.json", ["deep/torn.png"])
    assert select(run, out, "--strategy", "margin", "--reviewed", done) == 0
    assert out.read_text() == f"{tmp_path}/photos/sure.png\n"


def test_select__refuses_before_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = choosable_run(tmp_path, IMAGES), tmp_path / "next.txt"
    assert select(run, out.with_suffix(".json"), "--strategy", "random") == 1
    assert capsys.readouterr().err == (
        f"Error: {tmp_path}/next.json is the list of paths; the scores go to a .json beside it.\n"
        "Hint: Name it next.txt.\n"
    )
    out.write_text("mine")
    assert select(run, out, "--strategy", "random") == 1
    assert capsys.readouterr().err == (
        f"Error: {out} is there already.\nHint: Choose another --out, or give --force.\n"
    )
    assert out.read_text() == "mine"
    assert select(run, out, "--strategy", "random", "--force") == 0


@pytest.mark.parametrize("budget", ["0", "-1", "many", "0%", "101%", "1.5"])
def test_select__a_budget_is_a_number_or_a_share(
    tmp_path: Path, budget: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = choosable_run(tmp_path, IMAGES[:1])
    out = str(tmp_path / "n.txt")
    given = ["--strategy", "random", "--out", out, "--budget", budget]
    assert cli.run(["select", str(run), *given]) == 2
    assert "write a number of images, or a share of them: 100, 5%." in capsys.readouterr().err


def test_select__per_needs_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = choosable_run(tmp_path, IMAGES[:1])
    assert select(run, tmp_path / "n.txt", "--strategy", "coreset", "--per", "box") == 2
    assert "--per box ranks what boxes are worth; coreset asks no box." in capsys.readouterr().err
