"""The sprites of the small world: painted from `sprites.yaml`, or the emoji of `emoji.yaml`."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from PIL import Image, ImageColor, ImageDraw

SUPERSAMPLING = 4  # a sprite is painted this many times larger, then averaged down
NOVEL_EVERY = 4  # every fourth sprite of the list is novel (rare)

Colour = tuple[int, int, int, int]
Shape = tuple[Any, ...]  # kind, colour, numbers
SpriteKind = Literal["shapes", "emoji"]


@dataclass(frozen=True, slots=True)
class Sprite:
    """One category's picture.

    Attributes:
        frequency: r (novel), c or f: its own property, never recounted.
        shapes: what to paint; empty for an emoji.
        character: the emoji; empty for painted shapes.
    """

    id: int
    name: str
    synset: str
    definition: str
    frequency: str
    shapes: tuple[Shape, ...]
    character: str


@dataclass(frozen=True, slots=True)
class SpriteSheet:
    """The categories of a world and what they are drawn among.

    Attributes:
        palette: the colours that objects take, by name, each with its RGBA.
        distractors: shapes without a name, never annotated.
    """

    version: int
    sprites: tuple[Sprite, ...]
    palette: Mapping[str, Colour]
    fixed: Mapping[str, Colour]
    textures: tuple[str, ...]
    distractors: tuple[tuple[Shape, ...], ...]


@cache
def load_sprites(kind: SpriteKind = "shapes") -> SpriteSheet:
    """Read a sheet that the package carries; emoji stand among the shapes' colours and clutter."""
    content = _read("sprites.yaml" if kind == "shapes" else "emoji.yaml")
    sprites = tuple(_sprite(i, row) for i, row in enumerate(content["sprites"], start=1))
    if kind == "emoji":
        return replace(load_sprites(), version=content["version"], sprites=sprites)
    return SpriteSheet(
        version=content["version"],
        sprites=sprites,
        palette={name: _rgba(code) for name, code in content["palette"].items()},
        fixed={name: _rgba(code) for name, code in content["fixed"].items()},
        textures=tuple(content["textures"]),
        distractors=tuple(_shapes(shapes) for shapes in content["distractors"]),
    )


def draw_sprite(shapes: Sequence[Shape], body: Colour, side: int) -> Image.Image:
    """Paint shapes `SUPERSAMPLING` times larger than `side` pixels; RGBA, cropped to what shows."""
    size = side * SUPERSAMPLING
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    colours = {**load_sprites().fixed, **_roles(body)}
    for kind, colour, *numbers in shapes:
        _paint(draw, kind, colours[colour], [n * size / 100 for n in numbers], numbers)
    return image.crop(image.getbbox())


def _read(file: str) -> dict[str, Any]:
    text = (files("vildcli.world") / file).read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _sprite(number: int, row: Mapping[str, Any]) -> Sprite:
    return Sprite(
        id=number,
        name=row["name"],
        synset=row["synset"],
        definition=row["def"],
        frequency=_frequency(number),
        shapes=_shapes(row.get("shapes", [])),
        character=row.get("character", ""),
    )


def _shapes(rows: Sequence[Sequence[Any]]) -> tuple[Shape, ...]:
    return tuple(tuple(row) for row in rows)


def _frequency(number: int) -> str:
    """Every fourth category is rare; of the others every second is common, the rest frequent."""
    if number % NOVEL_EVERY == 0:
        return "r"
    place_among_base = number - number // NOVEL_EVERY
    return "c" if place_among_base % 2 == 0 else "f"


def _paint(
    draw: ImageDraw.ImageDraw,
    kind: str,
    colour: Colour,
    scaled: list[float],
    raw: Sequence[float],
) -> None:
    match kind:
        case "polygon":
            draw.polygon(scaled, fill=colour)
        case "ellipse":
            draw.ellipse(scaled, fill=colour)
        case "rectangle":
            draw.rectangle(scaled, fill=colour)
        case "rounded":
            draw.rounded_rectangle(scaled[1:], radius=scaled[0], fill=colour)
        case "line":
            draw.line(scaled[1:], fill=colour, width=round(scaled[0]), joint="curve")
        case "arc":
            draw.arc(scaled[1:5], raw[5], raw[6], fill=colour, width=round(scaled[0]))
        case "pieslice":
            draw.pieslice(scaled[:4], raw[4], raw[5], fill=colour)
        case _:
            raise AssertionError(f"sprites.yaml: unknown shape {kind!r}")


def _roles(body: Colour) -> dict[str, Colour]:
    return {
        "body": body,
        "dark": _shade(body, 0.62),
        "light": _shade(body, 1.45),
        "clear": (0, 0, 0, 0),
    }


def _shade(colour: Colour, factor: float) -> Colour:
    """Scale the lightness; the hue, by which the colour is named, stays."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(c / 255 for c in colour[:3]))
    red, green, blue = colorsys.hls_to_rgb(hue, min(0.88, lightness * factor), saturation)
    return round(red * 255), round(green * 255), round(blue * 255), 255


def _rgba(code: str) -> Colour:
    red, green, blue = ImageColor.getrgb(code)[:3]
    return red, green, blue, 255
