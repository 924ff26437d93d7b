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
from vildcli.runs import open_run, write_atomically
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary
from vildcli.world.annotations import lvis_content
from vildcli.world.captions import caption_background, caption_objects
from vildcli.world.quotas import (
    CAPTION_OBJECTS,
    CAPTION_SHARE,
    ONE_EACH,
    TRAIN_INSTANCES,
    VAL_SHARE,
    fill_images,
    train_quotas,
    uniform_quotas,
)
from vildcli.world.scenes import Scene, draw_scene
from vildcli.world.sprites import SpriteKind, load_sprites

JPEG_QUALITY = 95
EMPTY_EVERY = 10  # every tenth caption scene shows only its texture
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
    advance: Callable[[], None] | None

    def stream(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])


def draw_world(
    folder: Path,
    *,
    images: int = 600,
    val_images: int = 300,
    caption_images: int = 400,
    seed: int = 0,
    sprites: SpriteKind = "shapes",
    force: bool = False,
    advance: Callable[[], None] | None = None,
) -> World:
    """Draw a small world; the same arguments give the same bytes (of one Pillow and numpy).

    A folder that already holds this world is left as it is, an unfinished one is drawn again.

    Args:
        folder: absent, empty, or this world.
        images: training images.
        val_images: validation images.
        caption_images: scenes with captioned crops; nine of ten show about ten objects each.
        seed: of everything random.
        sprites: `shapes` need nothing; `emoji` need a colour-emoji font.
        force: delete another world in the folder first.
        advance: called after each image.

    Raises:
        MissingDependencyError: no colour-emoji font is installed.
        NothingToDoError: a part without images.
        RunError: the folder holds something else.
    """
    counts = {"images": images, "val_images": val_images, "caption_images": caption_images}
    for name, count in counts.items():
        if count < 1:
            raise NothingToDoError(f"A world needs at least one of {name}, not {count}.")
    settings = {**counts, "seed": seed, "sprites": sprites, "spec": load_sprites().version}
    open_run(folder, kind="world", settings=settings, force=force)
    world, brush = World(folder), _Brush(seed, sprites, advance)
    if not world.is_complete:
        _draw_train(world, images, brush)
        _draw_val(world, val_images, brush)
        save_vocabulary(_vocabulary(sprites), world.vocabulary)
        _draw_captions(world, caption_images, brush)
    return world


def _draw_train(world: World, images: int, brush: _Brush) -> None:
    sprites = load_sprites().sprites
    quotas = train_quotas(sprites, images)
    shown = fill_images(sprites, images, quotas, TRAIN_INSTANCES, brush.stream(_TRAIN))
    scenes = _draw(shown, world.train_images, _TRAIN, brush)
    _write_json(world.train_json, lvis_content(scenes, sprites))


def _draw_val(world: World, images: int, brush: _Brush) -> None:
    sprites = load_sprites().sprites
    quotas = uniform_quotas(sprites, images, VAL_SHARE)
    shown = fill_images(sprites, images, quotas, ONE_EACH, brush.stream(_VAL))
    scenes = _draw(shown, world.val_images, _VAL, brush)
    _write_json(world.val_json, lvis_content(scenes, sprites))


def _draw_captions(world: World, images: int, brush: _Brush) -> None:
    sprites = load_sprites().sprites
    empty = images // EMPTY_EVERY
    quotas = uniform_quotas(sprites, images - empty, CAPTION_SHARE)
    rng = brush.stream(_CAPTIONS)
    shown = fill_images(sprites, images - empty, quotas, ONE_EACH, rng, objects=CAPTION_OBJECTS)
    shown += [[] for _ in range(empty)]
    crops: list[dict[str, Any]] = []
    for file_name, scene in _draw(shown, world.caption_images, _CAPTIONS, brush):
        caption = caption_objects if scene.objects else caption_background
        crops += caption(scene, file_name, rng)
    _write_json(world.captions_json, crops)


def _draw(
    shown: Sequence[Sequence[Any]], folder: Path, split: int, brush: _Brush
) -> Iterator[NamedScene]:
    folder.mkdir(exist_ok=True)
    for i, sprites in enumerate(shown, start=1):
        file_name = f"{i:06d}.jpg"
        scene = draw_scene(
            sprites, brush.stream(split, i), kind=brush.kind, with_distractors=bool(sprites)
        )
        Image.fromarray(scene.pixels).save(
            folder / file_name, quality=JPEG_QUALITY, subsampling="4:4:4"
        )
        if brush.advance is not None:
            brush.advance()
        yield file_name, scene


def _vocabulary(kind: SpriteKind) -> Vocabulary:
    sheet = load_sprites()
    categories = tuple(
        Category(id=s.id, name=s.name, synset=s.synset, frequency=s.frequency)
        for s in sheet.sprites
    )
    # Emoji have colours of their own, so nothing says which colour one is.
    attributes = {"colour": tuple(sheet.palette)} if kind == "shapes" else {}
    return Vocabulary("small-world", categories, attributes)


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False) + "\n"
    write_atomically(path, lambda beside: _write_text(beside, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
