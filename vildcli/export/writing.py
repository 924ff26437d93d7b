"""Files and folders of an export: whole or not there at all."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from vildcli.errors import RunError
from vildcli.runs import (
    RUN_FILE,
    WRITER_MARK,
    is_run,
    open_run,
    write_atomically,
    write_json,
    writer_mark,
)

KIND = "export"
_OLD = ".old"  # ends the name of what is being replaced
ImageFiles = Literal["link", "copy"]


def write_file(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `out`, then rename it into place of what is there.

    Raises:
        RunError: it cannot be written.
    """
    with _explained(out):
        write_atomically(out, write)


def write_text(out: Path, text: str) -> None:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_file(out, write)


def refuse_existing(written: Sequence[Path]) -> None:
    """Refuse to write over what is there; an empty folder is not.

    Raises:
        RunError: a file or folder of those is there.
    """
    for path in written:
        is_empty_folder = path.is_dir() and not any(path.iterdir())
        if path.exists() and not is_empty_folder:
            raise RunError(
                f"{path} exists.", hint="Choose another --out, or --force to overwrite it."
            )


def write_folder(out: Path, settings: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `out`, then rename it into place of an older export.

    The folder says in its `run.json` that vildcli made it; nothing else is ever replaced.

    Args:
        settings: what the export was made of, for `run.json`.

    Raises:
        RunError: `out` holds something else than an export, or cannot be written.
    """
    out = Path(os.path.realpath(out))  # a link to another disk stays one
    _finish_exchange(out)
    if out.exists() and not _is_replaceable(out):
        raise RunError(
            f"{out} is no export that vildcli made, so it is not replaced.",
            hint="Choose another --out, or remove it yourself.",
        )
    beside = out.with_name(f".{out.name}.{writer_mark()}")
    old = out.with_name(f"{beside.name}{_OLD}")
    try:
        with _explained(out):
            open_run(beside, kind=KIND, settings=settings, arguments={"whole": False})
            write(beside)
            _say_whole(beside)
            _exchange(beside, out, old)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def export_header(folder: Path) -> dict[str, Any] | None:
    """What an export's folder says of itself in `run.json`; None of any other folder."""
    if not is_run(folder):
        return None
    header: dict[str, Any] = json.loads((folder / RUN_FILE).read_bytes())
    return header if header.get("kind") == KIND else None


def _say_whole(folder: Path) -> None:
    header = json.loads((folder / RUN_FILE).read_bytes())
    write_json(folder / RUN_FILE, {**header, "arguments": {"whole": True}})


def left_behind(out: Path) -> list[Path]:
    """Half-written files and folders of exports to `out` that were killed, or go on now."""
    named = re.compile(re.escape(f".{out.stem}.") + WRITER_MARK + re.escape(out.suffix))
    folder = re.compile(re.escape(f".{out.name}.") + WRITER_MARK)
    beside = out.absolute().parent.iterdir() if out.absolute().parent.is_dir() else ()
    return sorted(p for p in beside if named.fullmatch(p.name) or folder.fullmatch(p.name))


def _finish_exchange(out: Path) -> None:
    """Put an older export back that was moved away by a process that was killed right then."""
    pattern = f".{glob.escape(out.name)}.*{_OLD}"
    for old in sorted(out.parent.glob(pattern), key=lambda path: path.stat().st_mtime):
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(out)


def _is_replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    return export_header(folder) is not None  # a labelling run is vildcli's too


def _exchange(new: Path, out: Path, old: Path) -> None:
    if not out.exists():
        new.rename(out)
        return
    out.rename(old)
    try:
        new.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def place_image(file: Path, target: Path, how: ImageFiles) -> None:
    """Copy an image into an export, byte by byte, or link to where it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if how == "copy":
        shutil.copyfile(file, target)
    else:
        target.symlink_to(file.absolute())


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}.", hint="Choose another --out."
        ) from error
