from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_builder import build_run

from vildcli.cli import run


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return build_run(tmp_path / "run", tmp_path / "photos")


def test_report__into_the_run_again_and_again(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(labelled)]) == 0
    assert run(["report", str(labelled), "--json", "--categories", "1", "--conf", "0.1"]) == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["out"] == str((labelled / "report.html").absolute())
    assert (values["labels"], values["categories"], values["pictured"]) == (5, 3, 1)
    assert "4 labels on 4 images; pictures of 3 of 3 categories." in err
    assert f"Wrote {labelled / 'report.html'} (0.1 MiB)" in err


def test_report__another_file_is_not_lost(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine")
    assert run(["report", str(labelled), "--out", str(out)]) == 1
    assert capsys.readouterr().err == (
        f"Error: {out} exists.\nHint: Choose another --out, or --force to overwrite it.\n"
    )
    assert out.read_text() == "mine"
    assert run(["report", str(labelled), "--out", str(out), "--force"]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_report__images_that_have_moved(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert run(["report", str(labelled)]) == 0
    err = capsys.readouterr().err
    assert "Warning: 3 images could not be shown. a.png: cannot be read" in err
    assert "Name the folder that the images moved to as --images." in err
    assert run(["report", str(labelled), "--images", str(tmp_path / "moved")]) == 0
    assert "Warning" not in capsys.readouterr().err


def test_report__of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path)]) == 1
    assert f"Error: {tmp_path} is not a labelling run: it has no run.json." in (
        capsys.readouterr().err
    )
