from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import training_step

SMALL = "--device cpu --size 128 --batch 1 --steps 1 --warm-up 0 --width 8 --classes 3"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_both_sides_train_and_are_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "performance.json"
    training_step.main([*SMALL.split(), "--precision", "float32", "--out", str(out)])
    assert "python -m benchmarks.training_step" in capsys.readouterr().out
    ours, theirs = json.loads(out.read_text())
    assert (ours["row"], theirs["row"]) == ("vild-ensemble", "torchvision v2")
    assert theirs["measured"]["ratio"] == theirs["measured"]["CPU ratio"] == 1
    assert min(ours["measured"].values()) > 0
    assert (ours["parameters"]["pixels"], ours["parameters"]["precision"]) == (128, "float32")
