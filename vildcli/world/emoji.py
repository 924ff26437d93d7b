"""Emoji as sprites: taken from a colour-emoji font, their colour changed and their detail kept."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vildcli.errors import MissingDependencyError
from vildcli.world.sprites import Colour

FONT_SIZE = 109  # pixels; Noto Color Emoji is a bitmap font with this one size
FONTS = (
    "~/.local/share/fonts/NotoColorEmoji.ttf",
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
    "/usr/local/share/fonts/NotoColorEmoji.ttf",
)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
DARKEST, LIGHTEST = 0.06, 0.96  # luma of the least and most bright shade of a colour
MOST_CONTRAST = 1.25  # brightness is stretched by no more: a white object's shading stays faint
OWN_CHROMA = 0.2  # share that stays of how a pixel's colour differs from the object's usual one
OPAQUE = 128


def find_font() -> Path:
    """The colour-emoji font of this machine.

    Raises:
        MissingDependencyError: none is installed.
    """
    for path in FONTS:
        if Path(path).expanduser().is_file():
            return Path(path).expanduser()
    raise MissingDependencyError(
        "No colour-emoji font was found.",
        hint="Debian and Ubuntu: apt-get install fonts-noto-color-emoji. Or use --sprites shapes.",
    )


def require_emoji(characters: Iterable[str]) -> None:
    """Make sure that the font draws all of them.

    Raises:
        MissingDependencyError: there is no font, or it is older than one of them.
    """
    missing = [c for c in characters if draw_emoji(c) is None]
    if missing:
        raise MissingDependencyError(
            f"{find_font()} has no picture of {' '.join(missing)}.",
            hint="Install Noto Color Emoji 2.038 or later, the bitmap font. "
            "Or use --sprites shapes.",
        )


@cache
def draw_emoji(character: str) -> Image.Image | None:
    """One emoji at the font's own size, RGBA, cropped to what shows; None where nothing does."""
    image = Image.new("RGBA", (FONT_SIZE * 2, FONT_SIZE * 2))
    ImageDraw.Draw(image).text((20, 20), character, font=_font(), embedded_color=True)
    box = image.getbbox()
    return None if box is None else image.crop(box)


@lru_cache(maxsize=2048)  # 240 emoji in 8 colours are 97 MB
def colour_emoji(character: str, body: Colour) -> Image.Image:
    """One emoji in shades of a colour, RGBA; the pixel of middle brightness becomes the colour.

    Brighter and darker pixels keep their order, and a part of what sets their own hue apart, so
    that an apple of any colour has a leaf.
    """
    image = draw_emoji(character)
    assert image is not None, f"require_emoji lets {character} through"
    pixels = np.asarray(image, dtype=np.float32)
    solid = pixels[..., 3] >= OPAQUE
    rgb, target = pixels[..., :3] / 255, np.asarray(body[:3], dtype=np.float32) / 255
    luma = rgb @ LUMA
    chroma = rgb - luma[..., None]
    middle, aim = float(np.median(luma[solid])), float(target @ LUMA)
    darker = min(MOST_CONTRAST, (aim - DARKEST) / max(middle, 1e-3))
    brighter = min(MOST_CONTRAST, (LIGHTEST - aim) / max(1 - middle, 1e-3))
    shade = aim + (luma - middle) * np.where(luma < middle, darker, brighter)
    towards_black = np.minimum(shade / aim, 1)[..., None]
    towards_white = np.clip((shade - aim) / (1 - aim), 0, 1)[..., None]
    painted = target * towards_black * (1 - towards_white) + towards_white
    painted = painted + OWN_CHROMA * (chroma - np.median(chroma[solid], axis=0))
    rgb = np.clip(np.rint(painted * 255), 0, 255)
    return Image.fromarray(np.concatenate([rgb, pixels[..., 3:]], axis=-1).astype(np.uint8))


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(find_font()), FONT_SIZE)
