"""The script runs, at a size that says nothing about speed, and finds equal numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluation.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluation_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "evaluation_benchmark", module)
    spec.loader.exec_module(module)
    # A process for each turn would cost seconds here.
    monkeypatch.setattr(module, "_in_a_process", module.measure)
    return module


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what the script does to lvis and to logging, which is for a process of its own."""
    import logging

    lvis: Any = pytest.importorskip("lvis")
    handlers = list(logging.getLogger().handlers)
    monkeypatch.setattr(lvis.eval, "np", lvis.eval.np)
    yield
    logging.disable(logging.NOTSET)
    logging.getLogger().handlers = handlers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lvis calls logger.warn
@pytest.mark.parametrize(("rules", "package"), [("lvis", "lvis"), ("coco", "pycocotools")])
def test_it_prints_a_table_with_where_and_when(
    script: ModuleType, quiet: None, capsys: pytest.CaptureFixture[str], rules: str, package: str
) -> None:
    script.main(["--rules", rules, "--images", "3", "--detections", "9", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("hotcoco ")
    assert lines[2].startswith("python ")
    assert lines[3] == "3 images, 27 detections"
    assert lines[4].split() == [package, "MiB", "ours", "MiB", "ratio", "difference"]
    for line, name in zip(lines[5:], ("boxes", "masks"), strict=True):
        assert line.split()[0] == name
        assert float(line.split()[-1]) < 1e-9
        assert all(float(word) > 0 for word in line.split()[1:-1] if word != "s")


def test_the_case__is_the_same_for_both(script: ModuleType) -> None:
    cases = [script.make_case(script.Task("lvis", "segm", 2, 5, ours)) for ours in (False, True)]
    assert cases[0] == cases[1]
    content, results = cases[0]
    assert len(results) == 10
    assert {row["frequency"] for row in content["categories"]} == {"r", "c", "f"}
