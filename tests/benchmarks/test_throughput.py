"""The script runs, at a size that says nothing about speed, and says what it measured."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from stub_model import draw_images

from benchmarks import throughput
from benchmarks.throughput import Asked, Seconds, Turn

SMALL = "--device cpu --images 1 --rounds 1 --names 3 200 --size 128 --owl-size 64 --threads 1"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each contender would cost seconds here."""
    monkeypatch.setattr(throughput, "_alone", lambda work, *arguments: work(*arguments))


def measured(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    photos, out = draw_images(tmp_path / "photos", 3, size=(96, 64)), tmp_path / "performance.json"
    files = ["--folder", str(photos), "--out", str(out)]
    throughput.main([*SMALL.split(), *options, *files])
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


@pytest.mark.slow
def test_ours_beside_torchvisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--only", "vild-ensemble", "maskrcnn_resnet50_fpn_v2", "--yardstick-precision", "bf16"]
    only += ["--images", "3", "--batch", "2"]
    rows = measured(tmp_path, *only, "--regions", "30", "9", "--masks", "4", "7", "--note", "noise")
    asked = [
        (row["row"], *(row["parameters"][key] for key in ("names", "regions", "masks")))
        for row in rows
    ]
    assert asked == [
        (name, names, regions, masks)
        for regions in (30, 9)
        for name, of_names in (("vild-ensemble", (3, 200)), ("maskrcnn_resnet50_fpn_v2", (91,)))
        for masks in (4, 7)
        for names in of_names
    ]
    for row in rows:
        found = row["measured"]
        assert found["masks made"] <= row["parameters"]["masks"]
        stages = [found.get(f"{stage} ms", 0) for stage in ("decode", "forward", "score", "masks")]
        assert found["images/s"] == pytest.approx(1e3 / sum(stages), rel=0.05)
        assert found["peak MiB"] > 50
        assert (row["item"], row["note"]) == ("detect", "noise")
        assert row["parameters"]["batch"] == 2
        assert (row["parameters"]["precision"] == "fp32") == (row["row"] == "vild-ensemble")
        assert (found["ratio"] == found["CPU ratio"] == 1) == (row["row"] != "vild-ensemble")
    assert capsys.readouterr().out.count("vild-ensemble  ") == 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers, and of what it imports
def test_the_others(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install 'vildcli[bench]'")
    rows = measured(
        tmp_path, "--only", *throughput.OTHERS, "--crops", "5", "--masks", "4", "--size", "320"
    )
    asked = [
        (row["row"], *(row["parameters"][key] for key in ("names", "regions", "masks")))
        for row in rows
    ]
    assert asked == [
        ("OWLv2-B/16", 3, 16, 0),
        ("OWLv2-B/16", 200, 16, 0),
        ("Grounding DINO tiny", 3, 900, 0),  # 200 names are more than it reads at once
        ("CLIP on crops", 3, 5, 4),
        ("CLIP on crops", 200, 5, 4),
    ]
    assert not any("ratio" in row["measured"] for row in rows)


def test_a_row_is_the_sum_of_its_stages() -> None:
    turn = Turn(torch.device("cpu"))
    turn.seconds = {
        ("forward", None): Seconds(1.0, 0.5),
        ("score", 80): Seconds(0.1, 0.1),
        ("score", 1203): Seconds(0.3, 0.2),
        ("masks", 80): Seconds(7.0, 7.0),
    }
    assert turn.total(Asked(names=1203, masks=20)) == Seconds(1.3, 0.7)
    assert turn.total(Asked(names=80, masks=80)) == Seconds(pytest.approx(8.1), pytest.approx(7.6))


def test_what_is_measured_is_an_images() -> None:
    turn = Turn(torch.device("cpu"), images=4)
    for _ in range(2):
        with turn.stage("forward"):
            time.sleep(0.02)
    assert 0.01 <= turn.total(Asked(80, 20)).wall < 0.1


def test_ratios_are_of_turns_that_were_side_by_side() -> None:
    def turns(key: tuple[str, int | None], *walls: float) -> list[Turn]:
        device = torch.device("cpu")
        return [Turn(device, seconds={key: Seconds(wall, wall)}) for wall in walls]

    ours, theirs = turns(("forward", None), 1, 8, 3), turns(("forward", 20), 2, 4, 9)
    found = throughput._ratios(ours, theirs, Asked(80, 20), Seconds(0.0, 0.0))
    assert found == {"ratio": 0.5, "CPU ratio": 0.5}
