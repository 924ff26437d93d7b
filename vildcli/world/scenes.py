"""Scenes of the small world: sprites laid on a texture, each with its visible mask.

A scene is a pure function of the names asked for and of its own random generator, so that scenes
can be drawn in any order. Objects are laid back to front, whole inside the picture. A place that
would leave less of another object visible than `WELL_VISIBLE` is passed over; then the limit is
`MIN_VISIBLE`, then the object the smallest. What still finds no place is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vildcli.world.emoji import colour_emoji
from vildcli.world.photographs import Photographs
from vildcli.world.sprites import SUPERSAMPLING, Colour, Sprite, draw_sprite, load_sprites
from vildcli.world.textures import Pixels, draw_texture

SCENE_SIDES = (160, 225)  # pixels, the second excluded; width and height are drawn apart or alike
SQUARE_SHARE = 0.5
OBJECT_SIDES = (24, 73)  # pixels of the longer side before rotation, the second excluded
MAX_TILT = 25.0  # degrees either way
DISTRACTORS = (1, 4)  # how many, the second excluded
WELL_VISIBLE = 0.7  # share of an object's own pixels, asked for first
MIN_VISIBLE = 0.35  # and at the last
PLACES_TRIED = 12  # at each
NOISE = 3.0  # standard deviation, of 255
PHOTOGRAPH = "background"  # what captions call a crop that shows nothing but a photograph
OPAQUE = 128

Mask = NDArray[np.bool_]
Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One annotated object.

    Attributes:
        box: x0 y0 x1 y1 of what is visible, whole pixels, the second corner excluded.
        mask: [H, W] of the scene, what is visible.
        colour: name of the palette's colour.
    """

    sprite: Sprite
    colour: str
    box: tuple[int, int, int, int]
    mask: Mask


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn picture with its objects but not its distractors.

    Attributes:
        pixels: [H, W, 3] uint8 RGB.
        background: name of the texture, or of photographs in general.
    """

    pixels: NDArray[np.uint8]
    background: str
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sprite at its size. `solid` [h, w] says which of its pixels count as it."""

    sprite: Sprite | None
    colour: str
    image: Image.Image
    solid: Mask


class _Layout:
    """Who shows at which pixel, and how much of everybody shows."""

    def __init__(self, height: int, width: int) -> None:
        self.owner = np.full((height, width), -1, np.int16)
        self.pieces: list[_Piece] = []
        self.visible: list[int] = []  # pixels

    def random_window(self, piece: _Piece, rng: np.random.Generator) -> Window:
        (height, width), (h, w) = self.owner.shape, piece.solid.shape
        left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        return slice(top, top + h), slice(left, left + w)

    def keeps_visible(self, piece: _Piece, window: Window, share: float) -> bool:
        """Whether everybody would still show at least `share` of their own pixels."""
        hidden = np.bincount(self.owner[window][piece.solid] + 1, minlength=1)[1:]
        return all(
            self.visible[i] - hidden[i] >= share * np.count_nonzero(self.pieces[i].solid)
            for i in np.flatnonzero(hidden)
        )

    def add(self, piece: _Piece, window: Window) -> None:
        self.owner[window][piece.solid] = len(self.pieces)
        self.pieces.append(piece)
        self.visible = [int(np.count_nonzero(self.owner == i)) for i in range(len(self.pieces))]

    def objects(self) -> Iterator[SceneObject]:
        for i, piece in enumerate(self.pieces):
            if piece.sprite is not None:
                mask = self.owner == i
                yield SceneObject(piece.sprite, piece.colour, _box(mask), mask)


def draw_scene(
    sprites: Sequence[Sprite],
    rng: np.random.Generator,
    *,
    photographs: Photographs | None = None,
    with_distractors: bool = True,
) -> Scene:
    """Draw one scene that shows these sprites, back to front in a random order.

    Args:
        sprites: one for each object, emoji and painted ones in any mix.
        rng: source of chance, of this scene alone.
        photographs: what to lay the objects on instead of textures.
        with_distractors: whether to add shapes without a name.
    """
    width, height = _scene_size(rng)
    background, canvas = _background(height, width, photographs, rng)
    layout = _Layout(height, width)
    distractors = int(rng.integers(*DISTRACTORS)) if with_distractors else 0
    wanted: list[Sprite | None] = [*sprites, *[None] * distractors]
    for i in rng.permutation(len(wanted)):
        _lay(wanted[i], layout, canvas, rng)
    canvas += rng.normal(0, NOISE, canvas.shape).astype(np.float32)
    pixels = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(pixels, background, tuple(layout.objects()))


def _scene_size(rng: np.random.Generator) -> tuple[int, int]:
    width, height = (int(side) for side in rng.integers(*SCENE_SIDES, size=2))
    return (width, width) if rng.random() < SQUARE_SHARE else (width, height)


def _background(
    height: int, width: int, photographs: Photographs | None, rng: np.random.Generator
) -> tuple[str, Pixels]:
    if photographs is not None:
        return PHOTOGRAPH, photographs.crop(height, width, rng)
    textures = load_sprites().textures
    name = textures[rng.integers(len(textures))]
    return name, draw_texture(name, height, width, rng)


def _lay(sprite: Sprite | None, layout: _Layout, canvas: Pixels, rng: np.random.Generator) -> None:
    """Lay one more piece on top; leave it out where every place tried would hide too much."""
    side = int(rng.integers(*OBJECT_SIDES))
    attempts = ((side, WELL_VISIBLE), (side, MIN_VISIBLE), (OBJECT_SIDES[0], MIN_VISIBLE))
    for side, share in attempts:
        piece = _make(sprite, side, rng)
        for _ in range(PLACES_TRIED):
            window = layout.random_window(piece, rng)
            if layout.keeps_visible(piece, window, share):
                layout.add(piece, window)
                _blend(canvas, piece.image, window)
                return


def _make(sprite: Sprite | None, side: int, rng: np.random.Generator) -> _Piece:
    palette = load_sprites().palette
    colour = list(palette)[rng.integers(len(palette))]
    image = _finish(_master(sprite, palette[colour], side, rng), side, rng)
    return _Piece(sprite, colour, image, np.asarray(image.getchannel("A")) >= OPAQUE)


def _master(
    sprite: Sprite | None, body: Colour, side: int, rng: np.random.Generator
) -> Image.Image:
    """The upright picture, larger than it will be; without a sprite one of the distractors."""
    if sprite is None:
        distractors = load_sprites().distractors
        return draw_sprite(distractors[rng.integers(len(distractors))], body, side)
    if sprite.character:
        return colour_emoji(sprite.character, body)
    return draw_sprite(sprite.shapes, body, side)


def _finish(master: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Flip and tilt the large picture, then average it down to `side` pixels, aspect kept."""
    if rng.random() < 0.5:
        master = master.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = float(rng.uniform(-MAX_TILT, MAX_TILT))
    scale = side / max(master.size)
    # Emoji come in one size: tilt them where averaging down is by a whole factor.
    large = [max(1, round(s * scale)) * SUPERSAMPLING for s in master.size]
    if list(master.size) != large:
        master = master.resize((large[0], large[1]), Image.Resampling.BILINEAR)
    # Nearest is enough at this size: the averaging smooths it, and it takes an eighth of the time.
    tilted = master.rotate(angle, Image.Resampling.NEAREST, expand=True).reduce(SUPERSAMPLING)
    return tilted.crop(tilted.getchannel("A").point(lambda a: 255 * (a >= OPAQUE)).getbbox())


def _blend(canvas: Pixels, image: Image.Image, window: Window) -> None:
    pixels = np.asarray(image, dtype=np.float32)
    alpha = pixels[..., 3:] / 255
    canvas[window] = canvas[window] * (1 - alpha) + pixels[..., :3] * alpha


def _box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
