"""What `vildcli select` says of a choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vildcli import console

if TYPE_CHECKING:
    from vildcli.selection.select import Selection
    from vildcli.selection.writing import Outputs

SHOWN = 10  # rows


def show_selection(found: Selection, outputs: Outputs, reviewed: int) -> None:
    """Show the first of a choice, what it costs, and where it is written."""
    rows = [
        (
            *(one.candidate.image.path, one.value, len(one.candidate.scores)),
            *(one.per_box, one.minutes, one.per_minute),
        )
        for one in found.chosen[:SHOWN]
    ]
    columns = ("image", "value", "boxes", "per box", "minutes", "per minute")
    per = "" if found.options.per == "image" else f" per {found.options.per}"
    console.show_table(f"First by {found.options.strategy}{per}", columns, rows)
    show_outcome(found, outputs, f"{reviewed} are reviewed already")


def show_outcome(found: Selection, outputs: Outputs, already: str) -> None:
    """Show what a choice costs and where it is written."""
    total = len(found.chosen) + len(found.others)
    console.say(
        f"{len(found.chosen)} of {total} images chosen, about {found.minutes:.0f} minutes of "
        f"work; {already}."
    )
    if found.left_out:
        console.warn(
            f"{len(found.left_out)} images have nothing to rank them by: {outputs.left_out}"
        )
    console.say(f"Paths: {outputs.paths}  Scores: {outputs.scores}")


def selection_summary(
    run: Path, found: Selection, outputs: Outputs, candidates: int, reviewed: int
) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "run": str(run),
        "strategy": found.options.strategy,
        "candidates": candidates,
        "reviewed": reviewed,
        "chosen": len(found.chosen),
        "left_out": len(found.left_out),
        "minutes": round(found.minutes, 1),
        "paths": str(outputs.paths),
        "scores": str(outputs.scores),
    }
