from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vildcli.errors import DataError, NothingToDoError, RunError
from vildcli.world.photographs import Photographs
from vildcli.world.world import draw_world

SMALL = {"images": 2, "val_images": 2, "caption_images": 10}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A wide, a high and a tiny photograph, each of one channel, brighter to the right."""
    folder = tmp_path / "photographs"
    (folder / "below").mkdir(parents=True)
    for channel, (place, width, height) in enumerate(
        [("a.png", 1400, 700), ("below/b.png", 300, 500), ("c.png", 40, 30)]
    ):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., channel] = np.linspace(55, 255, width)
        Image.fromarray(pixels).save(folder / place)
    (folder / "notes.txt").write_text("not a photograph")
    return folder


@pytest.mark.parametrize("size", [(160, 224), (224, 160), (192, 192)])
def test_crop__is_a_part_of_one_photograph(folder: Path, size: tuple[int, int]) -> None:
    photographs, rng = Photographs(folder), np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        pixels = photographs.crop(*size, rng)
        assert pixels.shape == (*size, 3)
        channel = int(pixels.mean(axis=(0, 1)).argmax())
        seen.add(channel)
        assert pixels[..., [c for c in range(3) if c != channel]].max() == 0
        assert 55 <= pixels[..., channel].min() < pixels[..., channel].max() <= 255
        spread = pixels[..., channel].max() - pixels[..., channel].min()
        assert spread > 40  # at least half of the photograph's shorter side
    assert seen == {0, 1, 2}


def test_photographs__without_any(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a photograph")
    with pytest.raises(NothingToDoError) as caught:
        Photographs(tmp_path)
    assert str(caught.value) == f"No image found in {tmp_path} (1 file skipped: 1 .txt)."


def test_draw_world__on_photographs(folder: Path, tmp_path: Path) -> None:
    draw_world(tmp_path / "w", **SMALL, backgrounds=folder)
    draw_world(tmp_path / "again", **SMALL, backgrounds=folder)
    for part in ("train.json", "train/000001.jpg", "captions.json"):
        assert (tmp_path / "w" / part).read_bytes() == (tmp_path / "again" / part).read_bytes()
    crops = json.loads((tmp_path / "w" / "captions.json").read_text())
    bare = [crop for crop in crops if crop["colour"] is None]
    assert len(bare) == 9
    assert {crop["name"] for crop in bare} == {"background"}
    assert all(" a background" not in crop["caption"] for crop in bare)
    with Image.open(tmp_path / "w" / "captions" / bare[0]["file_name"]) as image:
        channels = np.sort(np.asarray(image, dtype=float).mean(axis=(0, 1)))
    assert channels[1] < 20 < channels[2]


def test_draw_world__other_photographs_are_another_world(folder: Path, tmp_path: Path) -> None:
    draw_world(tmp_path / "w", **SMALL, backgrounds=folder)
    Image.new("RGB", (300, 300)).save(folder / "d.png")
    with pytest.raises(RunError, match=r"backgrounds: '[0-9a-f]{16}' there"):
        draw_world(tmp_path / "w", **SMALL, backgrounds=folder)
    with pytest.raises(RunError, match="None now"):
        draw_world(tmp_path / "w", **SMALL)


def test_draw_world__names_a_photograph_that_is_broken(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_bytes(b"\xff\xd8\xff and no more")
    with pytest.raises(DataError, match=r"p/a\.jpg"):
        draw_world(tmp_path / "w", **SMALL, backgrounds=tmp_path / "p")
