"""What a person sees while and after a command runs: messages, tables, progress; on stderr.

The one importer of rich. Data for other programs goes to stdout through `click.echo` in the
commands. Tables sent to a pipe are plain and never cut; progress bars vanish where stderr is no
terminal. After `log_as("json")` every line of stderr is one JSON object instead.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar
from rich.table import Table

_PLAIN_WIDTH = 10_000  # no line of a pipe is ever folded
_SILENCE = {"text": 60.0, "json": 10.0}  # seconds after which progress is told in any case
LogFormat = Literal["text", "json"]
_format: LogFormat = "text"


def log_as(kind: LogFormat) -> None:
    """Say everything from here on for people, or as one JSON object a line."""
    global _format
    _format = kind


def log_event(event: str, **facts: object) -> None:
    """Write one line of a JSON log; where people read, nothing."""
    if _format == "json":
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": now, **facts}, ensure_ascii=False)
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _console() -> Console:
    terminal = sys.stderr.isatty()
    return Console(stderr=True, width=None if terminal else _PLAIN_WIDTH, highlight=False)


def program() -> str:
    """How this program was called, so that a suggested command can be pasted."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("vildcli", "__main__.py"):
        return "python -m vildcli"
    if called.name != "vildcli" or shutil.which("vildcli") == str(called):
        return "vildcli"
    return os.path.relpath(called)


def say(message: str = "") -> None:
    if _format == "json":
        log_event("message", text=message)
        return
    _console().print(escape(message), soft_wrap=True)


def warn(message: str) -> None:
    if _format == "json":
        log_event("warning", text=message)
        return
    _console().print(f"[yellow]Warning:[/yellow] {escape(message)}", soft_wrap=True)


def show_error(message: str, hint: str | None) -> None:
    if _format == "json":
        log_event("error", text=message, hint=hint)
        return
    console = _console()
    console.print(f"[bold red]Error:[/bold red] {escape(message)}", soft_wrap=True)
    if hint:
        console.print(f"[bold]Hint:[/bold] {escape(hint)}", soft_wrap=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; later columns are right-aligned when their first value is a number."""
    body = [list(row) for row in rows]
    if _format == "json":
        table = [dict(zip(columns, row, strict=True)) for row in body]
        log_event("table", title=title, rows=table)
        return
    console = _console()
    if not console.is_terminal:
        console.print(escape("\n".join(_plain_lines(title, columns, body))))
        return
    drawn = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        number = bool(body) and isinstance(body[0][i], (int, float))
        drawn.add_column(column, justify="right" if number else "left")
    for row in body:
        drawn.add_row(*(escape(_shown(value)) for value in row))
    console.print(drawn)


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _plain_lines(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [list(columns), *([_shown(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return [title, *lines]


class Advance(Protocol):
    """Moves a progress bar on and may change its note; `facts` are the note of a JSON log."""

    def __call__(
        self,
        steps: int = 1,
        note: str | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None: ...


# What `progress` is, for functions that show several bars one after the other.
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """A progress bar on a terminal; elsewhere a plain line at each tenth, and once a minute."""
    console = _console()
    if _format == "json" or not console.is_terminal:
        yield _told_progress(title, total)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(max(10, min(40, console.width - 70))),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with ProgressBar(*columns, console=console) as bar:
        task = bar.add_task(escape(title), total=total, note="")

        def advance(
            steps: int = 1,
            note: str | None = None,
            facts: Mapping[str, object] | None = None,
        ) -> None:
            bar.update(task, advance=steps)
            if note is not None:
                bar.update(task, note=escape(note))

        yield advance


def _told_progress(title: str, total: int | None) -> Advance:
    done, shown = 0, 0
    told = time.monotonic()

    def advance(
        steps: int = 1,
        note: str | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        nonlocal done, shown, told
        done += steps
        tenth = done * 10 // total if total else 0
        if tenth <= shown and time.monotonic() - told < _SILENCE[_format]:
            return
        shown, told = tenth, time.monotonic()
        if _format == "json":
            log_event("progress", what=title, done=done, total=total, **(facts or {}))
            return
        counted = f"{done}/{total}" if total else str(done)
        say(f"{title}: {counted}" + (f"  {note}" if note else ""))

    return advance
