"""Files and folders of an export: whole or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vildcli.errors import RunError
from vildcli.runs import write_atomically

KIND = "export"


def write_file(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `out`, then rename it into place of what is there.

    Raises:
        RunError: it cannot be written.
    """
    with _explained(out):
        write_atomically(out, write)


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}.", hint="Choose another --out."
        ) from error
