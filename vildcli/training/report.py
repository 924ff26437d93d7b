"""What a training run looked like: `report.md` and its plots, from what the loop measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vildcli.runs import write_atomically
from vildcli.training.train import METRICS_FILE, VALIDATION_FILE

REPORT_FILE, LOSS_PLOT, AP_PLOT = "report.md", "losses.png", "ap.png"
_NOT_LOSSES = {"step", "rate"}
_POINTS = 400  # of a curve; steps in between are averaged


def write_report(run: Path) -> Path:
    """Plot losses and average precision of a run, and say its settings and last values.

    Args:
        run: a training run with metrics; written again whenever it is asked for.
    """
    metrics, validation = _rows(run / METRICS_FILE), _rows(run / VALIDATION_FILE)
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    _plot_losses(metrics, run / LOSS_PLOT)
    if validation:
        _plot_ap(validation, run / AP_PLOT)
    text = _text(settings, metrics, validation)
    write_atomically(run / REPORT_FILE, lambda path: _write(path, text))
    return run / REPORT_FILE


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _text(
    settings: Mapping[str, Any],
    metrics: Sequence[Mapping[str, float]],
    validation: Sequence[Mapping[str, float]],
) -> str:
    names = [name for name in metrics[-1] if name not in _NOT_LOSSES]
    tenth = metrics[-max(1, len(metrics) // 10) :]
    rows = [
        f"| {name} | {metrics[0][name]:.4f} | {sum(r[name] for r in tenth) / len(tenth):.4f} |"
        for name in names
    ]
    lines = [
        f"# {settings['system']}",
        "",
        f"{len(metrics)} steps of {settings['recipe']['batch']} images on "
        f"{settings['architecture']['backbone']}, from {settings['init']}, "
        f"seed {settings['seed']}. {len(settings['base_categories'])} base categories.",
        "",
        "| loss (total: weighted) | first step | mean of the last tenth |",
        "|---|--:|--:|",
        *rows,
        "",
        f"![losses]({LOSS_PLOT})",
    ]
    if validation:
        last = ", ".join(f"{k} {v:.4f}" for k, v in validation[-1].items() if k != "step")
        lines += ["", f"Last validation: {last}.", "", f"![average precision]({AP_PLOT})"]
    lines += ["", "```json", json.dumps(settings["recipe"], indent=1), "```", ""]
    return "\n".join(lines)


def _plot_losses(metrics: Sequence[Mapping[str, float]], path: Path) -> None:
    width = max(1, len(metrics) // _POINTS)
    groups = [metrics[i : i + width] for i in range(0, len(metrics), width)]
    steps = [group[-1]["step"] for group in groups]
    names = [name for name in metrics[0] if name not in _NOT_LOSSES]
    curves = {name: [sum(r[name] for r in g) / len(g) for g in groups] for name in names}
    _plot(path, steps, curves, "loss (total: weighted)", log=True)


def _plot_ap(validation: Sequence[Mapping[str, float]], path: Path) -> None:
    names = [name for name in validation[0] if name != "step"]
    curves = {name: [row[name] for row in validation] for name in names}
    _plot(path, [row["step"] for row in validation], curves, "average precision", log=False)


def _plot(
    path: Path, steps: Sequence[float], curves: Mapping[str, Sequence[float]], what: str, log: bool
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")  # no pyplot: no state, no display
    axes = figure.subplots()
    for name, values in curves.items():
        style = {"linewidth": 2.2, "color": "black"} if name == "total" else {"linewidth": 1.3}
        marker = "o" if len(values) < 20 else None
        axes.plot(steps, values, label=name, marker=marker, markersize=3, **style)
    axes.set(xlabel="step", ylabel=what)
    if log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    write_atomically(path, lambda beside: figure.savefig(beside, dpi=110))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
