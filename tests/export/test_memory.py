from __future__ import annotations

import hashlib
import tracemalloc

import pytest
from export_run import ODD, select
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.export import FORMATS, parquet

RED = (("colour", "red", 0.5), ("label", "old", 0.5))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of 3 units and one of 15, alike in all else."""
    labels = [DrawnLabel(7, 0.9, (2.0 * i, 1, 20.0 + 2 * i, 30), True, RED) for i in range(12)]
    made = []
    for units in (3, 15):
        images = [
            DrawnImage(f"{i:04}.png", (48, 32), labels, hashlib.sha256(b"%d" % i).hexdigest())
            for i in range(units * 4)
        ]
        folder = tmp_path_factory.mktemp(f"units{units}")
        made.append(build_run(folder / "run", folder / "p", images, vocabulary=ODD, unit_size=4))
    return made


@pytest.mark.parametrize("target", FORMATS)
def test_export__memory_does_not_grow_with_the_run(runs, tmp_path, monkeypatch, target):
    monkeypatch.setattr(parquet, "_ROW_GROUP", 64)
    form, peaks = FORMATS[target], []
    form.export(select(runs[1]), tmp_path / "warm" / form.name, geometry="box")
    for place, run in enumerate(runs):
        tracemalloc.start()
        form.export(select(run), tmp_path / str(place) / form.name, geometry="box")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
