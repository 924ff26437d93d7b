"""docs/performance.md says what docs/performance.json holds, and whether an aim is reached."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
CPU, GPU = "1 of 2 cores, Some CPU", "Some GPU"


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "build_performance", DOCS / "build_performance.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_performance", module)
    spec.loader.exec_module(module)
    return module


def row(
    item: str, name: str, parameters: dict[str, Any], hardware: str = CPU, **measured: float
) -> dict[str, Any]:
    return {
        "item": item,
        "row": name,
        "parameters": parameters,
        "measured": {key.replace("_", " "): value for key, value in measured.items()},
        "hardware": hardware,
        "command": f"python -m benchmarks.{item}",
        "note": "random weights",
        "date": "2026-11-21",
    }


@pytest.fixture
def page(builder: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The lines of a page made of these rows."""

    def of(*rows: dict[str, Any]) -> list[str]:
        path = tmp_path / "performance.json"
        path.write_text(json.dumps(rows))
        monkeypatch.setattr(builder, "RESULTS", path)
        text: str = builder.page()
        return text.splitlines()

    return of


def verdict(lines: list[str], words: str) -> list[str]:
    """The cells behind an aim: wanted, measured, reached."""
    (line,) = [line for line in lines if line.startswith(f"| {words}")]
    return [cell.strip() for cell in line.split("|")[2:5]]


def test_page__is_what_the_measurements_say(builder: ModuleType) -> None:
    made = builder.page()
    assert made == (DOCS / "performance.md").read_text(encoding="utf-8"), "run `make docs`"


def test_page__of_nothing_says_so_nine_times(page: Any) -> None:
    lines = page()
    titles = [line for line in lines if line.startswith("## ")]
    assert [title.split(".")[0] for title in titles[:9]] == [f"## {i}" for i in range(1, 10)]
    assert lines.count("Not measured yet.") == len(titles)
    aims = [line for line in lines if line.startswith("| ") and not line.startswith("| aim")]
    assert aims
    assert all(line.endswith("| – | not measured |") for line in aims)


@pytest.mark.parametrize(
    ("ratio", "reached"), [(0.4, "yes"), (0.5, "yes"), (0.51, "no"), (3.0, "no")]
)
def test_detect__is_held_against_half_of_torchvisions_time(
    page: Any, ratio: float, reached: str
) -> None:
    asked = {"names": 1203, "regions": 1000, "masks": 100}
    others = {"names": 80, "regions": 1000, "masks": 100}
    lines = page(
        row("detect", "vild", asked, CPU_ratio=ratio, ratio=9.0),
        row("detect", "vild", others, CPU_ratio=7.0),
        row("detect", "vild", {**asked, "regions": 300}, CPU_ratio=7.0),
        row("detect", "vild", asked, GPU, ratio=7.0),
    )
    found = verdict(lines, "`vild`, 1,203 names, 1,000 regions")
    assert found == ["≤ 0.5x", f"{ratio:.3f}x" if ratio < 1 else "3.00x", reached]
    assert verdict(lines, "`vild-ensemble`, the same")[2] == "not measured"


def test_detect__many_names_over_few_all_else_equal(page: Any) -> None:
    few = {"names": 80, "regions": 300, "masks": 20}
    many = {**few, "names": 20_000}
    lines = page(
        row("detect", "vild", few, CPU_ms=100.0),
        row("detect", "vild", many, CPU_ms=120.0),
        row("detect", "vild", {**many, "masks": 100}, CPU_ms=900.0),
        row("detect", "vild", many, GPU, CPU_ms=900.0),
        row("detect", "vild-ensemble", few, CPU_ms=100.0),
        row("detect", "vild-ensemble", many, CPU_ms=130.0),
    )
    words = "20,000 names: time of 80 names"
    assert verdict(lines, words) == ["≤ 1.25x", "1.20 to 1.30x", "in part"]


def test_peers__are_shown_apart_and_compared_at_equal_names_and_masks(page: Any) -> None:
    asked = {"names": 80, "masks": 20}
    lines = page(
        row("detect", "vild", {**asked, "regions": 300}, CPU_ms=100.0),
        row("detect", "OWLv2-B/16", {**asked, "regions": 3600}, CPU_ms=250.0),
        row("detect", "OWLv2-B/16", {"names": 9, "masks": 20, "regions": 3600}, CPU_ms=1.0),
    )
    assert verdict(lines, "images/s of OWLv2") == ["≥ 1.5x", "2.50x", "yes"]
    first, second = (lines.index(line) for line in lines if line.startswith(("## 2.", "## 3.")))
    assert [line for line in lines[:first] if line.startswith("| OWLv2")] == []
    assert len([line for line in lines[first:second] if line.startswith("| OWLv2")]) == 2


def test_relabel__memory_is_that_of_the_largest_over_the_smallest_run(page: Any) -> None:
    asked = {"regions": 1000, "names": 1203, "attributes": None}
    large = row("relabel", "vildcli relabel", {"images": 100, **asked}, peak_MiB=500, image_ms=45.0)
    small = row("relabel", "vildcli relabel", {"images": 16, **asked}, peak_MiB=480, image_ms=55.0)
    lines = page(large | {"hardware": "2 cores, X"}, small | {"hardware": "1 of 2 cores, X"})
    assert verdict(lines, "memory of the largest run")[1:] == ["1.04x", "yes"]
    assert verdict(lines, "an image of 1,000 regions")[1:] == ["45.0 ms", "yes"]  # on two cores


def test_gpu_rows__do_not_answer_for_the_cpu(page: Any) -> None:
    asked = {"stage": "crops and embeddings"}
    lines = page(
        row("teacher_crops", "vildcli", {"stage": "crops"}, CPU_ratio=2.5, ratio=1.0),
        row("teacher_crops", "vildcli", asked, GPU, ratio=12.0),
    )
    assert verdict(lines, "crops alone")[1:] == ["2.50x", "yes"]
    assert verdict(lines, "crops and embeddings, GPU")[1:] == ["12.0x", "yes"]


def test_table__says_once_what_all_rows_share_and_where_it_was_measured(page: Any) -> None:
    lines = page(
        row("relabel", "vildcli relabel", {"images": 16, "regions": 1000}, whole_s=2.0),
        row("relabel", "vildcli relabel", {"images": 2000, "regions": 1000}, whole_s=1234.5),
    )
    at = lines.index("regions 1,000:")
    assert lines[at + 2 : at + 6] == [
        "|  | images | whole s |",
        "|---|--:|--:|",
        "| vildcli relabel | 16 | 2.00 |",
        "| vildcli relabel | 2,000 | 1,234 |",
    ]
    assert lines[at + 7] == f"- 2026-11-21, {CPU}, random weights: `python -m benchmarks.relabel`"


def test_page__shows_what_it_does_not_know(page: Any) -> None:
    lines = page(row("something new", "ours", {"images": 1}, seconds=1.5))
    assert lines[lines.index("## Other measurements") + 4] == "|  | seconds |"


def test_plot__of_nothing_and_of_a_curve(page: Any, builder: ModuleType, tmp_path: Path) -> None:
    page()
    builder.draw(tmp_path / "empty.png")
    asked = {"against": "names", "names": 80, "regions": 300, "attributes": 0, "images": 1}
    measured = {"CPU ms": 2.5, "at best ms": 0.7, "peak MiB": 30.0}
    point = row("growth", "scoring", asked) | {"measured": measured}
    page(point, point | {"parameters": {**asked, "names": 1203}})
    builder.draw(tmp_path / "curve.png")
    empty, curve = ((tmp_path / f"{name}.png").read_bytes() for name in ("empty", "curve"))
    assert empty.startswith(b"\x89PNG")
    assert curve != empty
