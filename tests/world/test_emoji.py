"""The emoji: what they are called, that a font draws them, that their colour is the named one."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vildcli.errors import MissingDependencyError
from vildcli.vocabulary.wordnet import WordNet
from vildcli.world import emoji
from vildcli.world.emoji import colour_emoji, draw_emoji, require_emoji
from vildcli.world.sprites import load_sprites

SHEET = load_sprites("emoji")
SPRITES = SHEET.sprites
PALETTE = np.array([rgba[:3] for rgba in SHEET.palette.values()], dtype=float)


@pytest.fixture
def other_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test change where fonts lie; nothing drawn before or within is remembered."""
    for remembered in (emoji._font, draw_emoji, colour_emoji):
        remembered.cache_clear()
    yield monkeypatch
    for remembered in (emoji._font, draw_emoji, colour_emoji):
        remembered.cache_clear()


def pixels(image: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """RGB [H, W, 3] in 0-255, and which pixels are the object's."""
    values = np.asarray(image, dtype=float)
    return values[..., :3], values[..., 3] >= 128


def hue(rgb: NDArray[np.float64]) -> float:
    """Degrees."""
    return 360 * colorsys.rgb_to_hsv(*(float(c) / 255 for c in rgb))[0]


def test_sheet__two_hundred_and_forty_categories_a_quarter_of_them_novel() -> None:
    assert Counter(s.frequency for s in SPRITES) == {"r": 60, "c": 90, "f": 90}
    assert [s.id for s in SPRITES] == list(range(1, 241))
    assert [s.id for s in SPRITES if s.frequency == "r"] == list(range(4, 241, 4))
    for one_each in ("name", "synset", "character"):
        assert len({getattr(s, one_each) for s in SPRITES}) == 240
    assert {len(s.character) for s in SPRITES} == {1}
    assert not any(s.shapes for s in SPRITES)


def test_sheet__shares_colours_and_clutter_with_the_shapes() -> None:
    shapes = load_sprites("shapes")
    assert (SHEET.palette, SHEET.textures) == (shapes.palette, shapes.textures)
    assert SHEET.distractors == shapes.distractors


def test_sheet__no_name_is_also_a_colour_or_a_background() -> None:
    """Else a caption could say a colour that it does not mean."""
    said = {word for sprite in SPRITES for word in sprite.name.split()}
    assert not said & {*SHEET.palette, *SHEET.textures, "background"}


def test_sheet__every_name_has_its_sense_and_its_definition(wordnet: WordNet) -> None:
    for sprite in SPRITES:
        sense = wordnet.sense(sprite.synset)
        assert (sense.synset, sense.definition) == (sprite.synset, sprite.definition)
        assert sprite.name in sense.lemmas
        assert sense.field in {"animal", "artifact", "food", "object", "plant", "substance"}


@pytest.mark.usefixtures("emoji_font")
def test_draw_emoji__no_two_look_alike() -> None:
    """All in one colour: what is left is the outline and the brightness within."""
    pictures = []
    for sprite in SPRITES:
        picture = colour_emoji(sprite.character, SHEET.palette["red"])
        assert max(picture.size) > 90
        side = max(picture.size)
        square = Image.new("RGBA", (side, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        small = np.asarray(square.resize((32, 32), Image.Resampling.BOX), dtype=np.float32) / 255
        small[..., :3] *= small[..., 3:]
        pictures.append(small.ravel())
    flat = np.stack(pictures)
    squares = (flat**2).sum(axis=1)
    distances = (squares[:, None] + squares[None] - 2 * flat @ flat.T) / flat.shape[1]
    np.fill_diagonal(distances, 1)
    assert distances.min() > 0.015  # a die and a basketball: 0.022


@pytest.mark.usefixtures("emoji_font")
@pytest.mark.parametrize("name", SHEET.palette)
def test_colour_emoji__is_of_the_named_colour(name: str) -> None:
    aim = hue(np.array(SHEET.palette[name][:3]))
    for sprite in SPRITES[::5]:
        rgb, solid = pixels(colour_emoji(sprite.character, SHEET.palette[name]))
        off = abs(hue(rgb[solid].mean(axis=0)) - aim)
        assert min(off, 360 - off) < 20, sprite.name
        distances = ((PALETTE - np.median(rgb[solid], axis=0)) ** 2).sum(axis=1)
        assert list(SHEET.palette)[int(distances.argmin())] == name, sprite.name


@pytest.mark.usefixtures("emoji_font")
@pytest.mark.parametrize("character", ["🍎", "🐼", "🦓", "✉", "🐧", "🏎"])
def test_colour_emoji__keeps_the_detail(character: str) -> None:
    plain = draw_emoji(character)
    assert plain is not None
    before, solid = pixels(plain)
    after, still_solid = pixels(colour_emoji(character, SHEET.palette["blue"]))
    np.testing.assert_array_equal(solid, still_solid)
    luma = np.array([0.299, 0.587, 0.114])
    order = np.argsort((before @ luma)[solid])
    brightness = (after @ luma)[solid][order]
    falls = brightness - np.maximum.accumulate(brightness)
    assert np.mean(falls < -3) < 0.02  # but where a channel is full, brighter stays brighter
    assert np.std(brightness) > 0.3 * np.std((before @ luma)[solid])


def test_require_emoji__without_a_font(other_fonts: pytest.MonkeyPatch) -> None:
    other_fonts.setattr(emoji, "FONTS", ("/nowhere.ttf", "~/nowhere.ttf"))
    with pytest.raises(MissingDependencyError) as caught:
        require_emoji(["🍎"])
    assert str(caught.value) == "No colour-emoji font was found."
    assert caught.value.hint == (
        "Debian and Ubuntu: apt-get install fonts-noto-color-emoji. Or use --sprites shapes."
    )


@pytest.mark.usefixtures("emoji_font")
def test_require_emoji__of_a_font_that_lacks_one() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        require_emoji(["🍎", "A", "🐼", "\U0001faff"])
    assert str(caught.value) == f"{emoji.find_font()} has no picture of A \U0001faff."
    assert caught.value.hint == (
        "Install Noto Color Emoji 2.038 or later, the bitmap font. Or use --sprites shapes."
    )
