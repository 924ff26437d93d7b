"""What other commands left in a run for its report: duplicates, a choice, calls. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.errors import DataError
from vildcli.labelling.duplicates import DUPLICATES_FILE, find_duplicates
from vildcli.labelling.records import part_path
from vildcli.labelling.summary import CALLS_FILE
from vildcli.labelling.thresholds import RunView

SELECTION_FILE = "selection.json"
_GROUPS_KEPT = 12
_CALL_KEYS = {"images", "seconds", "images_per_second", "peak_rss_mib"}


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Ids of images that show the same; `cosine` is None where their bytes are equal."""

    image_ids: tuple[int, ...]
    cosine: float | None


@dataclass(frozen=True, slots=True)
class FoundDuplicates:
    """Duplicates of a run.

    Attributes:
        exact, near: images that would not be missed.
        groups: the first few.
        all_groups: how many there are.
        why_not: why near ones were not looked for; empty where they were.
    """

    exact: int = 0
    near: int = 0
    groups: tuple[DuplicateGroup, ...] = ()
    all_groups: int = 0
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Images that are to be reviewed next, the most worth it first."""

    strategy: str
    image_ids: tuple[int, ...]


def read_duplicates(view: RunView) -> FoundDuplicates:
    """What detect has written, while it is not older than the run; else what is found now."""
    file = view.run / DUPLICATES_FILE
    newest = max(part_path(view.run, "images", unit).stat().st_mtime_ns for unit in view.units)
    if file.is_file() and file.stat().st_mtime_ns >= newest:
        return _counted(_written_groups(file))
    found = find_duplicates(view.run)
    pairs: list[tuple[tuple[int, ...], float | None]] = [(ids, None) for ids in found.exact]
    pairs += zip(found.near, found.cosines, strict=True)
    return _counted((DuplicateGroup(ids, cosine) for ids, cosine in pairs), found.why_not)


def _written_groups(file: Path) -> Iterator[DuplicateGroup]:
    for row in _json_lines(file):
        yield DuplicateGroup(tuple(row["image_ids"]), row["cosine"])


def _counted(groups: Iterator[DuplicateGroup], why_not: str = "") -> FoundDuplicates:
    exact, near, count = 0, 0, 0
    kept: list[DuplicateGroup] = []
    for group in groups:
        copies = len(group.image_ids) - 1
        exact, near = (exact + copies, near) if group.cosine is None else (exact, near + copies)
        if len(kept) < _GROUPS_KEPT:
            kept.append(group)
        count += 1
    return FoundDuplicates(exact, near, tuple(kept), count, why_not)


def read_choice(run: Path) -> Choice | None:
    """What `vildcli select` chose last; None where it was never asked.

    Raises:
        DataError: the file is damaged.
    """
    file = run / SELECTION_FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Choice(str(values["strategy"]), tuple(int(i) for i in values["image_ids"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is damaged: {error}.", hint="Delete it, or run vildcli select again."
        ) from error


def read_calls(run: Path) -> list[dict[str, Any]]:
    """What each call of detect took that labelled images, the first one first.

    A call that was killed, or a disk that was full, may have left half a line: it is passed over.
    """
    file = run / CALLS_FILE
    if not file.is_file():
        return []
    calls = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and values.keys() >= _CALL_KEYS:
            calls.append(values)
    return calls


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield dict(json.loads(line))
            except ValueError as error:
                raise DataError(
                    f"{file}, line {number} is damaged: {error}.", hint="Delete the file."
                ) from error
