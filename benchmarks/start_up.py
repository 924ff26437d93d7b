"""How long a command takes to start, beside Python itself and a bare `import click`.

    python -m benchmarks.start_up --out docs/performance.json

Turns alternate; medians by the clock and of CPU time. What is imported is counted too: with
`python -X importtime -m vildcli --help` one sees which import takes how long.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.recording import Row, command_line, hardware, record

COUNT = "import sys; print(len(sys.modules))"
RUN = "from vildcli.cli import run; run({})"
CONTENDERS: Mapping[str, str] = {
    "python": "",
    "import click": "import click",
    "vildcli --help": RUN.format(["--help"]),
    "vildcli export --help": RUN.format(["export", "--help"]),
    "vildcli detect --help": RUN.format(["detect", "--help"]),
    "import torch": "import torch",
}
YARDSTICK = "import click"


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(1 + given.turns):
        for name, code in CONTENDERS.items():
            taken[name].append(_start(code))
    rows = [_row(name, given, taken) for name in CONTENDERS]
    for row in rows:
        print(f"{row.row:24}" + ", ".join(f"{value} {key}" for key, value in row.measured.items()))
    if given.out:
        record(rows, given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def _start(code: str) -> tuple[float, float]:
    """Seconds by the clock and of the CPU."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _modules(code: str) -> int:
    """How many modules are there at the end."""
    command = [sys.executable, "-c", f"{code}\n{COUNT}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(said.split()[-1])


def _row(
    name: str, given: argparse.Namespace, taken: Mapping[str, Sequence[tuple[float, float]]]
) -> Row:
    def median(who: str, kind: int) -> float:
        return statistics.median(seconds[kind] for seconds in taken[who][1:])

    return Row(
        item="start_up",
        row=name,
        parameters={"turns": given.turns},
        measured={
            "start ms": round(median(name, 0) * 1e3, 1),
            "CPU ms": round(median(name, 1) * 1e3, 1),
            "ratio": round(median(name, 0) / median(YARDSTICK, 0), 2),
            "CPU ratio": round(median(name, 1) / median(YARDSTICK, 1), 2),
            "modules": _modules(CONTENDERS[name]),
        },
        hardware=hardware(),
        command=command_line("benchmarks.start_up"),
        note=given.note,
    )


if __name__ == "__main__":
    main()
