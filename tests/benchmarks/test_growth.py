"""The curves of scoring and relabelling, at sizes that say nothing about speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import growth, start_up
from benchmarks.growth import Measured, Point, main
from vildcli.labelling.operations import Rates

SMALL = "--turns 2 --names 5 --regions 4 --attributes 0 13 --images 3"


def measured_here(work: object, point: Point) -> Measured:
    """Without a process of its own."""
    return growth.measure(point)


def test_growth__records_a_row_for_each_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(growth, "_alone", measured_here)
    monkeypatch.setattr(growth, "measure_rates", lambda *_: Rates(flops=1e9, bytes=1e9))
    out = tmp_path / "performance.json"
    main([*SMALL.split(), "--folder", str(tmp_path), "--out", str(out)])
    rows = json.loads(out.read_text())
    found = [(r["row"], r["parameters"]["against"], r["parameters"]["attributes"]) for r in rows]
    assert found == [
        ("scoring", "names", 0),
        ("scoring", "regions", 0),
        ("scoring", "attributes", 0),
        ("scoring", "attributes", 13),
        ("relabel", "images", 0),
    ]
    assert [r["parameters"]["images"] for r in rows] == [1, 1, 1, 1, 3]
    assert all(r["measured"]["CPU ms"] > 0 for r in rows)
    names = rows[0]["measured"]
    # Two sides of 300 regions against 5 names, one also against the background.
    assert names["at best ms"] >= 2 * 300 * growth.relabel.WIDTH * 11 / 1e9 * 1e3
    assert names["times"] == pytest.approx(names["CPU ms"] / names["at best ms"], abs=0.006)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]] == [
        *["scoring"] * 4,
        "relabel",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["performance.json"]


def test_labeller__has_sets_as_large_as_colours() -> None:
    labeller = growth._labeller(Point("attributes", names=3, attributes=24))
    assert [len(values.values) for values in labeller.attributes] == [11, 11, 2]


@pytest.mark.slow
def test_a_process_of_its_own__says_what_it_took() -> None:
    measured = growth._alone(growth.measure, Point("names", names=2000, regions=50))
    assert measured.seconds > 0
    assert measured.peak > 2000 * growth.relabel.WIDTH * 4  # the names' embeddings


def test_start_up__is_beside_a_bare_click(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"import click": "import click", "vildcli --help": start_up.RUN.format(["--help"])}
    monkeypatch.setattr(start_up, "CONTENDERS", few)
    start_up.main(["--turns", "1", "--out", str(tmp_path / "performance.json")])
    click, ours = json.loads((tmp_path / "performance.json").read_text())
    assert (click["row"], click["measured"]["CPU ratio"]) == ("import click", 1.0)
    assert ours["row"] == "vildcli --help"
    assert ours["measured"]["modules"] > click["measured"]["modules"] > 50
    assert 0.3 < ours["measured"]["CPU ratio"] < 20
