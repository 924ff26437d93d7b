from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from class_folders import COLOURS, draw, stub
from tiny_student import save_clip
from torch import Tensor

from vildcli import cli
from vildcli.console import progress
from vildcli.errors import DataError, NothingToDoError
from vildcli.selection.classification import (
    ChosenImages,
    Inversion,
    Task,
    choose_images,
    embed_task,
)
from vildcli.selection.image_folders import embed_folder, find_classes, find_pool
from vildcli.selection.last_layers import HeadPass
from vildcli.selection.select import Budget, SelectionOptions


@pytest.fixture
def choose(tmp_path: Path) -> Callable[..., ChosenImages]:
    pool = draw(tmp_path / "pool", 4, 1, classes=False)
    labelled, held = draw(tmp_path / "labelled", 3, 2), draw(tmp_path / "held", 3, 3)

    def run(strategy: str, budget: int = 4, evaluation: Path | None = None) -> ChosenImages:
        options = SelectionOptions(strategy, Budget(images=budget))  # type: ignore[arg-type]
        evaluated = None if evaluation is None else find_pool(evaluation)
        task = Task(find_pool(pool), find_classes(labelled), find_classes(held), evaluated)
        known = embed_task(task, stub(), tmp_path / "work", progress=progress)
        return choose_images(task, known, options)

    return run


@pytest.mark.parametrize("strategy", ["isal", "entropy", "margin", "random", "coreset", "hybrid"])
def test_choose_images__ranks_the_pool(choose: Callable[..., ChosenImages], strategy: str) -> None:
    found = choose(strategy)
    assert len(found.selection.chosen) == 4
    assert len(found.selection.others) == 8
    assert found.accuracy is not None
    assert found.accuracy > 0.5
    if strategy not in ("coreset", "hybrid"):
        rows = [*found.selection.chosen, *found.selection.others]
        values = [one.value for one in rows]
        assert values == sorted(values, reverse=True)


def test_choose_images__leaves_out_what_is_labelled_already(
    choose: Callable[..., ChosenImages], tmp_path: Path
) -> None:
    twin = tmp_path / "pool" / "copy.png"
    twin.write_bytes((tmp_path / "labelled" / "red" / "0.png").read_bytes())
    found = choose("random", budget=99)
    assert found.skipped == 1
    assert "copy.png" not in {one.candidate.image.path for one in found.selection.chosen}


def test_choose_images__lists_what_cannot_be_read(
    choose: Callable[..., ChosenImages], tmp_path: Path
) -> None:
    (tmp_path / "pool" / "bad.png").write_bytes(b"no image")
    found = choose("isal", budget=99)
    assert [c.image.path for c in found.selection.left_out] == ["bad.png"]
    assert len(found.selection.chosen) == 12


def test_choose_images__refuses_shared_images(
    choose: Callable[..., ChosenImages], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        choose("isal", evaluation=tmp_path / "held")
    assert str(caught.value) == (
        f"9 of the 9 images of {tmp_path}/held are in the evaluation set {tmp_path}/held: choosing "
        "by it makes what is measured on it afterwards too good."
    )
    twin = tmp_path / "pool" / "copy.png"
    twin.write_bytes((tmp_path / "held" / "red" / "0.png").read_bytes())
    with pytest.raises(DataError) as caught:
        choose("isal")
    assert str(caught.value) == (
        f"1 of the 9 images of {tmp_path}/held are in the pool {tmp_path}/pool."
    )


def test_choose_images__refuses_before_it_embeds(
    choose: Callable[..., ChosenImages], tmp_path: Path
) -> None:
    twin = tmp_path / "pool" / "copy.png"
    twin.write_bytes((tmp_path / "held" / "red" / "0.png").read_bytes())
    with pytest.raises(DataError):
        choose("isal")
    assert not (tmp_path / "work").exists()
    # Labelled already, it is nothing to choose.
    (tmp_path / "labelled" / "red" / "copy.png").write_bytes(twin.read_bytes())
    assert choose("isal").skipped == 1


def test_choose_images__reports_lissas_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = draw(tmp_path / "pool", 2, 1, classes=False)
    labelled, held = draw(tmp_path / "labelled", 2, 2), draw(tmp_path / "held", 2, 3)
    product, calls = HeadPass.hessian_product, []

    def broken(self: HeadPass, direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        calls.append(1)
        found = product(self, direction)
        return {k: v * float("nan") for k, v in found.items()} if len(calls) % 10 == 0 else found

    monkeypatch.setattr(HeadPass, "hessian_product", broken)
    task = Task(find_pool(pool), find_classes(labelled), find_classes(held))
    known = embed_task(task, stub(), tmp_path / "work", progress=progress)
    options = SelectionOptions("isal", Budget(images=2))
    found = choose_images(task, known, options, Inversion("lissa", chains=2, depth=20))
    assert found.resets == 4  # of 40 steps


def test_choose_images__nothing_left(tmp_path: Path) -> None:
    labelled = draw(tmp_path / "labelled", 2, 2)
    task = Task(find_pool(labelled), find_classes(labelled), None)
    with pytest.raises(NothingToDoError) as caught:
        embed_task(task, stub(), tmp_path / "work", progress=progress)
    assert str(caught.value) == f"{labelled} has no image left to choose."


def test_embed_folder__goes_on_where_it_was_killed(tmp_path: Path) -> None:
    folder = find_pool(draw(tmp_path / "pool", 2, 1, classes=False))
    calls: list[int] = []
    first = embed_folder(folder, stub(calls), tmp_path / "work", progress=progress)
    again = embed_folder(folder, stub(calls), tmp_path / "work", progress=progress)
    assert calls == [6]
    assert torch.equal(first.embeddings, again.embeddings)
    torch.testing.assert_close(first.embeddings.norm(dim=1), torch.ones(6))
    (tmp_path / "pool" / "red0.png").write_bytes((tmp_path / "pool" / "red1.png").read_bytes())
    embed_folder(folder, stub(calls), tmp_path / "work", progress=progress)
    assert calls == [6, 6]


def test_find_classes__says_what_is_wrong(tmp_path: Path) -> None:
    draw(tmp_path, 1, 0)
    assert set(find_classes(tmp_path).classes) == set(COLOURS)
    (tmp_path / "loose.png").write_bytes((tmp_path / "red" / "0.png").read_bytes())
    with pytest.raises(DataError) as caught:
        find_classes(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has images in no class folder: 1; the first is loose.png."
    )
    with pytest.raises(DataError) as caught:
        find_classes(draw_one(tmp_path / "one"))
    assert str(caught.value) == f"{tmp_path}/one has the class red alone."


def draw_one(folder: Path) -> Path:
    draw(folder, 1, 0)
    for name in ("green", "blue"):
        (folder / name / "0.png").unlink()
    return folder


def test_select__classification_is_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "pool", 2, 1, classes=False)
    draw(tmp_path / "labelled", 2, 2)
    draw(tmp_path / "held", 2, 3)
    clip = save_clip(tmp_path / "clip")
    out = tmp_path / "next.txt"
    folders = ["--classification", str(tmp_path / "labelled"), "--reference"]
    given = ["--strategy", "isal", "--budget", "2", "--out", str(out), "--teacher", clip]
    pool, rest = str(tmp_path / "pool"), [*given, "--json", "--offline"]
    capsys.readouterr()
    assert cli.run(["select", pool, *folders, str(tmp_path / "held"), *rest]) == 0
    said, shown = capsys.readouterr()
    found = json.loads(said)
    assert (found["chosen"], found["candidates"], found["left_out"]) == (2, 6, 0)
    assert "Accuracy on the reference set before the choice: " in shown
    assert re.search(r"\nimage +value +likeliest +probability\n", shown)
    assert "2 of 6 images chosen, about 0 minutes of work; 0 are labelled already." in shown
    assert all(Path(line).is_file() for line in out.read_text().splitlines())
    assert json.loads(out.with_suffix(".json").read_text())["folder"] == pool
    assert (found["resets"], found["curve"]) == (0, None)
    draw(tmp_path / "odd", 1, 4)
    (tmp_path / "odd" / "red").rename(tmp_path / "odd" / "violet")
    assert cli.run(["select", pool, *folders, str(tmp_path / "odd"), *rest, "--force"]) == 1
    assert (
        f"Error: {tmp_path}/odd has classes that {tmp_path}/labelled lacks: violet.\n"
        in capsys.readouterr().err
    )
    assert cli.run(["select", pool, *folders[:2], *rest, "--force"]) == 2
    assert "isal needs --reference DIR." in capsys.readouterr().err
    assert cli.run(["select", pool, *folders[:2], *rest, "--force", "--curve"]) == 2
    assert cli.run(["select", pool, *rest, "--force", "--curve"]) == 2
    assert "--curve is for --classification." in capsys.readouterr().err
