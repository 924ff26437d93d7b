"""What a labelling run holds, counted from its finished units. No torch."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.labelling.records import FAILED, OK, is_done, read_part

CALLS_FILE = "calls.jsonl"


@dataclass(frozen=True, slots=True)
class LabellingSummary:
    """What a run (or its shard) holds, and what this call took.

    Attributes:
        images, labelled, failed, labels: of all units of the run or shard, whenever they were done.
        skipped: files of the sources that are no images.
        resumed: images of units that an earlier call had done.
        seconds, images_per_second: of this call.
        peak_rss_mib: greatest resident memory of the process so far, or of the largest that it
            started.
    """

    run: str
    images: int
    labelled: int
    failed: int
    skipped: int
    resumed: int
    labels: int
    seconds: float
    images_per_second: float
    peak_rss_mib: float


def summarise(
    run: Path,
    units: Mapping[int, Sequence[Any]],
    resumed: int,
    seconds: float,
    skipped: int = 0,
) -> LabellingSummary:
    """Count what finished units hold.

    Args:
        run: a labelling run.
        units: the images of each unit to count; those that are not done count as images alone.
        resumed: how many of those images an earlier call had done.
        seconds: what this call took.
        skipped: files of the sources that are no images.
    """
    images = sum(map(len, units.values()))
    counts = _totals(run, (unit for unit in units if is_done(run, unit)))
    done = counts[OK] + counts[FAILED]
    return LabellingSummary(
        run=str(run.resolve()),
        images=images,
        labelled=counts[OK],
        failed=counts[FAILED],
        skipped=skipped,
        resumed=resumed,
        labels=counts["labels"],
        seconds=round(seconds, 3),
        images_per_second=round((done - resumed) / seconds, 3),
        peak_rss_mib=peak_rss_mib(),
    )


def remember_call(run: Path, summary: LabellingSummary, shares: Mapping[str, float]) -> None:
    """Append to `calls.jsonl` what a call took, for the run's report; a full disk is let be.

    Args:
        shares: what the call waited for, 0-1.
    """
    values = {
        "images": summary.labelled + summary.failed - summary.resumed,
        "seconds": summary.seconds,
        "images_per_second": summary.images_per_second,
        "peak_rss_mib": summary.peak_rss_mib,
        "shares": {stage: round(share, 3) for stage, share in shares.items()},
    }
    try:  # one write: lines of several processes do not mix
        with (run / CALLS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
    except OSError:
        return


def _totals(run: Path, units: Iterable[int]) -> Counter[str]:
    """Images by status, and labels, of finished units."""
    counts: Counter[str] = Counter()
    for unit in units:
        counts.update(read_part(run, "images", unit, ["status"]).column("status").to_pylist())
        counts["labels"] += read_part(run, "labels", unit, ["label"]).num_rows
    return counts


def peak_rss_mib() -> float:
    """Greatest resident memory of this process so far, or of the largest that it has ended."""
    import resource  # not on every platform: imported where it is used

    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(one).ru_maxrss for one in who)
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
