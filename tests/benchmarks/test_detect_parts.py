from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stub_model import draw_images

from benchmarks import detect_parts


@pytest.mark.slow
def test_parts_are_less_than_the_whole_and_multiply_as_much(tmp_path: Path) -> None:
    photos, out = draw_images(tmp_path / "photos", 1, size=(96, 64)), tmp_path / "performance.json"
    small = ["--regions", "9", "--size", "128", "--rounds", "1"]
    detect_parts.main([*small, "--folder", str(photos), "--out", str(out)])
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    found = {(row["row"], row["parameters"]["part"]): row["measured"] for row in rows}
    assert {name for name, _ in found} == {"trained", "vild", "torchvision"}
    for name in ("trained", "torchvision"):
        parts = ("body and pyramid", "proposals", "head")
        whole = found[name, "whole"]
        assert sum(found[name, part]["CPU ms"] for part in parts) <= whole["CPU ms"] + 3
        gmac = sum(found[name, part]["GMAC"] for part in parts)
        assert gmac <= whole["GMAC"] + 0.3
    heads = [found[name, "head"]["GMAC"] for name in ("trained", "torchvision")]
    assert heads[0] == pytest.approx(heads[1], abs=0.15)  # ours has one more layer
    assert min(heads) > 1
    assert found["vild", "whole"]["GMAC"] == found["trained", "whole"]["GMAC"]
