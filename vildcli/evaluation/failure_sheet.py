"""The failures worth looking at as one picture: novel objects not found. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vildcli.data.images import read_image
from vildcli.errors import DataError
from vildcli.evaluation.failures import Verdict, worst_failures
from vildcli.evaluation.report import Report, novel_ids
from vildcli.evaluation.report_files import category_names
from vildcli.review.drawing import draw_labels
from vildcli.review.sheet import Cell, compose_sheet, fit_cell
from vildcli.runs import write_atomically

FAILURES_FILE = "failures.png"
TRUTH_COLOUR, SAID_COLOUR = (0, 170, 80), (220, 40, 40)
_MARGIN = 0.6  # of the object's longer side, around it
_LEAST = 96.0  # pixels of the photograph that are shown at least


def write_failure_sheet(report: Report, out: Path, *, limit: int = 12) -> Path | None:
    """Draw the worst failures of novel objects, by turns misclassified and missed.

    Returns:
        The PNG; None where nothing failed, or none of the images is there.
    """
    subject = report.subject
    novel = novel_ids(subject.truth, subject.seen)
    names = category_names(report)
    cells = []
    for verdict in worst_failures(subject.verdicts, novel, limit):
        try:
            cells.append(_cell(verdict, subject.files[verdict.image_id], names))
        except (DataError, KeyError):
            continue  # the sheet is an extra: numbers do not depend on pictures
    if not cells:
        return None
    sheet = compose_sheet(f"{subject.seen.name}  ·  novel objects not found", cells)
    write_atomically(out / FAILURES_FILE, lambda path: sheet.save(path, "PNG", optimize=True))
    return out / FAILURES_FILE


def _cell(verdict: Verdict, file: Path, names: dict[int, str]) -> Cell:
    pixels = read_image(file).pixels
    x, y, w, h = verdict.box
    boxes = [np.array([x, y, x + w, y + h])]
    labels, colours = [names[verdict.category_id]], [TRUTH_COLOUR]
    if verdict.region is not None and verdict.said is not None:
        boxes.append(np.array(verdict.region))
        labels.append(f"{names[verdict.said]} {max(verdict.score, 0):.2f}")
        colours.append(SAID_COLOUR)
    left, top, right, bottom = _window(np.array(boxes), pixels.shape[1], pixels.shape[0])
    size = fit_cell(right - left, bottom - top)
    picture = Image.fromarray(pixels[top:bottom, left:right]).resize(size, Image.Resampling.LANCZOS)
    scale = np.tile(np.divide(size, (right - left, bottom - top)), 2)
    moved = [(box - [left, top, left, top]) * scale for box in boxes]
    drawn = draw_labels(picture, moved, None, labels, colours=colours)
    return Cell(drawn, f"{_caption(verdict, names)}  ·  {file.name}")


def _caption(verdict: Verdict, names: dict[int, str]) -> str:
    true = names[verdict.category_id]
    if verdict.said is None:
        return f"{true}: missed, best overlap {verdict.overlap:.2f}"
    return f"{true}: called {names[verdict.said]}"


def _window(boxes: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels around the boxes with a margin, within the image."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    half = np.maximum((high - low).max() * (0.5 + _MARGIN), _LEAST / 2)
    centre, limits = (low + high) / 2, np.array([width, height])
    first = np.clip(np.floor(centre - half), 0, limits - 1).astype(int)
    last = np.clip(np.ceil(centre + half), first + 1, limits).astype(int)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])
