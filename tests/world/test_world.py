from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vildcli.data.lvis import annotation_mask, load_annotations
from vildcli.errors import NothingToDoError, RunError
from vildcli.vocabulary.files import load_vocabulary
from vildcli.world.quotas import (
    ONE_EACH,
    PLANS,
    TRAIN_INSTANCES,
    fill_images,
    train_quotas,
    uniform_quotas,
)
from vildcli.world.scenes import MIN_VISIBLE, draw_scene
from vildcli.world.sprites import SpriteKind, draw_sprite, load_sprites
from vildcli.world.textures import TEXTURES, draw_texture
from vildcli.world.world import World, draw_world

SPRITES = load_sprites().sprites
SMALL = {"images": 12, "val_images": 6, "caption_images": 10}
KINDS: list[SpriteKind] = ["shapes", "emoji"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return draw_world(tmp_path_factory.mktemp("world") / "w", **SMALL, seed=3)


def content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "run.json")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_sheet__sixty_categories_a_quarter_of_them_novel() -> None:
    assert Counter(s.frequency for s in SPRITES) == {"r": 15, "c": 22, "f": 23}
    assert len({s.name for s in SPRITES}) == len({s.synset for s in SPRITES}) == 60
    assert [s.name for s in SPRITES if s.frequency == "r"] == [
        *["cherry", "pizza", "cactus", "butterfly", "rabbit", "house", "balloon", "truck"],
        *["umbrella", "candle", "clock", "key", "scissors", "guitar", "star"],
    ]


@pytest.mark.parametrize(
    ("kind", "frozen"), [("shapes", "a7b97a8ff956af1d"), ("emoji", "97ffc5ce56bd745e")]
)
def test_sheet__is_as_it_was_frozen(kind: SpriteKind, frozen: str) -> None:
    """Fails where a picture or a category changed: that is a new version (docs/world.md)."""
    sheet = load_sprites(kind)
    text = json.dumps(asdict(sheet), sort_keys=True, ensure_ascii=False)
    assert sheet.version == 1
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == frozen


def test_sheet__silhouettes_differ() -> None:
    """No two categories overlap so much that only their colours would tell them apart."""
    body = load_sprites().palette["red"]
    masks = np.stack([silhouette(draw_sprite(s.shapes, body, 40)) for s in SPRITES]).astype(float)
    flat = masks.reshape(60, -1)
    both = flat @ flat.T
    areas = flat.sum(axis=1)
    ious = both / (areas[:, None] + areas[None] - both)
    np.fill_diagonal(ious, 0)
    assert ious.max() < 0.97


def silhouette(image: Image.Image) -> np.ndarray[Any, np.dtype[np.bool_]]:
    side = max(image.size)
    square = Image.new("L", (side, side))
    square.paste(image.getchannel("A"), ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((40, 40))) >= 128


@pytest.mark.parametrize("name", load_sprites().textures)
def test_draw_texture__covers_any_size(name: str) -> None:
    pixels = draw_texture(name, 160, 224, np.random.default_rng(0))
    assert pixels.shape == (160, 224, 3)
    assert 1 < pixels.std() < 60
    assert set(TEXTURES) == set(load_sprites().textures)


@pytest.mark.parametrize("kind", KINDS)
def test_quotas__are_long_tailed(kind: SpriteKind) -> None:
    sprites, plan = load_sprites(kind).sprites, PLANS[kind]
    quotas = train_quotas(sprites, plan.images, plan.train)
    by_frequency = {f: [quotas[s.id] for s in sprites if s.frequency == f] for f in "rcf"}
    assert 2 <= min(by_frequency["r"]) < max(by_frequency["r"]) == 10
    assert min(by_frequency["c"]) >= 11
    assert max(by_frequency["c"]) <= 100 < min(by_frequency["f"])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_fill_images__meets_the_quotas_of_training(kind: SpriteKind, seed: int) -> None:
    sprites, plan = load_sprites(kind).sprites, PLANS[kind]
    quotas = train_quotas(sprites, plan.images, plan.train)
    rng = np.random.default_rng(seed)
    shown = fill_images(sprites, plan.images, quotas, TRAIN_INSTANCES, rng)
    counts = Counter(s.id for names in shown for s in set(names))
    assert all(abs(counts[id_] - quota) <= 1 for id_, quota in quotas.items())
    assert {len(names) for names in shown} <= set(range(2, 11))
    assert 5.5 < np.mean([len(names) for names in shown]) < 7.5
    rare = [sum(s.frequency == "r" for s in names) for names in shown]
    assert 2.5 < sum(rare) / sum(counts[s.id] for s in sprites if s.frequency == "r") < 4.5


@pytest.mark.parametrize("kind", KINDS)
def test_fill_images__is_uniform_in_validation(kind: SpriteKind) -> None:
    sprites, plan = load_sprites(kind).sprites, PLANS[kind]
    quotas = uniform_quotas(sprites, plan.val_images, plan.val)
    shown = fill_images(sprites, plan.val_images, quotas, ONE_EACH, np.random.default_rng(0))
    counts = Counter(s.id for names in shown for s in names)
    assert min(counts[s.id] for s in sprites) >= 30
    assert max(len(names) for names in shown) <= 10


@pytest.mark.parametrize("seed", range(4))
def test_draw_scene__every_object_shows(seed: int) -> None:
    names = [SPRITES[i] for i in np.random.default_rng(seed).integers(60, size=10)]
    scene = draw_scene(names, np.random.default_rng(seed))
    height, width = scene.pixels.shape[:2]
    assert len(scene.objects) == 10
    assert min(height, width) >= 160
    assert max(height, width) <= 224
    assert np.stack([o.mask for o in scene.objects]).sum(axis=0).max() == 1
    for found in scene.objects:
        x0, y0, x1, y1 = found.box
        assert found.mask[y0:y1, x0:x1].sum() == found.mask.sum() > 20
        assert found.colour in load_sprites().palette


def test_draw_scene__keeps_the_visible_share() -> None:
    """A scene far too full leaves objects out rather than hide others."""
    tents = [s for s in SPRITES if s.name == "tent"] * 150
    scene = draw_scene(tents, np.random.default_rng(0))
    assert 20 < len(scene.objects) < 150
    smallest = 24 * 24 * 0.25  # a tent of 24 pixels fills more than a quarter of its square
    assert min(o.mask.sum() for o in scene.objects) >= MIN_VISIBLE * smallest


def test_draw_scene__masks_are_where_the_paint_is() -> None:
    """The same stream without noise between: what the mask covers differs from the bare texture."""
    (heart,) = (s for s in SPRITES if s.name == "heart")
    scene = draw_scene([heart], np.random.default_rng(1), with_distractors=False)
    (found,) = scene.objects
    assert found.colour is not None
    body = np.asarray(load_sprites().palette[found.colour][:3], dtype=float)
    distance = np.abs(scene.pixels - body).mean(axis=-1)
    assert np.median(distance[found.mask]) < 8
    assert np.median(distance[~found.mask]) > 20


def test_draw_world__same_seed_same_bytes(world: World, tmp_path: Path) -> None:
    again = draw_world(tmp_path / "again", **SMALL, seed=3)
    other = draw_world(tmp_path / "other", **SMALL, seed=4)
    assert digests(again.folder) == digests(world.folder)
    assert digests(other.folder)["val.json"] != digests(world.folder)["val.json"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_draw_world__annotations_are_exhaustive_lvis(world: World, split: str) -> None:
    found = load_annotations(world.folder / f"{split}.json")
    assert len(found.images) == SMALL["images" if split == "train" else "val_images"]
    for image in found.images:
        with Image.open(world.folder / split / image.file_name) as picture:
            assert picture.size == (image.width, image.height)
        annotations = found.annotations[image.id]
        present = {a.category_id for a in annotations}
        assert image.negative_ids == {c.id for c in found.categories} - present
        assert image.not_exhaustive_ids == frozenset()
        for annotation in annotations:
            mask = annotation_mask(annotation, image.height, image.width)
            assert mask.sum() == annotation.area
            columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert box == annotation.box


def test_draw_world__counts_in_the_categories_are_right(world: World) -> None:
    train = content(world.train_json)
    instances = Counter(a["category_id"] for a in train["annotations"])
    for category in train["categories"]:
        assert category["instance_count"] == instances[category["id"]]
        assert category["image_count"] <= category["instance_count"]


def test_draw_world__vocabulary_equals_the_categories(world: World) -> None:
    vocabulary = load_vocabulary(world.vocabulary)
    assert vocabulary.attributes == {"colour": tuple(load_sprites().palette)}
    rows = [(c.id, c.name, c.synset, c.frequency) for c in vocabulary.categories]
    train = content(world.train_json)
    assert rows == [(c["id"], c["name"], c["synset"], c["frequency"]) for c in train["categories"]]


def test_draw_world__captions_say_what_they_show(world: World) -> None:
    crops = content(world.captions_json)
    names, textures = {s.name for s in SPRITES}, set(load_sprites().textures)
    objects = [c for c in crops if c["colour"]]
    assert {c["name"] for c in objects} <= names
    assert {c["name"] for c in backgrounds(crops)} <= textures
    said = [c["colour"] in c["caption"].split() for c in objects]
    assert 0.3 < np.mean(said) < 0.7
    for crop in crops:
        assert crop["name"] in crop["caption"]
        with Image.open(world.caption_images / crop["file_name"]) as image:
            x, y, width, height = crop["bbox"]
            assert 0 <= x < x + width <= image.width
            assert 0 <= y < y + height <= image.height
    assert not any(" a " + c["name"] in c["caption"] for c in backgrounds(crops))


def backgrounds(crops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [c for c in crops if c["colour"] is None]


def test_draw_world__again_draws_nothing(world: World) -> None:
    calls: list[int] = []
    draw_world(world.folder, **SMALL, seed=3, advance=lambda: calls.append(1))
    assert calls == []


def test_draw_world__an_unfinished_one_is_finished(world: World, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill_after(images: int) -> Iterator[None]:
        yield from [None] * images
        raise Killed

    countdown = kill_after(15)
    with pytest.raises(Killed):
        draw_world(tmp_path / "w", **SMALL, seed=3, advance=lambda: next(countdown))
    finished = draw_world(tmp_path / "w", **SMALL, seed=3)
    assert digests(finished.folder) == digests(world.folder)


def test_draw_world__refuses_another_world(world: World) -> None:
    with pytest.raises(RunError, match="seed: 3 there, 4 now"):
        draw_world(world.folder, **SMALL, seed=4)


def test_draw_world__refuses_no_images(tmp_path: Path) -> None:
    with pytest.raises(NothingToDoError) as caught:
        draw_world(tmp_path / "w", images=0)
    assert str(caught.value) == "A world needs at least one of images, not 0."
    assert not (tmp_path / "w").exists()


def test_draw_world__without_novel_objects(world: World, tmp_path: Path) -> None:
    """The same images, each without its novel objects; all else stays byte by byte."""
    bare = draw_world(tmp_path / "w", **SMALL, seed=3, novel=False)
    whole, less = content(world.train_json), content(bare.train_json)
    novel = {c["id"] for c in whole["categories"] if c["frequency"] == "r"}

    def base_objects(train: dict[str, Any]) -> Counter[tuple[int, int]]:
        rows = [(a["image_id"], a["category_id"]) for a in train["annotations"]]
        return Counter(row for row in rows if row[1] not in novel)

    assert base_objects(less) == base_objects(whole)
    assert len(base_objects(less)) > 0
    assert {a["category_id"] for a in less["annotations"]} & novel == set()
    shows_novel = {a["image_id"] for a in whole["annotations"] if a["category_id"] in novel}
    before, after = digests(world.folder), digests(bare.folder)
    changed = {name for name in before if before[name] != after[name]}
    pictures = {f"train/{image:06d}.jpg" for image in shows_novel}
    assert changed == {"train.json", *pictures}
    assert 0 < len(pictures) < SMALL["images"]
    with pytest.raises(RunError, match="novel: None there, False now"):
        draw_world(world.folder, **SMALL, seed=3, novel=False)


def test_draw_world__shapes_annotations_are_as_they_were_specified(world: World) -> None:
    keys = {"id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd"}
    assert {key for a in content(world.val_json)["annotations"] for key in a} == keys
