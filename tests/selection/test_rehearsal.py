from __future__ import annotations

import json
from pathlib import Path

import pytest
from class_folders import draw, stub
from tiny_student import save_clip

from vildcli import cli
from vildcli.console import progress
from vildcli.errors import DataError
from vildcli.selection.classification import Task, embed_task
from vildcli.selection.image_folders import find_classes
from vildcli.selection.rehearsal import CurvePoint, draw_curve, rehearse
from vildcli.selection.select import Budget, SelectionOptions
from vildcli.selection.strategies import Strategy


def curve_of(folder: Path, strategy: Strategy, budget: int = 3) -> tuple[CurvePoint, ...]:
    task = Task(
        find_classes(folder / "pool"),
        find_classes(folder / "labelled"),
        find_classes(folder / "held"),
        find_classes(folder / "test"),
    )
    options = SelectionOptions(strategy, Budget(images=budget))
    known = embed_task(task, stub(), folder / "work", progress=progress)
    return rehearse(task, known, options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, (name, count) in enumerate((("pool", 3), ("labelled", 1), ("held", 2), ("test", 9))):
        draw(tmp_path / name, count, seed)
    return tmp_path


@pytest.mark.parametrize("strategy", ["isal", "coreset", "random"])
def test_rehearse__until_all_is_labelled(folder: Path, strategy: Strategy) -> None:
    points = curve_of(folder, strategy, budget=4)
    assert [p.labelled for p in points if p.strategy == strategy] == [3, 7, 11, 12]
    assert [p.labelled for p in points if p.strategy == "random"] == [3, 7, 11, 12]
    first, last = ({p.accuracy for p in points if p.labelled == count} for count in (3, 12))
    assert len(first) == len(last) == 1  # the same images, whoever chose them
    assert all(0 <= p.accuracy <= 1 for p in points)


def test_rehearse__uncovers_the_true_classes(folder: Path) -> None:
    before = curve_of(folder, "random", budget=9)[-1]
    assert before.accuracy > 0.6
    pool = folder / "pool"
    for old, new in (("red", "x"), ("green", "red"), ("blue", "green"), ("x", "blue")):
        (pool / old).rename(pool / new)
    assert curve_of(folder, "random", budget=9)[-1].accuracy < 0.4


def test_rehearse__ten_rounds(folder: Path) -> None:
    draw(folder / "pool", 5, 7)
    assert [p.labelled for p in curve_of(folder, "random", 1)] == [*range(3, 14)]


def test_rehearse__refuses_other_classes(folder: Path) -> None:
    (folder / "test" / "red").rename(folder / "test" / "violet")
    with pytest.raises(DataError) as caught:
        curve_of(folder, "random")
    assert str(caught.value) == (f"{folder}/test has classes that {folder}/labelled lacks: violet.")
    assert not (folder / "work").exists()


def test_draw_curve__the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    points = [CurvePoint("isal", 3, 0.5), CurvePoint("isal", 6, 0.75), CurvePoint("random", 3, 0.5)]
    for name in ("a.png", "b.png"):
        draw_curve(points, tmp_path / name)
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert picture == (tmp_path / "b.png").read_bytes()


def test_select__curve(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "next.txt"
    given = ["--classification", f"{folder}/labelled", "--reference", f"{folder}/held"]
    more = ["--strategy", "isal", "--budget", "5", "--out", str(out), "--offline", "--json"]
    rest = [*given, *more, "--teacher", save_clip(folder / "clip"), "--curve"]
    assert cli.run(["select", f"{folder}/pool", *rest]) == 2
    assert "--curve needs --evaluation DIR, which it measures accuracy on." in (
        capsys.readouterr().err
    )
    assert cli.run(["select", f"{folder}/pool", *rest, "--evaluation", f"{folder}/test"]) == 0
    said, shown = capsys.readouterr()
    points = json.loads(said)["curve"]
    assert [(p["strategy"], p["labelled"]) for p in points] == [
        *(("isal", 3), ("isal", 8), ("isal", 12), ("random", 3), ("random", 8), ("random", 12))
    ]
    assert json.loads((folder / "next.json").read_text())["curve"] == points
    assert f"Accuracy on {folder}/test" in shown
    assert "labelled  isal   random" in shown
    assert f"Curve: {folder}/next.png" in shown
    assert (folder / "next.png").is_file()
    assert len(out.read_text().splitlines()) == 5
