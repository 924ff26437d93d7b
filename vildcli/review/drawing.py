"""Labels drawn on an image: boxes, translucent masks, names that can be read. No torch."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

MASK_OPACITY = 0.4
_GOLDEN_RATIO = 0.618034  # steps of it round the colour circle keep any number of neighbours apart
_SHADES = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.75), (0.6, 0.85))  # saturation, value
_PADDING = 3


def category_colour(category_id: int) -> Colour:
    """A colour for a category: the same in every picture, far from those of the ids around it."""
    hue = category_id * _GOLDEN_RATIO % 1
    saturation, value = _SHADES[category_id % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def name_colour(name: str) -> Colour:
    """A colour for a name, where two pictures share names but no ids."""
    return category_colour(zlib.crc32(name.encode()))


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same picture on every machine."""
    return ImageFont.load_default(size=size)


def draw_labels(
    image: Image.Image,
    boxes: Sequence[Sequence[float]] | NDArray[np.floating],
    masks: Sequence[NDArray[np.bool_]] | None,
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    colours: Sequence[Colour] | None = None,
    text_size: int = 13,
) -> Image.Image:
    """Draw labels on a copy of an image, the first ones on top.

    Args:
        image: to draw on, at the size it will be seen at.
        boxes: [K, 4] x1 y1 x2 y2 in pixels of `image`.
        masks: K of bool [H, W], the size of `image`; None draws boxes alone.
        names: [K]; an empty one is not written.
        scores: [K] in 0-1, or None where there are none (ground truth).
        colours: [K]; by default each name has its own.
        text_size: height of the letters, pixels.

    Returns:
        An RGB image of the same size. A name that finds no free place is left out.
    """
    colours = [name_colour(name) for name in names] if colours is None else colours
    painted = image.convert("RGB")
    if masks is not None:
        painted = _paint_masks(painted, masks, colours)
    draw = ImageDraw.Draw(painted)
    line = 2 if min(painted.size) >= 160 else 1
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        draw.rectangle(_ordered(box), outline=colour, width=line)
    texts = names if scores is None else _with_scores(names, scores)
    taken: list[Rectangle] = []
    for box, text, colour in zip(boxes, texts, colours, strict=True):
        size = _text_size(text, text_size)
        place = _free_place(_ordered(box), size, painted.size, taken) if text else None
        if place is not None:
            taken.append((*place, place[0] + size[0], place[1] + size[1]))
            _write(draw, text, taken[-1], colour, text_size)
    return painted


def _with_scores(names: Sequence[str], scores: Sequence[float]) -> list[str]:
    return [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]


def _paint_masks(
    image: Image.Image, masks: Sequence[NDArray[np.bool_]], colours: Sequence[Colour]
) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32)
    for mask, colour in reversed(list(zip(masks, colours, strict=True))):
        pixels[mask] += MASK_OPACITY * (np.asarray(colour, np.float32) - pixels[mask])
    return Image.fromarray(pixels.round().astype(np.uint8))


def _ordered(box: Sequence[float] | NDArray[np.floating]) -> Rectangle:
    x1, y1, x2, y2 = (float(side) for side in box)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _text_size(text: str, size: int) -> tuple[int, int]:
    left, _, right, _ = font(size).getbbox(text)
    return int(right - left) + 2 * _PADDING, size + 2 * _PADDING


def _free_place(
    box: Rectangle, size: tuple[int, int], canvas: tuple[int, int], taken: Sequence[Rectangle]
) -> tuple[float, float] | None:
    """Where a text of that size goes: above its box, in it, or below it, on no other text."""
    x1, y1, x2, y2 = box
    w, h = size
    rows = [y1 - h, y1, y2, y2 - h, *np.arange(y1 + h, y2 - h, h)]
    for x in (x1, x2 - w):
        for y in rows:
            x = min(max(x, 0), canvas[0] - w)
            place = (x, y, x + w, y + h)
            inside = x >= 0 and y >= 0 and y + h <= canvas[1]
            if inside and not any(_overlap(place, other) for other in taken):
                return x, y
    return None


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _write(
    draw: ImageDraw.ImageDraw, text: str, place: Rectangle, colour: Colour, size: int
) -> None:
    draw.rectangle(place, fill=colour)
    red, green, blue = colour
    is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    ink = (0, 0, 0) if is_light else (255, 255, 255)
    middle = (place[1] + place[3]) / 2
    draw.text((place[0] + _PADDING, middle), text, fill=ink, font=font(size), anchor="lm")
