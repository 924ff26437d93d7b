"""Histograms of scores as inline SVG: no script, colours by the page's style. No torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

_WIDTH, _HEIGHT = 640, 220
_LEFT, _BOTTOM, _TOP = 52, 34, 12
_SMALL = (200, 44)
_MARKS = 60  # thresholds that are drawn; more are told by the text beside


def histogram(stored: Sequence[int], shown: Sequence[int], thresholds: Collection[float]) -> str:
    """All scores: bars of stored labels, in them those that are shown, on a logarithmic scale.

    Args:
        stored, shown: labels by score, bins of equal width over 0-1.
        thresholds: in 0-1, each drawn as a line.
    """
    top = math.log10(2 * max(*stored, 1) + 1)
    inner = (_WIDTH - _LEFT - 8, _HEIGHT - _BOTTOM - _TOP)
    parts = [
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="Labels by score">'
    ]
    for power in range(int(top) + 1):
        y = _TOP + inner[1] * (1 - math.log10(10**power + 1) / top)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{inner[0]}"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_count(10**power)}</text>'
        )
    for kind, counts in (("stored", stored), ("shown", shown)):
        parts.append(f'<path class="{kind}" d="{_bars(counts, top, inner, (_LEFT, _TOP))}"/>')
    for tick in range(0, 11, 2):
        x = _LEFT + inner[0] * tick / 10
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{tick / 10:g}</text>"
        )
    parts.append(
        f'<text x="{_LEFT + inner[0] / 2}" y="{_HEIGHT - 4}" text-anchor="middle">score</text>'
    )
    for threshold in sorted(set(thresholds))[:_MARKS]:
        x = _LEFT + inner[0] * threshold
        parts.append(f'<path class="threshold" d="M{x:.1f} {_TOP}v{inner[1]}"/>')
    return "".join([*parts, "</svg>"])


def small_histogram(stored: Sequence[int], threshold: float) -> str:
    """Scores of one category; bars that lie above the threshold are those of shown labels."""
    width, height = _SMALL
    top = math.log10(max(*stored, 1) + 1)
    first = math.ceil(threshold * len(stored) - 1e-9)
    shown = [count if place >= first else 0 for place, count in enumerate(stored)]
    inner, corner, x = (width, height - 2), (0, 2), threshold * width
    return (
        f'<svg class="small" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="Labels by score, threshold {threshold:.2f}">'
        f'<path class="stored" d="{_bars(stored, top, inner, corner)}"/>'
        f'<path class="shown" d="{_bars(shown, top, inner, corner)}"/>'
        f'<path class="threshold" d="M{x:.1f} 0v{height}"/></svg>'
    )


def _bars(
    counts: Sequence[int], top: float, inner: tuple[float, float], corner: tuple[float, float]
) -> str:
    width = inner[0] / len(counts)
    path = []
    for place, count in enumerate(counts):
        if count:
            tall = inner[1] * math.log10(count + 1) / top
            x, y = corner[0] + place * width, corner[1] + inner[1]
            path.append(f"M{x:.1f} {y:.1f}v-{tall:.1f}h{width * 0.9:.1f}v{tall:.1f}z")
    return "".join(path)


def _count(number: int) -> str:
    """10, 1k, 10M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)
