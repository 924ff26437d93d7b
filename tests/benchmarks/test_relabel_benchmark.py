from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import relabel


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each turn would cost seconds here."""
    monkeypatch.setattr(relabel, "_alone", lambda work, *arguments: work(*arguments))


def test_it_relabels_a_made_up_run_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "performance.json"
    size = ["--images", "2", "3", "--regions", "20", "--names", "30", "--repeats", "1"]
    relabel.main([*size, "--attributes", "colours", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["images", "2", "3"]
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    assert [row["parameters"]["images"] for row in rows] == [2, 3]
    for row in rows:
        assert (row["item"], row["parameters"]["attributes"]) == ("relabel", "colours")
        assert all(value > 0 for value in row["measured"].values())
        assert row["measured"]["labels"] <= row["parameters"]["images"] * 20
