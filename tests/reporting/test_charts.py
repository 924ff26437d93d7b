from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from vildcli.reporting.charts import histogram, small_histogram


def paths(svg: str, kind: str) -> list[str]:
    return [path.get("d") or "" for path in ElementTree.fromstring(svg).iter("path")
            if path.get("class") == kind]  # fmt: skip


def heights(path: str) -> list[float]:
    return [float(tall) for tall in re.findall(r"v-([\d.]+)", path)]


def test_histogram__bars_are_logarithms_of_counts() -> None:
    svg = histogram([9, 0, 99], [0, 0, 9], [0.3])
    (stored,), (shown,) = paths(svg, "stored"), paths(svg, "shown")
    low, high = heights(stored)  # nothing is drawn for a bin without labels
    assert high == pytest.approx(2 * low, abs=0.1)
    assert heights(shown) == [low]
    assert "M" in stored
    assert stored.count("M") == 2


def test_histogram__lines_are_where_their_count_ends() -> None:
    svg = histogram([1, 10, 100], [0, 0, 0], [])
    lines = [float(path.split()[1].split("h")[0]) for path in paths(svg, "grid")]
    tops = []
    for bar in paths(svg, "stored")[0].split("M")[1:]:
        bottom = float(bar.split()[1].split("v")[0])
        tops.append(bottom - heights(bar)[0])
    assert tops == pytest.approx(lines, abs=0.15)


def test_histogram__a_line_for_each_threshold_once() -> None:
    svg = histogram([1] * 10, [1] * 10, [0.25, 0.5, 0.5])
    first, second = (float(p[1:].split()[0]) for p in paths(svg, "threshold"))
    ticks = {
        text.text: float(text.get("x") or 0) for text in ElementTree.fromstring(svg).iter("text")
    }
    whole = ticks["1"] if ticks["1"] > 100 else ticks["0.8"] / 0.8
    assert second - first == pytest.approx((ticks["0.8"] - ticks["0.4"]) / 0.4 * 0.25, abs=0.2)
    assert whole > second


def test_histogram__nothing() -> None:
    svg = histogram([0, 0], [0, 0], [])
    assert paths(svg, "stored") == [""]
    assert "nan" not in svg


def test_small_histogram__tells_shown_bars_by_colour() -> None:
    svg = small_histogram([1, 1, 1, 1], 0.5)
    assert paths(svg, "stored")[0].count("M") == 4
    assert paths(svg, "shown")[0].count("M") == 2
    assert small_histogram([0] * 4, 1.0)
    top = max(heights(paths(small_histogram([5, 1], 0.1), "stored")[0]))
    assert 0 < top <= 44
    assert math.isfinite(top)
