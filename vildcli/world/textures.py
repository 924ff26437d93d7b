"""Backgrounds of the small world: noise, gradients and patterns, drawn with numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]  # [H, W, 3] RGB in 0-255
Field = NDArray[np.float32]  # [H, W]

BRICK_WIDTH, BRICK_HEIGHT, MORTAR = 34, 15, 2  # pixels
PLANK_HEIGHT = 32
LINE_SPACING = 18  # ruled paper


def draw_texture(name: str, height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Draw a background [H, W, 3], RGB in 0-255."""
    return TEXTURES[name](height, width, rng)


def _smooth_noise(
    height: int, width: int, cells: tuple[int, int], rng: np.random.Generator
) -> Field:
    """Noise in -1..1 that changes over `cells` (down, across) steps, [H, W]."""
    coarse = rng.uniform(-1, 1, cells).astype(np.float32)
    fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32)


def _tint(colour: tuple[int, int, int], field: Field, strength: float) -> Pixels:
    """A colour, lighter and darker by the field."""
    return np.asarray(colour, dtype=np.float32) + strength * field[..., None]


def _grass(height: int, width: int, rng: np.random.Generator) -> Pixels:
    blades = _smooth_noise(height, width, (height // 7, width // 2), rng)
    patches = _smooth_noise(height, width, (4, 4), rng)
    return _tint((112, 142, 78), 0.6 * blades + 0.5 * patches, 24)


def _sand(height: int, width: int, rng: np.random.Generator) -> Pixels:
    grain = rng.normal(0, 0.5, (height, width)).astype(np.float32)
    dunes = _smooth_noise(height, width, (5, 3), rng)
    return _tint((214, 194, 150), 0.7 * grain + 0.8 * dunes, 14)


def _brick(height: int, width: int, rng: np.random.Generator) -> Pixels:
    rows = np.arange(height)[:, None] // BRICK_HEIGHT
    across = np.arange(width)[None, :] + (rows % 2) * (BRICK_WIDTH // 2)
    tones = rng.uniform(-1, 1, (height // BRICK_HEIGHT + 1, width // BRICK_WIDTH + 2))
    wall = _tint((156, 100, 84), tones[rows, across // BRICK_WIDTH].astype(np.float32), 16)
    joint = (np.arange(height)[:, None] % BRICK_HEIGHT < MORTAR) | (across % BRICK_WIDTH < MORTAR)
    wall[joint] = (188, 178, 166)
    return wall


def _water(height: int, width: int, rng: np.random.Generator) -> Pixels:
    swell = _smooth_noise(height, width, (5, 4), rng)
    phase = np.arange(height, dtype=np.float32)[:, None] / 2.6 + 3.5 * swell
    return _tint((112, 168, 196), np.sin(phase) + 0.6 * swell, 11)


def _wood(height: int, width: int, rng: np.random.Generator) -> Pixels:
    grain = _smooth_noise(height, width, (height // 2, 5), rng)
    planks = np.arange(height) // PLANK_HEIGHT
    tones = rng.uniform(-1, 1, planks[-1] + 1).astype(np.float32)[planks][:, None]
    floor = _tint((176, 132, 90), 0.8 * grain + 0.7 * tones, 16)
    floor[np.arange(height) % PLANK_HEIGHT == 0] *= 0.6
    return floor


def _paper(height: int, width: int, rng: np.random.Generator) -> Pixels:
    fibre = rng.normal(0, 1, (height, width)).astype(np.float32)
    sheet = _tint((234, 231, 222), fibre + 2 * _smooth_noise(height, width, (3, 3), rng), 3)
    sheet[(np.arange(height) + int(rng.integers(LINE_SPACING))) % LINE_SPACING == 0] -= (50, 34, 12)
    return sheet


TEXTURES: dict[str, Callable[[int, int, np.random.Generator], Pixels]] = {
    "grass": _grass,
    "sand": _sand,
    "brick": _brick,
    "water": _water,
    "wood": _wood,
    "paper": _paper,
}
