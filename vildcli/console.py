"""What a person sees while and after a command runs: messages, tables, progress; on stderr.

The one importer of rich. Data for other programs goes to stdout through `click.echo` in the
commands. Tables sent to a pipe are plain and never cut; progress bars vanish where stderr is no
terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

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
    _console().print(escape(message), soft_wrap=True)


def warn(message: str) -> None:
    _console().print(f"[yellow]Warning:[/yellow] {escape(message)}", soft_wrap=True)


def show_error(message: str, hint: str | None) -> None:
    console = _console()
    console.print(f"[bold red]Error:[/bold red] {escape(message)}", soft_wrap=True)
    if hint:
        console.print(f"[bold]Hint:[/bold] {escape(hint)}", soft_wrap=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; later columns are right-aligned when their first value is a number."""
    body = [list(row) for row in rows]
    console = _console()
    if not console.is_terminal:
        console.print(escape("\n".join(_plain_lines(title, columns, body))))
        return
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        number = bool(body) and isinstance(body[0][i], (int, float))
        table.add_column(column, justify="right" if number else "left")
    for row in body:
        table.add_row(*(escape(_shown(value)) for value in row))
    console.print(table)


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
    """Moves a progress bar on and may change its note."""

    def __call__(self, steps: int = 1, note: str | None = None) -> None: ...


# What `progress` is, for functions that show several bars one after the other.
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """A progress bar on a terminal; elsewhere a plain line at each tenth."""
    console = _console()
    if not console.is_terminal:
        yield _plain_progress(title, total)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with ProgressBar(*columns, console=console) as bar:
        task = bar.add_task(escape(title), total=total, note="")

        def advance(steps: int = 1, note: str | None = None) -> None:
            bar.update(task, advance=steps)
            if note is not None:
                bar.update(task, note=escape(note))

        yield advance


def _plain_progress(title: str, total: int | None) -> Advance:
    done, shown = 0, 0

    def advance(steps: int = 1, note: str | None = None) -> None:
        nonlocal done, shown
        done += steps
        tenth = done * 10 // total if total else 0
        if tenth > shown:
            shown = tenth
            say(f"{title}: {done}/{total}" + (f"  {note}" if note else ""))

    return advance
