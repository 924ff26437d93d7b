"""The benchmark of chosen regions runs, and its numbers are those of their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_evaluation import save_clip
from tiny_training import write_images

from benchmarks.chosen_regions import _met, main


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))


def test_all_ways_side_by_side(tmp_path: Path) -> None:
    data = write_images(tmp_path / "photos", 3)
    results, boxes = tmp_path / "results.json", tmp_path / "boxes.json"
    objects = json.loads(Path(data).read_text())["annotations"]
    boxes.write_text(json.dumps([a | {"score": 1.0} for a in objects]))
    given = ["--data", data, "--teacher", save_clip(tmp_path / "clip"), "--results", results]
    given += ["--images", "2", "--regions", "20", "--stride", "240", "--among", boxes]
    main([*map(str, given), "--device", "cpu"])
    content = json.loads(results.read_text())
    rows = {row["way"]: row for row in content["rows"]}
    assert list(rows) == ["exact", "cheap", "stride 480", "proposals alone", "random"]
    assert (rows["exact"]["agreement"], rows["exact"]["share"]) == (1, 1)
    assert rows["exact"]["crops"] == content["anchors"]
    assert rows["cheap"]["crops"] == 3  # the true boxes of an image, of which one is novel
    assert rows["cheap"]["recall"] == rows["proposals alone"]["recall"] == 1
    assert rows["proposals alone"]["crops"] == 0
    assert rows["stride 480"]["crops"] < content["anchors"] / 2
    assert rows["random"]["crops"] == 0
    assert all(0 <= row["agreement"] <= 1 and 0 <= row["recall"] <= 1 for row in rows.values())
    assert (content["images"], content["novel_objects"]) == (2, 2)


def test_met__counts_the_wanted() -> None:
    wanted = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 10], [20, 20, 30, 26]])
    assert (_met(wanted, boxes, 0.5), _met(wanted, boxes, 0.7)) == (2, 1)
    assert _met(wanted, boxes[:0], 0.5) == _met(wanted[:0], boxes, 0.5) == 0
