"""The script runs, at a size that says nothing about speed, and finds equal numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import evaluation


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # A process for each turn would cost seconds here.
    monkeypatch.setattr(evaluation, "_in_a_process", evaluation.measure)
    return evaluation


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
def test_it_prints_and_records_boxes_and_masks(
    script: ModuleType,
    quiet: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rules: str,
    package: str,
) -> None:
    out = tmp_path / "performance.json"
    size = ["--images", "3", "--detections", "9", "--repeats", "1", "--out", str(out)]
    script.main(["--rules", rules, *size])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("hotcoco ")
    assert lines[2].startswith("python ")
    assert lines[3] == "3 images, 27 detections"
    sides = [("boxes", package), ("boxes", "vildcli"), ("masks", package), ("masks", "vildcli")]
    assert [tuple(line.split()[:2]) for line in lines[5:]] == sides
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    assert [(row["parameters"]["compared"], row["row"]) for row in rows] == sides
    for row in rows:
        measured = row["measured"]
        assert measured.pop("difference") < 1e-9
        assert min(measured.values()) > 0


def test_ours_alone(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--images", "2", "--detections", "5", "--repeats", "1", "--ours-only"])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[5:]] == ["vildcli"] * 2


def test_the_case__is_the_same_for_both(script: ModuleType) -> None:
    tasks = [script.Task("lvis", "segm", 2, 5, ours) for ours in (False, True)]
    (content, predictions), (same, other) = (script.make_case(task) for task in tasks)
    assert content == same
    assert {row["frequency"] for row in content["categories"]} == {"r", "c", "f"}
    results = script.results_of(predictions)
    assert results == script.results_of(other)
    assert len(results) == len(predictions) == 10
    for row, result in enumerate(results):
        assert result["image_id"] == predictions.image_ids[row]
        assert result["bbox"] == predictions.boxes[row].tolist()
        assert result["segmentation"] is predictions.masks[row]
