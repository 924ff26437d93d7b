"""The emoji world as it lies on disk: colours that are true, annotations that others read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_evaluation import official_coco, official_lvis
from PIL import Image
from pycocotools import mask as coco_mask

from vildcli.vocabulary.files import load_vocabulary
from vildcli.world.sprites import load_sprites
from vildcli.world.world import World, draw_world

SHEET = load_sprites("emoji")
SMALL = {"images": 10, "val_images": 6, "caption_images": 10}

pytestmark = pytest.mark.usefixtures("emoji_font")


@pytest.fixture(scope="module")
def world(emoji_font: None, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("emoji") / "w"
    return draw_world(folder, **SMALL, seed=5, sprites="emoji")


@pytest.fixture(scope="module")
def val(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.val_json.read_text())
    return found


def files(folder: Path) -> dict[str, bytes]:
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.json"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_draw_world__same_seed_same_bytes(world: World, tmp_path: Path) -> None:
    again = draw_world(tmp_path / "again", **SMALL, seed=5, sprites="emoji")
    assert files(again.folder) == files(world.folder)
    assert len(files(again.folder)) == sum(SMALL.values()) + 4


def test_draw_world__remembers_the_font(world: World) -> None:
    settings = json.loads((world.folder / "run.json").read_text())["settings"]
    assert set(settings) == {*SMALL, "seed", "sprites", "spec", "font"}
    assert (settings["sprites"], settings["spec"]) == ("emoji", 1)


def test_annotations__say_the_colour_that_is_seen(world: World, val: dict[str, Any]) -> None:
    palette = np.array([rgba[:3] for rgba in SHEET.palette.values()], dtype=float)
    right = []
    for image in val["images"]:
        with Image.open(world.val_images / image["file_name"]) as picture:
            pixels = np.asarray(picture, dtype=float)
        for row in val["annotations"]:
            if row["image_id"] == image["id"]:
                mask = coco_mask.decode(row["segmentation"]).astype(bool)
                seen = np.median(pixels[mask], axis=0)
                nearest = int(((palette - seen) ** 2).sum(axis=1).argmin())
                right.append(row["attributes"] == {"colour": list(SHEET.palette)[nearest]})
    assert len(right) > 30
    assert np.mean(right) > 0.95


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lvis calls logger.warn
def test_annotations__are_read_by_the_official_packages(val: dict[str, Any]) -> None:
    """Every object found again is an average precision of 1 over all that is there."""
    rows = val["annotations"]
    results = [
        {k: row[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1.0}
        for row in rows
    ]
    lvis = official_lvis(val, results, "segm")
    assert (lvis.results["AP"], lvis.results["APr"]) == pytest.approx((1, 1))
    coco = official_coco(val, results, "bbox")
    assert coco.stats[0] == pytest.approx(1)
    present = Counter(row["category_id"] for row in rows)
    assert len(val["categories"]) == 240
    assert {c["id"]: c["instance_count"] for c in val["categories"] if c["instance_count"]} == {
        **present
    }


def test_vocabulary__equals_the_categories(world: World, val: dict[str, Any]) -> None:
    vocabulary = load_vocabulary(world.vocabulary)
    assert vocabulary.name == "emoji-world"
    assert vocabulary.attributes == {"colour": tuple(SHEET.palette)}
    rows = [(c.id, c.name, c.synset, c.frequency) for c in vocabulary.categories]
    assert rows == [(c["id"], c["name"], c["synset"], c["frequency"]) for c in val["categories"]]


def test_captions__say_the_name_and_half_of_them_the_colour(world: World) -> None:
    crops = json.loads(world.captions_json.read_text())
    objects = [crop for crop in crops if crop["colour"]]
    assert {crop["name"] for crop in objects} <= {sprite.name for sprite in SHEET.sprites}
    assert all(crop["name"] in crop["caption"] for crop in crops)
    said = [f"{crop['colour']} {crop['name']}" in crop["caption"] for crop in objects]
    assert 0.3 < np.mean(said) < 0.7
    assert {crop["name"] for crop in crops} - {crop["name"] for crop in objects} <= set(
        SHEET.textures
    )
