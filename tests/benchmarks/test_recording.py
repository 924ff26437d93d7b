from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.recording import Results, Row, command_line, hardware, record

ROW = Row(
    item="detect",
    row="vild",
    parameters={"names": 80, "regions": 300},
    measured={"total ms": 12.5},
    hardware="2 cores, Some CPU",
    command="python -m benchmarks.throughput",
    date="2026-11-21",
)


def rows_of(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(path.read_text())
    return rows


def test_record__keeps_what_was_there_and_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "performance.json"
    other = replace(ROW, parameters={"names": 1203, "regions": 300})
    elsewhere = replace(ROW, hardware="a GPU", measured={"total ms": 1})
    record([ROW, other], path)
    record([elsewhere, replace(ROW, measured={"total ms": 11.5})], path)
    assert [(r["parameters"], r["hardware"], r["measured"]) for r in rows_of(path)] == [
        ({"names": 80, "regions": 300}, "2 cores, Some CPU", {"total ms": 11.5}),
        ({"names": 1203, "regions": 300}, "2 cores, Some CPU", {"total ms": 12.5}),
        ({"names": 80, "regions": 300}, "a GPU", {"total ms": 1}),
    ]


def _record_five(path: Path, name: str) -> None:
    for i in range(5):
        record([replace(ROW, row=name, parameters={"names": i})], path)


def test_record__of_two_scripts_at_a_time_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "performance.json"
    start = multiprocessing.get_context("fork").Process
    writers = [start(target=_record_five, args=(path, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(rows_of(path)) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["performance.json"]


def test_results__are_measured_once(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", "benchmarks.ezsd", "shapes")
    asked: list[str] = []

    def measure() -> dict[str, float]:
        asked.append("vild")
        return {"AP": 11.9}

    for _ in range(2):
        results.once(measure, row="vild", seed=0)
    assert len(asked) == 1
    assert not replace(results, world="emoji").has(row="vild", seed=0)
    results.once(measure, row="vild", seed=1)
    assert [(r["row"], r["seed"], r["world"], r["AP"]) for r in rows_of(results.path)] == [
        ("vild", 0, "shapes", 11.9),
        ("vild", 1, "shapes", 11.9),
    ]
    assert rows_of(results.path)[0]["hardware"] == hardware()


def test_hardware__says_how_many_cores_of_what() -> None:
    cores, _, processor = hardware().partition(" cores, ")
    assert all(word.isdigit() for word in cores.split(" of "))
    assert processor


def test_command_line__can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/growth.py", "--folder", "my photos"])
    said = "python -m benchmarks.growth --folder 'my photos'"
    assert command_line("benchmarks.growth") == said
