"""Draw a whole small world into a folder: two annotated splits, a vocabulary, captioned crops."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vildcli.errors import NothingToDoError
from vildcli.runs import file_sha256, open_run, write_atomically
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary
from vildcli.world.annotations import lvis_content
from vildcli.world.captions import caption_background, caption_objects
from vildcli.world.emoji import find_font, require_emoji
from vildcli.world.gap import widen_gap
from vildcli.world.photographs import Photographs
from vildcli.world.quotas import (
    CAPTION_OBJECTS,
    ONE_EACH,
    PLANS,
    TRAIN_INSTANCES,
    fill_images,
    train_quotas,
    uniform_quotas,
)
from vildcli.world.scenes import Scene, draw_scene
from vildcli.world.sprites import Sprite, SpriteKind, load_sprites

JPEG_QUALITY = 95
EMPTY_EVERY = 10  # every tenth caption scene shows only its background
_TRAIN, _VAL, _CAPTIONS = range(3)  # streams of randomness: one split never moves another's

NamedScene = tuple[str, Scene]  # file name, drawn


@dataclass(frozen=True, slots=True)
class World:
    """Where the parts of a small world lie."""

    folder: Path

    @property
    def train_json(self) -> Path:
        return self.folder / "train.json"

    @property
    def train_images(self) -> Path:
        return self.folder / "train"

    @property
    def val_json(self) -> Path:
        return self.folder / "val.json"

    @property
    def val_images(self) -> Path:
        return self.folder / "val"

    @property
    def captions_json(self) -> Path:
        return self.folder / "captions.json"

    @property
    def caption_images(self) -> Path:
        return self.folder / "captions"

    @property
    def vocabulary(self) -> Path:
        return self.folder / "vocabulary.yaml"

    @property
    def is_complete(self) -> bool:
        return self.captions_json.is_file()  # written last


@dataclass(frozen=True, slots=True)
class _Brush:
    """What every picture of a world is drawn with."""

    seed: int
    kind: SpriteKind
    photographs: Photographs | None
    advance: Callable[[], None] | None
    gap: float = 0.0

    @property
    def sprites(self) -> tuple[Sprite, ...]:
        return load_sprites(self.kind).sprites

    def stream(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])


def draw_world(
    folder: Path,
    *,
    images: int | None = None,
    val_images: int | None = None,
    caption_images: int | None = None,
    seed: int = 0,
    sprites: SpriteKind = "shapes",
    novel: bool = True,
    backgrounds: Path | None = None,
    gap: float = 0.0,
    force: bool = False,
    advance: Callable[[], None] | None = None,
) -> World:
    """Draw a small world; the same arguments give the same bytes (of one Pillow and numpy).

    A folder that already holds this world is left as it is, an unfinished one is drawn again.

    Args:
        folder: absent, empty, or this world.
        images: training images; by default those of the sprites' plan, as the next two.
        val_images: validation images.
        caption_images: scenes with captioned crops; nine of ten show about ten objects each.
        seed: of everything random.
        sprites: `shapes`, 60 categories, need nothing; `emoji`, 240, need a colour-emoji font.
        novel: whether training images show novel objects; validation and captions do in any case.
        backgrounds: a folder of photographs to lay objects on instead of textures.
        gap: how far training and validation images are from the captioned ones, 0 to 1: darker,
            blurred, tinted.
        force: delete another world in the folder first.
        advance: called after each image.

    Raises:
        MissingDependencyError: no colour-emoji font is installed, or one too old.
        NothingToDoError: a part without images, or backgrounds without any.
        DataError: a background cannot be decoded.
        RunError: the folder holds something else.
    """
    plan = PLANS[sprites]
    counts = {
        "images": plan.images if images is None else images,
        "val_images": plan.val_images if val_images is None else val_images,
        "caption_images": plan.caption_images if caption_images is None else caption_images,
    }
    for name, count in counts.items():
        if count < 1:
            raise NothingToDoError(f"A world needs at least one of {name}, not {count}.")
    photographs = None if backgrounds is None else Photographs(backgrounds)
    brush = _Brush(seed, sprites, photographs, advance, gap)
    settings: dict[str, Any] = {**counts, "seed": seed, "sprites": sprites}
    settings |= _looks(brush) | ({} if novel else {"novel": False}) | ({"gap": gap} if gap else {})
    open_run(folder, kind="world", settings=settings, force=force)
    world = World(folder)
    if not world.is_complete:
        _draw_train(world, counts["images"], brush, novel=novel)
        _draw_val(world, counts["val_images"], brush)
        save_vocabulary(_vocabulary(sprites), world.vocabulary)
        _draw_captions(world, counts["caption_images"], brush)
    return world


def _looks(brush: _Brush) -> dict[str, Any]:
    """Settings that stand for what the pictures are made of."""
    looks: dict[str, Any] = {"spec": load_sprites(brush.kind).version}
    if brush.kind == "emoji":
        require_emoji(sprite.character for sprite in brush.sprites)
        looks["font"] = file_sha256(find_font())[:16]
    if brush.photographs is not None:
        looks["backgrounds"] = brush.photographs.fingerprint
    return looks


def _draw_train(world: World, images: int, brush: _Brush, *, novel: bool) -> None:
    quotas = train_quotas(brush.sprites, images, PLANS[brush.kind].train)
    shown = fill_images(brush.sprites, images, quotas, TRAIN_INSTANCES, brush.stream(_TRAIN))
    if not novel:
        shown = [[s for s in names if s.frequency != "r"] for names in shown]
    _draw_annotated(shown, world.train_json, world.train_images, _TRAIN, brush)


def _draw_val(world: World, images: int, brush: _Brush) -> None:
    quotas = uniform_quotas(brush.sprites, images, PLANS[brush.kind].val)
    shown = fill_images(brush.sprites, images, quotas, ONE_EACH, brush.stream(_VAL))
    _draw_annotated(shown, world.val_json, world.val_images, _VAL, brush)


def _draw_annotated(
    shown: Sequence[Sequence[Sprite]], annotations: Path, images: Path, split: int, brush: _Brush
) -> None:
    scenes = _draw(shown, images, split, brush)
    # The shapes' annotations are frozen, and were written before an attribute was measured.
    content = lvis_content(scenes, brush.sprites, with_colours=brush.kind == "emoji")
    _write_json(annotations, content)


def _draw_captions(world: World, images: int, brush: _Brush) -> None:
    sprites = brush.sprites
    empty = images // EMPTY_EVERY
    quotas = uniform_quotas(sprites, images - empty, PLANS[brush.kind].captions)
    rng = brush.stream(_CAPTIONS)
    shown = fill_images(sprites, images - empty, quotas, ONE_EACH, rng, objects=CAPTION_OBJECTS)
    shown += [[] for _ in range(empty)]
    crops: list[dict[str, Any]] = []
    for file_name, scene in _draw(shown, world.caption_images, _CAPTIONS, brush):
        caption = caption_objects if scene.objects else caption_background
        crops += caption(scene, file_name, rng)
    _write_json(world.captions_json, crops)


def _draw(
    shown: Sequence[Sequence[Sprite]], folder: Path, split: int, brush: _Brush
) -> Iterator[NamedScene]:
    folder.mkdir(exist_ok=True)
    for i, sprites in enumerate(shown, start=1):
        file_name = f"{i:06d}.jpg"
        scene = draw_scene(
            sprites,
            brush.stream(split, i),
            photographs=brush.photographs,
            with_distractors=bool(sprites),
        )
        pixels = scene.pixels if split == _CAPTIONS else widen_gap(scene.pixels, brush.gap)
        Image.fromarray(pixels).save(folder / file_name, quality=JPEG_QUALITY, subsampling="4:4:4")
        if brush.advance is not None:
            brush.advance()
        yield file_name, scene


def _vocabulary(kind: SpriteKind) -> Vocabulary:
    sheet = load_sprites(kind)
    categories = tuple(
        Category(id=s.id, name=s.name, synset=s.synset, frequency=s.frequency)
        for s in sheet.sprites
    )
    name = "small-world" if kind == "shapes" else "emoji-world"
    return Vocabulary(name, categories, {"colour": tuple(sheet.palette)})


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False) + "\n"
    write_atomically(path, lambda beside: _write_text(beside, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
