from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training_step.py"
SMALL = "--device cpu --size 128 --batch 1 --steps 1 --width 8 --classes 3 --precision float32"


@pytest.mark.slow
def test_both_sides_train_and_are_named() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALL.split()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith("128x128, batch 1, float32, 3 classes")
    assert [line.split()[0] for line in lines[2:]] == [
        "vild-ensemble",
        "maskrcnn_resnet50_fpn_v2",
        "ratio",
    ]
    assert float(lines[-1].split()[1]) > 0
