"""What a choice leaves behind: a list of paths, scores as JSON, and `selection.json` in the run.

next.txt             absolute paths, best first: `vildcli detect next.txt` reads it
next.json            every candidate with its value, boxes and minutes
next.left-out.txt    images that the strategy says nothing about, where there are any
next.isal/           what isal has measured, so that it can go on
next.png             of a rehearsal for a classifier: accuracy by labelled images
RUN/selection.json   {"strategy": …, "image_ids": […]}: the saved view, the report's column
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.errors import RunError
from vildcli.labelling.plan import image_path
from vildcli.labelling.records import ImageRecord
from vildcli.labelling.thresholds import RunView
from vildcli.runs import write_atomically, write_json
from vildcli.selection.choice import Valued
from vildcli.selection.select import Selection

SELECTION_FILE = "selection.json"
SELECTION_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a choice is written."""

    paths: Path

    @property
    def scores(self) -> Path:
        return self.paths.with_suffix(".json")

    @property
    def curve(self) -> Path:
        return self.paths.with_suffix(".png")

    @property
    def left_out(self) -> Path:
        return self.paths.with_name(f"{self.paths.stem}.left-out.txt")

    @property
    def work(self) -> Path:
        """Folder of what isal has measured already."""
        return self.paths.with_suffix(".isal")

    def refuse(self, force: bool) -> None:
        """Refuse early what could not be written, or what would be lost.

        Raises:
            RunError: `--out` is named like its own JSON, exists, or cannot be written.
        """
        if self.scores == self.paths:
            raise RunError(
                f"{self.paths} is the list of paths; the scores go to a .json beside it.",
                hint=f"Name it {self.paths.with_suffix('.txt').name}.",
            )
        there = [path for path in (self.paths, self.scores) if path.exists()]
        if there and not force:
            raise RunError(
                f"{there[0]} is there already.", hint="Choose another --out, or give --force."
            )
        refuse_unwritable(self.paths)


def refuse_unwritable(file: Path) -> None:
    """Refuse a file whose folder cannot be written.

    Raises:
        RunError: it cannot.
    """
    parent = next(p for p in file.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(f"{parent} cannot be written.", hint="Choose another --out.")


def write_run_selection(
    view: RunView,
    found: Selection,
    outputs: Outputs,
    *,
    images: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Write a choice of a run's images, and its view.

    Args:
        images: the folder that the run's images have moved to.
        settings: what else decided it, for the JSON.
    """
    said = {"run": str(view.run), "fingerprint": view.fingerprint, "settings": settings or {}}
    write_selection(found, outputs, lambda image: image_path(view.run, image, images), said)
    ids = [one.candidate.image_id for one in found.chosen]
    write_json(view.run / SELECTION_FILE, {"strategy": found.options.strategy, "image_ids": ids})


def write_selection(
    found: Selection,
    outputs: Outputs,
    path_of: Callable[[ImageRecord], Path],
    said: dict[str, Any],
) -> None:
    """Write a choice.

    Args:
        path_of: where an image is.
        said: what the choice is of.
    """

    def paths(records: Iterable[ImageRecord]) -> list[str]:
        return [os.path.abspath(path_of(record)) for record in records]

    outputs.left_out.unlink(missing_ok=True)
    if found.left_out:
        write_lines(outputs.left_out, paths(c.image for c in found.left_out))
    write_json(
        outputs.scores,
        {
            "format": SELECTION_FORMAT,
            **said,
            "strategy": found.options.strategy,
            "per": found.options.per,
            "chosen": [_row(one, place) for place, one in enumerate(found.chosen, start=1)],
            "others": [_row(one, None) for one in found.others],
            "left_out": [c.image_id for c in found.left_out],
        },
    )
    write_lines(outputs.paths, paths(one.candidate.image for one in found.chosen))


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a text file whole, one line each."""
    text = "".join(f"{line}\n" for line in lines)

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_atomically(file, write)


def _row(one: Valued, rank: int | None) -> dict[str, Any]:
    image = one.candidate.image
    is_known = one.value == one.value  # what has no value is NaN, which JSON has no word for
    return {
        **({} if rank is None else {"rank": rank}),
        "image_id": image.image_id,
        "source": image.source,
        "path": image.path,
        "value": one.value if is_known else None,
        "boxes": len(one.candidate.scores),
        "per_box": one.per_box if is_known else None,
        "minutes": round(one.minutes, 3),
        "per_minute": one.per_minute if is_known else None,
    }
