from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import text_bank


@pytest.mark.slow
def test_all_ways_give_the_same_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "performance.json"
    given = ["--device", "cpu", "--model", "RN50", "--names", "2", "--plain-names", "1"]
    text_bank.main([*given, "--prompts", "single", "--repeats", "1", "--out", str(out)])
    assert capsys.readouterr().out.splitlines()[2].startswith("RN50, 2 names, ")
    plain, exact, rounded = json.loads(out.read_text())
    assert [row["row"] for row in (plain, exact, rounded)] == [
        "open_clip, plainly",
        "vildcli",
        "vildcli, bf16 weights",
    ]
    assert plain["measured"]["CPU ratio"] == 1
    assert exact["measured"]["least cosine"] == pytest.approx(1, abs=1e-5)
    assert 0.999 < rounded["measured"]["least cosine"] < 1
