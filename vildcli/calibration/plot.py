"""The reliability plot: what scores promise against what happens, before and after. No torch.

matplotlib is imported only while a plot is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vildcli.calibration.calibrate import Calibration
from vildcli.calibration.scaling import Reliability
from vildcli.runs import write_atomically

_DPI = 120


def draw_reliability(calibration: Calibration, out: Path) -> None:
    """Write a PNG: share of right labels by score, and by calibrated probability.

    The larger a point, the more labels are in its bin.
    """
    from matplotlib.figure import Figure

    where = "other images" if calibration.held_out is not None else "the same images"
    figure = Figure(figsize=(9.6, 5.4), dpi=_DPI, layout="constrained")
    before, after = figure.subplots(1, 2)
    _draw(before, calibration.raw, "before", "score")
    title = f"after: {calibration.method} scaling, fitted on {where}"
    _draw(after, calibration.calibrated, title, "calibrated probability")
    # Without the version of matplotlib in the file, the same numbers give the same bytes.
    metadata = {"Software": None}
    write_atomically(out, lambda beside: figure.savefig(beside, format="png", metadata=metadata))


def _draw(axes: Any, found: Mapping[str, Reliability], title: str, xlabel: str) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    for name, row in found.items():
        label = f"{name} ({row.labels.sum()} labels), ECE {row.error:.3f}"
        (line,) = axes.plot(row.probability, row.share, alpha=0.5, label=label)
        sizes = 8 + 150 * row.labels / row.labels.sum()
        axes.scatter(row.probability, row.share, s=sizes, color=line.get_color())
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=xlabel, title=title)
    axes.set_ylabel("share of right labels")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))  # no point is there
