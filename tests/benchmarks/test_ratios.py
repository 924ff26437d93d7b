"""The small benchmark of CI sees a loss, and nothing that is none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ratios
from benchmarks.ratios import CASES, RECORD, TURNS, Case, Found, main, measure, table


class Machine:
    """Its clock moves by what work takes: theirs always 6 s, ours by turns as it is told."""

    def __init__(self, ours: Sequence[float]) -> None:
        self.now = 0.0
        self.ours: Iterator[float] = iter(ours)
        self.turns: list[str] = []

    def case(self) -> Case:
        return Case("crops", "a loop", lambda: (self.work_theirs, self.work_ours), lambda: self.now)

    def work_theirs(self) -> None:
        self.turns.append("theirs")
        self.now += 6

    def work_ours(self) -> None:
        self.turns.append("ours")
        self.now += next(self.ours)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ratios.json"
    path.write_text(json.dumps({"hardware": "here", "ratios": {"crops": 4.0, "another": 1.0}}))
    return path


def held_against(
    file: Path,
    ours: Sequence[float],
    monkeypatch: pytest.MonkeyPatch,
    *options: str,
    hardware: str = "here",
) -> Machine:
    machine = Machine(ours)
    monkeypatch.setattr(ratios, "hardware", lambda: hardware)
    monkeypatch.setattr(ratios, "CASES", (machine.case(),))
    monkeypatch.setattr(ratios, "_stay_on_one_core", lambda: None)
    main(["--file", str(file), *options])
    return machine


def turns(*measurements: float) -> list[float]:
    return [seconds for seconds in measurements for _ in range(1 + TURNS)]


def test_measure__takes_turns_and_the_least_after_the_first() -> None:
    machine = Machine([0.1, 3, 2, 4, 5, 6])
    assert measure((machine.work_theirs, machine.work_ours), lambda: machine.now) == 3
    assert machine.turns == ["theirs", "ours"] * 6


def test_main__is_content_with_a_small_loss(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held_against(file, turns(1.9), monkeypatch)  # 3.16 of 4
    assert capsys.readouterr().out.splitlines()[1].split() == [
        *("crops", "a", "loop"),
        *("4.00", "3.16", "-21%"),
    ]


def test_main__an_apparent_loss_is_measured_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = held_against(file, turns(6, 6, 6, 1.5), monkeypatch)
    assert len(machine.turns) == 4 * 2 * (1 + TURNS)


def test_main__a_loss_that_is_seen_every_time_fails(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        held_against(file, turns(6, 3, 4, 6), monkeypatch)
    assert left.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("4.00    2.00     -50%  LOST, seen 4 times")
    assert lines[2] == "Lost more than 25%, or never recorded: crops."


def test_main__shows_a_loss_on_another_machine_and_does_not_judge_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held_against(file, turns(6, 6, 6, 6), monkeypatch, hardware="there")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Recorded on here, this is there: shown, not judged."


def test_main__what_was_never_recorded_fails_at_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(json.dumps({"hardware": "here", "ratios": {"another": 1.0}}))
    with pytest.raises(SystemExit) as left:
        held_against(file, turns(1), monkeypatch)
    assert left.value.code == 1


def test_record__is_the_least_of_three_and_keeps_the_others(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_against(file, turns(2, 3, 1), monkeypatch, "--record")
    content = json.loads(file.read_text())
    assert content["ratios"] == {"crops": 2.0, "another": 1.0}
    assert set(content) == {"hardware", "date", "torch", "command", "ratios"}


def test_table__says_what_was_and_what_is() -> None:
    case = CASES[0]
    lines = table([Found(case, 2.0, 3.0, 1), Found(case, None, 1.5, 1), Found(case, 2.0, 1.4, 4)])
    assert [line.split()[-3:] for line in lines[:3]] == [
        ["recorded", "now", "change"],
        ["2.00", "3.00", "+50%"],
        ["seen", "1", "times"],
    ]
    assert lines[3].endswith("-30%  LOST, seen 4 times")
    assert len({len(line.split("  LOST")[0]) for line in lines}) == 1


def test_record_file__has_every_case_and_says_where_it_was_made() -> None:
    content = json.loads(RECORD.read_text())
    assert set(content["ratios"]) == {case.name for case in CASES}
    assert content["hardware"]
    assert content["command"].startswith("python -m benchmarks.ratios --record")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scoring", "evaluation", "text bank"])
def test_case__is_two_ways_that_run(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    theirs, ours = case.prepare()
    theirs()
    ours()


def test_scoring__both_ways_name_the_regions_alike() -> None:
    loop, ours = ratios._scoring()
    labels: Any = ours()
    best: Any = loop()
    assert labels.category_ids.tolist() == [best[row] + 1 for row in labels.regions.tolist()]
