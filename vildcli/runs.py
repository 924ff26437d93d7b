"""Folders that vildcli writes: what they hold, whether to continue them, how files stay whole.

The rule for every `--out` folder: absent or empty, it is started; held by a run of the same
settings, it is continued; held by anything else, it is refused with the names of the settings that
differ. `--force` deletes a folder only when vildcli made it. Files are written beside their place
and renamed; what a killed process left there goes when the run is continued.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from vildcli import __version__
from vildcli.errors import RunError, VildError

RUN_FORMAT = 1
RUN_FILE = "run.json"
WRITER_MARK = r"(?:(?P<space>[0-9a-f]{8})-)?(?P<process>\d+)-[0-9a-f]{8}"  # see `writer_mark`
_LEFT_BEHIND = re.compile(rf"\..+\.{WRITER_MARK}(?:\.[^.]*)?")
_ABANDONED = 24 * 3600.0  # seconds; clocks of machines that share a disk differ by less
VERSIONED_PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pillow", "pyarrow")


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash of settings that decide the content of a run."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(
    path: Path, write: Callable[[Path], None], *, keep_other: bool = False
) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Args:
        keep_other: leave a file that is there by then as it is: of several processes that start a
            run together, the first one decides.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: several writers choose their format by it.
    beside = path.with_name(f".{path.stem}.{writer_mark()}{path.suffix}")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        if keep_other:
            _link_if_free(beside, path)
        else:
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def writer_mark() -> str:
    """Who writes a file, as its name says while it is not whole; of no other file."""
    return f"{_process_space()}-{os.getpid()}-{secrets.token_hex(4)}"


@functools.cache
def _process_space() -> str:
    """Where one process id means one process: two containers on one disk may have the same ones."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        said = boot + os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        said = platform.node()
    return hashlib.sha256(said.encode()).hexdigest()[:8]


def remove_left_behind(folder: Path) -> None:
    """Delete what killed processes were writing in a run folder, and nothing that is being written.

    A file of this machine goes once its process is gone, any other one after a day.
    """
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for path in place.glob(".*"):
            if (mark := _LEFT_BEHIND.fullmatch(path.name)) and path.is_file():
                with contextlib.suppress(OSError):  # gone by now, or another user's
                    if _is_ended(*mark.group("space", "process")) or _age(path) > _ABANDONED:
                        path.unlink()


def _is_ended(space: str | None, process: str) -> bool:
    if os.name != "posix" or space != _process_space():  # elsewhere a signal 0 is not harmless
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _age(path: Path) -> float:
    """Seconds since a file was last touched; a link to an old file is as young as the link."""
    return time.time() - path.stat().st_ctime


def take_over(source: Path, target: Path) -> None:
    """Link a file that is never changed in place, or copy it to where links cannot reach."""

    def link_or_copy(beside: Path) -> None:
        try:
            os.link(source, beside)
        except OSError:
            shutil.copyfile(source, beside)

    write_atomically(target, link_or_copy)


def _link_if_free(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # a disk without hard links
        if not target.exists():
            os.replace(source, target)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say of a folder that it cannot be written, and why.

    Raises:
        RunError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror or error}.",
            hint="Make room or give permission; the same command continues where it stopped.",
        ) from error


def write_json(path: Path, value: Any, *, keep_other: bool = False) -> None:
    """Write JSON whole; `keep_other` as for `write_atomically`."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda beside: _write_text(beside, text), keep_other=keep_other)


def refuse_newer(path: Path, written: int, known: int, error: type[VildError]) -> None:
    """Refuse a file of a later format than this vildcli knows."""
    if written > known:
        raise error(
            f"{path} has format {written}; this vildcli reads up to {known}.",
            hint="Update vildcli.",
        )


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def open_run(
    folder: Path,
    *,
    kind: str,
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Literal["started", "continued"]:
    """Start a run folder, or confirm that the one there is the same run.

    Args:
        kind: labelling, training, teacher, world, …
        settings: what decides the content; compared key by key and fingerprinted.
        arguments: everything else worth remembering; written, never compared.

    Raises:
        RunError: the folder holds something else, a run of other settings, or cannot be written.
    """
    settings = json.loads(json.dumps(settings))
    if force:
        _delete_own(folder)
    if (folder / RUN_FILE).exists():
        _refuse_another(folder, kind, settings)
        remove_left_behind(folder)
        return "continued"
    if not _is_free(folder):
        raise RunError(
            f"{folder} is not empty and was not made by vildcli.",
            hint="Choose another --out; vildcli never deletes what it did not make.",
        )
    header = {
        "format": RUN_FORMAT,
        "kind": kind,
        "vildcli": __version__,
        "fingerprint": fingerprint(settings),
        "settings": settings,
        "arguments": dict(arguments or {}),
        "versions": {"python": sys.version.split()[0], **_versions()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN_FILE, header, keep_other=True)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror or error}.",
            hint="Make room, change the folder's permissions, or choose another --out.",
        ) from error
    _refuse_another(folder, kind, settings)  # of a process that was faster
    return "started"


def is_run(folder: Path) -> bool:
    """Whether vildcli wrote this folder: its run file says so."""
    try:
        header = json.loads((folder / RUN_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and "vildcli" in header


def read_run(folder: Path, kind: str) -> dict[str, Any]:
    """The header of a run folder of that kind.

    Raises:
        RunError: no run there, of another kind, or of a newer format.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise RunError(
            f"{folder} is not a {kind} run: it has no {RUN_FILE}.",
            hint="Name the folder that was given as --out.",
        )
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found, written = header["kind"], int(header["format"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not a vildcli run file: {error}.") from error
    refuse_newer(path, written, RUN_FORMAT, RunError)
    if found != kind:
        raise RunError(f"{folder} is a {found} run, not a {kind} run.")
    return header


def _refuse_another(folder: Path, kind: str, settings: Mapping[str, Any]) -> None:
    there = read_run(folder, kind)["settings"]
    differing = sorted(k for k in {*there, *settings} if there.get(k) != settings.get(k))
    if differing:
        shown = "; ".join(
            f"{k}: {there.get(k)!r} there, {settings.get(k)!r} now" for k in differing
        )
        raise RunError(
            f"{folder} holds a run with other settings ({shown}).",
            hint="Choose another --out, use the same settings, or --force to delete it.",
        )


def _is_free(folder: Path) -> bool:
    """Absent, or empty but for the run file that another process is writing at this moment."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name.startswith(f".{Path(RUN_FILE).stem}.") for path in folder.iterdir())


def _delete_own(folder: Path) -> None:
    if _is_free(folder):
        return
    if not is_run(folder):
        raise RunError(
            f"{folder} was not made by vildcli, so --force does not delete it.",
            hint="Choose another --out, or remove the folder yourself.",
        )
    shutil.rmtree(folder)


def _versions() -> dict[str, str]:
    found = {}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
