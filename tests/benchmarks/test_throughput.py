"""The script runs, at a size that says nothing about speed, and says what it measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from stub_model import draw_images

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "throughput.py"
SMALL = "--device cpu --images 1 --rounds 1 --masks 4 --size 128 --owl-size 64 --threads 1"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("throughput_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "throughput_benchmark", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers, and of what it imports
def test_it_measures_every_contender_on_the_same_images(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="pip install 'vildcli[bench]'")
    photos, out = draw_images(tmp_path / "photos", 1, size=(96, 64)), tmp_path / "out.json"
    options = ["--names", "3", "5", "--closed-names", "4", "--folder", str(photos)]
    script.main([*SMALL.split(), *options, "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["command"].startswith("python benchmarks/throughput.py --device cpu ")
    assert {"date", "hardware", "torch", "canvas", "measured"} <= set(found)
    rows = {(row["contender"], row["names"]): row for row in found["rows"]}
    both = ["vild", "vild-ensemble", "OWLv2-B/16", "CLIP on crops"]
    assert set(rows) == {(name, count) for name in both for count in (3, 5)} | {
        ("maskrcnn_resnet50_fpn_v2", 3)
    }
    for (name, _), row in rows.items():
        stages = {k: s for k, s in row["seconds"].items() if k not in ("decode", "total")}
        assert sum(stages.values()) == pytest.approx(row["seconds"]["total"])
        whole = row["seconds"]["decode"] + row["seconds"]["total"]
        assert row["images_per_second"] == pytest.approx(1 / whole)
        assert row["masks"] <= 4
        assert (row["masks"] > 0) == ("masks" in stages) == (name != "OWLv2-B/16")
    assert capsys.readouterr().out.count("vild-ensemble") == 2
