from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "text_bank.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("text_bank_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_both_ways_give_the_same_vectors(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "RN50", "--names", "2", "--prompts", "single", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["text_bank.py", *given])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("RN50, 2 names, 3 sentences")
    assert [line.split("  ")[0] for line in lines[2:4]] == ["open_clip, plainly", "vildcli"]
    assert float(lines[-1].rsplit(" ", 1)[1]) == pytest.approx(1, abs=1e-5)
