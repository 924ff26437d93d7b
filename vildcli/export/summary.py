"""What an export wrote, for people and for `--json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """Counts of one export.

    Attributes:
        images: written, with or without labels.
        failed: images of the run that could not be read, and are left out.
        labels: written.
        hidden: stored labels left out by a threshold, an attribute or a limit an image.
        units_done, units_total: of the run; the export holds the finished ones.
    """

    out: Path
    images: int
    failed: int
    labels: int
    hidden: int
    units_done: int
    units_total: int
