"""Rows of docs/performance.json and docs/results.json: what came out, on what, by which command.

A script that records is run as a module from the project's root, `python -m benchmarks.NAME`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from vildcli import console
from vildcli.environment import hardware
from vildcli.runs import write_json

__all__ = [
    "PERFORMANCE",
    "RESULTS",
    "Results",
    "Row",
    "command_line",
    "hardware",
    "print_heading",
    "record",
]
PERFORMANCE = Path(__file__).parents[1] / "docs" / "performance.json"
RESULTS = PERFORMANCE.with_name("results.json")
Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table of docs/performance.md.

    Attributes:
        item: the section: a key of ITEMS in docs/build_performance.py ("detect", "relabel", …).
        row: who was measured ("vild-ensemble", "torchvision v2", "the PIL loop").
        parameters: what was asked for, the same words in all rows of an item ("names", "regions",
            "masks", "images", "precision").
        measured: what came out; the unit is the last word of the key ("score ms", "peak MiB",
            "images/s", "ratio").
        hardware, date, command: as `hardware`, today and `command_line` say it.
        note: what a reader must know ("random weights, beside other jobs").
    """

    item: str
    row: str
    parameters: Mapping[str, Value]
    measured: Mapping[str, Value]
    hardware: str
    command: str
    note: str = ""
    date: str = field(default_factory=lambda: date.today().isoformat())


def record(rows: Sequence[Row], path: Path = PERFORMANCE) -> None:
    """Add the rows to the file; equal item, row, parameters and hardware replace what was there.

    Two scripts may record at a time: the folder is locked between reading and renaming.
    """
    fresh = {_key(row): row for row in map(asdict, rows)}
    with _locked(path.parent):
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        merged = {_key(row): row for row in there} | fresh
        write_json(path, list(merged.values()))


@dataclass(frozen=True, slots=True)
class Results:
    """Rows of docs/results.json, of one script; the same command later goes on where it stopped.

    Attributes:
        module: the script, "benchmarks.ezsd".
        world: that all its rows are of.
    """

    path: Path
    module: str
    world: str

    def has(self, **wanted: Value) -> bool:
        """Whether a row of those values was measured."""
        wanted["world"] = self.world
        return any(all(row.get(k) == v for k, v in wanted.items()) for row in self._rows())

    def once(self, measure: Callable[[], Mapping[str, Any]], **of: Value) -> None:
        """Measure a row unless it is there."""
        if not self.has(**of):
            self.add(measure(), **of)

    def add(self, measured: Mapping[str, Any], **of: Value) -> None:
        """Add what was measured of a row.

        Args:
            of: what tells it from the others: `row`, `seed`, `steps`, …
        """
        import torch  # not for those that start processes and time what they import

        row = {
            **of,
            "world": self.world,
            **measured,
            "hardware": hardware("cuda" if torch.cuda.is_available() else "cpu"),
            "date": date.today().isoformat(),
            "command": command_line(self.module),
        }
        with _locked(self.path.parent):
            write_json(self.path, [*self._rows(), row])
        console.say(f"{', '.join(map(str, of.values()))}: {dict(measured)}")

    def _rows(self) -> list[dict[str, Any]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else []


def command_line(module: str) -> str:
    """How this script was called, to be pasted: `python -m benchmarks.growth --images 500`."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def print_heading(module: str, device: str = "cpu") -> None:
    """What every table of a benchmark stands below: when, on what, and by which command."""
    import torch  # as above

    print(f"{date.today()}, {hardware(device)}, torch {torch.__version__}")
    print(command_line(module))


def _key(row: Mapping[str, object]) -> str:
    return json.dumps([row[k] for k in ("item", "row", "parameters", "hardware")], sort_keys=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held by the open folder itself: nothing stays behind when the process is killed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
