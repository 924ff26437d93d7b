"""What a killed process was writing goes, and what a living one is writing stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vildcli import runs
from vildcli.runs import open_run, write_atomically

KILLED = """
import os, signal, sys
from pathlib import Path
from vildcli.runs import write_atomically

def half(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

write_atomically(Path(sys.argv[1]), half)
"""


def opened(folder: Path) -> str:
    return open_run(folder, kind="labelling", settings={"names": "fruit"})


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_open_run__removes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    assert opened(tmp_path) == "started"
    for name in ("labels/000007.parquet", "plan.parquet", "no-suffix"):
        subprocess.run([sys.executable, "-c", KILLED, tmp_path / name], check=False, timeout=60)
    assert len(names(tmp_path)) == 5  # the run file, three halves, a folder
    assert opened(tmp_path) == "continued"
    assert names(tmp_path) == ["labels", "run.json"]


def test_open_run__leaves_what_a_living_process_is_writing(tmp_path: Path) -> None:
    opened(tmp_path)
    part = tmp_path / "labels" / "000007.parquet"

    def write(path: Path) -> None:
        path.write_text("whole")
        opened(tmp_path)

    write_atomically(part, write)
    assert part.read_text() == "whole"


def test_open_run__leaves_what_another_machine_may_be_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process ids say nothing here; what it has not touched for a day, it will not touch."""
    opened(tmp_path)
    (tmp_path / ".plan.0123abcd-99999999-4567cdef.parquet").touch()
    (tmp_path / ".plan.99999999-4567cdef.parquet").touch()  # as older versions named them
    for name in (".note", ".plan.parquet", ".a.b-7-c.txt", "plan.0123abcd-7-4567cdef.parquet"):
        (tmp_path / name).touch()
    before = names(tmp_path)
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))  # as links to old files are
    opened(tmp_path)
    assert names(tmp_path) == before
    now = time.time()
    monkeypatch.setattr(runs.time, "time", lambda: now + 25 * 3600)
    opened(tmp_path)
    assert set(before) - set(names(tmp_path)) == {
        ".plan.0123abcd-99999999-4567cdef.parquet",
        ".plan.99999999-4567cdef.parquet",
    }
