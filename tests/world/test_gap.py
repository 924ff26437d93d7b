from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vildcli.errors import RunError
from vildcli.world.gap import DARKEST, widen_gap
from vildcli.world.world import draw_world

SMALL = {"images": 2, "val_images": 2, "caption_images": 2, "seed": 3}


def test_gap__darker_tinted_and_blurred() -> None:
    grey = np.full((9, 9, 3), 200, np.uint8)
    assert widen_gap(grey, 0) is grey
    found = widen_gap(grey, 1)
    red, green, blue = found[4, 4].tolist()
    assert red == round(200 * (1 - DARKEST))
    assert red > green > blue > 0
    half = widen_gap(grey, 0.5)[4, 4]
    assert (half > found[4, 4]).all()
    assert (half < 200).all()
    dot = np.zeros((21, 21, 3), np.uint8)
    dot[10, 10] = 255
    spread = widen_gap(dot, 1)[..., 0]
    assert (spread > 0).sum() > 9
    assert spread.max() < 255 * (1 - DARKEST) / 5
    assert (grey == 200).all()  # the picture itself stays


def test_world__scenes_change_and_neither_captions_nor_annotations(tmp_path: Path) -> None:
    plain = draw_world(tmp_path / "plain", **SMALL)
    apart = draw_world(tmp_path / "apart", **SMALL, gap=0.8)
    for name in ("train.json", "val.json", "captions.json", "vocabulary.yaml"):
        assert (plain.folder / name).read_bytes() == (apart.folder / name).read_bytes()
    for part in ("train", "val", "captions"):
        for path in sorted((plain.folder / part).iterdir()):
            other = apart.folder / part / path.name
            assert (path.read_bytes() == other.read_bytes()) == (part == "captions")
    ours, theirs = (
        np.asarray(Image.open(world.train_images / "000001.jpg")).mean() for world in (apart, plain)
    )
    assert ours < 0.6 * theirs
    assert "gap" not in json.loads((plain.folder / "run.json").read_text())["settings"]
    with pytest.raises(RunError):  # another gap is another world
        draw_world(tmp_path / "apart", **SMALL, gap=0.5)
