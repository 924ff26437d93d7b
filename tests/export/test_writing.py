from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from export_run import build_odd_run

from vildcli.cli import run as vildcli
from vildcli.errors import RunError
from vildcli.export.writing import left_behind, write_file, write_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from vildcli.export import writing

def write(folder):
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.1")
    os.kill(os.getpid(), signal.SIGKILL)

out, where = Path(sys.argv[1]), sys.argv[2]
if where == "file":
    def half(path):
        path.write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)
    writing.write_file(out, half)
elif where == "half":
    writing.write_folder(out, {"to": "yolo"}, write)
else:  # between the two renames
    rename = Path.rename
    def renamed(path, target):
        if target == out.resolve():
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)
    Path.rename = renamed
    writing.write_folder(out, {"to": "yolo"}, lambda folder: (folder / "new").touch())
"""


def killed(out: Path, where: str) -> None:
    """Have an export to `out` killed: half way, or as the new folder takes the old one's place."""
    found = subprocess.run([sys.executable, "-c", KILLED, str(out), where], check=False)
    assert found.returncode == -signal.SIGKILL


def fill(name: str) -> Any:
    return lambda folder: (folder / name).touch()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build_odd_run(tmp_path)


def test_write_folder__killed_half_way_leaves_the_older_export(tmp_path: Path) -> None:
    out = tmp_path / "exports" / "yolo"
    write_folder(out, {"to": "yolo"}, fill("old"))
    killed(out, "half")
    assert names(out) == ["old", "run.json"]
    (half,) = left_behind(out)
    assert half.name.startswith(".yolo.")
    assert names(half) == ["labels", "run.json"]
    write_folder(out, {"to": "yolo"}, fill("new"))
    assert names(out) == ["new", "run.json"]


def test_write_folder__killed_between_its_renames_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "exports" / "yolo"
    write_folder(out, {"to": "yolo"}, fill("old"))
    killed(out, "exchange")
    assert not out.exists()

    def broken(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError) as caught:
        write_folder(out, {"to": "yolo"}, broken)
    assert str(caught.value) == f"{out} cannot be written: No space left on device."
    assert names(out) == ["old", "run.json"]
    assert [p.name for p in out.parent.iterdir() if p.name.endswith(".old")] == []


def test_write_folder__removes_what_an_exchange_left_of_the_older_one(tmp_path: Path) -> None:
    out = tmp_path / "yolo"
    write_folder(out, {"to": "yolo"}, fill("new"))
    old = tmp_path / ".yolo.7-0123abcd.old"
    old.mkdir()
    (old / "run.json").write_text("{}")
    write_folder(out, {"to": "yolo"}, fill("newer"))
    assert names(tmp_path) == ["yolo"]
    assert names(out) == ["newer", "run.json"]


def test_left_behind__is_what_exports_of_that_name_left_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "coco.json"
    killed(out, "file")
    others = (
        ".coco.json",
        ".coco.backup.json",
        ".coco-train.1-0123abcd.json",
        "coco.1-0123abcd.json",
    )
    for name in others:
        (tmp_path / name).touch()
    (half,) = left_behind(out)
    assert half.read_text() == "{"
    assert not out.exists()
    assert left_behind(tmp_path / "nowhere" / "coco.json") == []


def test_two_processes__write_beside_each_other(tmp_path: Path, monkeypatch: Any) -> None:
    """Two machines, or two containers, may have the same process ids on one disk."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    seen: list[Path] = []

    def inner(folder: Path) -> None:
        seen.append(folder)
        if len(seen) == 1:
            write_folder(tmp_path / "yolo", {"to": "yolo"}, inner)
        (folder / str(len(list(folder.iterdir())))).touch()

    write_folder(tmp_path / "yolo", {"to": "yolo"}, inner)
    assert len(set(seen)) == 2
    assert names(tmp_path) == ["yolo"]


def test_export__goes_on_after_one_that_was_killed_and_says_what_it_left(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "yolo"
    killed(out, "half")
    assert not out.exists()
    given = ["export", str(run), "--to", "yolo", "--out", str(out)]
    assert vildcli(given) == 0
    (half,) = left_behind(out)
    assert capsys.readouterr().err.splitlines()[-3:-1] == [
        f"Wrote {out}",
        f"Warning: {half} is half an export: delete it, unless one is being written now.",
    ]
    assert vildcli(["export", "--check", str(out)]) == 0


def test_check__of_half_an_export_says_what_is_missing(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    killed(tmp_path / "yolo", "half")
    (half,) = left_behind(tmp_path / "yolo")
    assert vildcli(["export", "--check", str(half)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "run.json says that the export was ended before all was written.",
        f"{half.name} has no data.yaml.",
        f"{half} (yolo): 2 problems.",
    ]


def test_export__out_that_is_somebody_elses_half_folder_stays_as_it_is(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    half = tmp_path / "half"
    (half / "labels").mkdir(parents=True)
    given = ["export", str(run), "--to", "yolo", "--out", str(half), "--force"]
    assert vildcli(given) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {half} is no export that vildcli made, so it is not replaced.",
        "Hint: Choose another --out, or remove it yourself.",
    ]
    assert names(half) == ["labels"]


def test_write_file__killed_leaves_the_older_file(tmp_path: Path) -> None:
    out = tmp_path / "coco.json"
    write_file(out, lambda path: path.write_text(json.dumps({"whole": True})))
    killed(out, "file")
    assert json.loads(out.read_text()) == {"whole": True}
    write_file(out, lambda path: path.write_text("newer"))
    assert out.read_text() == "newer"
