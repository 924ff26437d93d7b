"""Answers to free texts as a picture: each region with its mask and what the texts score on it.

title
[ the image with its regions numbered ]           of one image
heading of a question                             of a run
[ crop | heading       ]  [ crop | … ]  [ … ]
[      | ▬▬▬▬ a text 0.31 ]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vildcli.data.images import read_image
from vildcli.errors import DataError, RunError
from vildcli.labelling.masks import full_frame, object_mask
from vildcli.labelling.plan import PlannedImage, image_path
from vildcli.review.drawing import category_colour, draw_labels, font
from vildcli.review.sheet import write_line
from vildcli.runs import write_atomically

if TYPE_CHECKING:
    from vildcli.labelling.ask import AskedRegion
    from vildcli.labelling.search import FoundRegion

COLUMNS = 3
CROP = 150  # pixels that the longer side of a region and its surroundings is scaled to
BARS = 5  # texts shown of a region, the best ones
_CONTEXT = 0.2  # of a box's sides, shown on each side of it
_CARD, _GAP, _TITLE, _HEADING, _BAR = 400, 12, 44, 34, 25
_OVERVIEW = (COLUMNS * _CARD + (COLUMNS - 1) * _GAP, 520)
_LEAST_BAR = 0.1  # what the least score of a section has for a bar
_FADING = 0.6  # of what is not the region's mask
_BACKGROUND, _INK, _FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)
_BEST, _OTHER, _TROUGH = (31, 119, 180), (165, 178, 190), (228, 232, 236)


@dataclass(frozen=True, slots=True)
class Card:
    """One region.

    Attributes:
        crop: the region in its surroundings; None where its image is not there any more.
        heading: what is known of it before any text.
        scores: (text, score), best first.
    """

    crop: Image.Image | None
    heading: str
    scores: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Regions under a heading; without one they follow the title."""

    heading: str | None
    cards: tuple[Card, ...]


def draw_image_answer(
    name: str, pixels: NDArray[np.uint8], texts: Sequence[str], regions: Sequence[AskedRegion]
) -> Image.Image:
    """The image with its regions numbered, and a card of each.

    Args:
        name: of the image.
        pixels: [H, W, 3] RGB, upright.
        texts: what the regions' scores are of, in their order.
        regions: best first.
    """
    cards = tuple(
        Card(
            crop_region(pixels, region.box, region.mask, place),
            f"{place}  ·  objectness {region.objectness:.2f}{_named(region)}",
            tuple(sorted(zip(texts, region.scores, strict=True), key=lambda pair: -pair[1])),
        )
        for place, region in enumerate(regions, start=1)
    )
    title = f"{name}  ·  {'  ·  '.join(texts)}"
    overview = number_regions(pixels, [region.box for region in regions])
    return compose_answer(title, [Section(None, cards)], overview)


def draw_run_answer(
    run: Path,
    plan: Sequence[PlannedImage],
    answers: Mapping[str, Sequence[FoundRegion]],
    images_root: Path | None = None,
) -> Image.Image:
    """A section for each question, a card for each region that was found.

    Args:
        plan: of the run, in order.
        answers: regions of each question, best first.
        images_root: folder that the images have moved to.
    """
    from vildcli.labelling.search import region_masks

    masks = region_masks(run, plan, itertools.chain.from_iterable(answers.values()))

    @lru_cache(maxsize=8)
    def pixels_of(image_id: int) -> NDArray[np.uint8] | None:
        image = plan[image_id - 1]
        try:
            return read_image(image_path(run, image, images_root), image.path).pixels
        except DataError:
            return None

    def card(question: str, region: FoundRegion) -> Card:
        pixels = pixels_of(region.image_id)
        mask = masks[region.image_id, region.region]
        crop = None if pixels is None else crop_region(pixels, region.box, mask)
        heading = plan[region.image_id - 1].path
        return Card(crop, heading, ((question, region.score),))

    sections = [
        Section(question, tuple(card(question, region) for region in found))
        for question, found in answers.items()
    ]
    return compose_answer(run.absolute().name, sections)


def _named(region: AskedRegion) -> str:
    return "" if region.name is None else f"  ·  {region.name} {region.name_score:.2f}"


def crop_region(
    pixels: NDArray[np.uint8], box: Sequence[float], mask: NDArray[np.uint8], colour: int = 1
) -> Image.Image:
    """A region in its surroundings, which are faded: its own colours are what may be asked for.

    Args:
        pixels: [H, W, 3] RGB of the upright image.
        box: x1 y1 x2 y2 in its pixels.
        mask: [28, 28] uint8, probability x 255 relative to `box`.
        colour: number of a colour, as a category's.
    """
    x1, y1, x2, y2 = _window(box, pixels.shape[1], pixels.shape[0])
    scale = CROP / max(x2 - x1, y2 - y1)
    width, height = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    crop = Image.fromarray(pixels[y1:y2, x1:x2]).resize((width, height), Image.Resampling.LANCZOS)
    across, down = width / (x2 - x1), height / (y2 - y1)
    left, top, right, bottom = box
    moved = ((left - x1) * across, (top - y1) * down, (right - x1) * across, (bottom - y1) * down)
    is_object = full_frame(*object_mask(mask, moved, height, width), height, width)
    shown = np.asarray(crop).astype(np.float32)
    shown[~is_object] += _FADING * (np.asarray(_BACKGROUND, np.float32) - shown[~is_object])
    painted = Image.fromarray(shown.round().astype(np.uint8))
    corners = (*moved[:2], max(moved[2], moved[0]), max(moved[3], moved[1]))
    ImageDraw.Draw(painted).rectangle(corners, outline=category_colour(colour), width=2)
    return painted


def number_regions(pixels: NDArray[np.uint8], boxes: Sequence[Sequence[float]]) -> Image.Image:
    """The image with its regions' boxes, numbered from 1."""
    height, width = pixels.shape[:2]
    scale = min(_OVERVIEW[0] / width, _OVERVIEW[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    names = [str(place) for place in range(1, len(boxes) + 1)]
    colours = [category_colour(place) for place in range(1, len(boxes) + 1)]
    scaled = [np.asarray(box) * scale for box in boxes]
    return draw_labels(picture, scaled, None, names, colours=colours)


def compose_answer(
    title: str, sections: Sequence[Section], overview: Image.Image | None = None
) -> Image.Image:
    """Lay cards out in rows, section by section, as high as it takes."""
    heights = [_section_height(section) for section in sections]
    top = _TITLE + (overview.height + _GAP if overview else 0)
    width = COLUMNS * (_CARD + _GAP) + _GAP
    sheet = Image.new("RGB", (width, top + sum(heights) + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    write_line(draw, (_GAP, _TITLE // 2 + 2), title, 20, width - 2 * _GAP, _INK)
    if overview:
        sheet.paste(overview, (_GAP, _TITLE))
    for section, height in zip(sections, heights, strict=True):
        _draw_section(sheet, section, top)
        top += height
    return sheet


def write_answer(sheet: Image.Image, out: Path) -> None:
    """Write a sheet as PNG, replacing what is there.

    Raises:
        RunError: it cannot be written.
    """

    def save(path: Path) -> None:
        sheet.save(path, "PNG", compress_level=1)  # the answer is waited for

    try:
        write_atomically(out, save)
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}.", hint="Choose another --out."
        ) from error


def _window(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """The pixels of a box and its surroundings, at least one."""
    x1, y1, x2, y2 = box
    across, down = _CONTEXT * (x2 - x1), _CONTEXT * (y2 - y1)
    left = min(max(math.floor(x1 - across), 0), width - 1)
    top = min(max(math.floor(y1 - down), 0), height - 1)
    right = max(min(math.ceil(x2 + across), width), left + 1)
    bottom = max(min(math.ceil(y2 + down), height), top + 1)
    return left, top, right, bottom


def _card_height(card: Card) -> int:
    return max(CROP, _HEADING + _BAR * min(len(card.scores), BARS)) + _GAP


def _rows(cards: Sequence[Card]) -> Iterator[Sequence[Card]]:
    for start in range(0, len(cards), COLUMNS):
        yield cards[start : start + COLUMNS]


def _section_height(section: Section) -> int:
    rows = sum(max(map(_card_height, row)) for row in _rows(section.cards))
    return (_HEADING if section.heading is not None else 0) + rows


def _span(section: Section) -> tuple[float, float]:
    """The scores at which bars begin and end.

    Cosines lie close together, and other texts' lie elsewhere: only differences say something.
    """
    scores = [score for card in section.cards for _, score in card.scores]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    return low - _LEAST_BAR * (high - low), high


def _draw_section(sheet: Image.Image, section: Section, top: int) -> None:
    span = _span(section)
    if section.heading is not None:
        place, width = (_GAP, top + _HEADING // 2), sheet.width - 2 * _GAP
        write_line(ImageDraw.Draw(sheet), place, section.heading, 16, width, _INK)
        top += _HEADING
    for row in _rows(section.cards):
        for column, card in enumerate(row):
            _draw_card(sheet, card, (_GAP + column * (_CARD + _GAP), top), span)
        top += max(map(_card_height, row))


def _draw_card(
    sheet: Image.Image, card: Card, corner: tuple[int, int], span: tuple[float, float]
) -> None:
    draw: Any = ImageDraw.Draw(sheet)
    x, y = corner
    if card.crop is None:
        draw.rectangle((x, y, x + CROP, y + CROP), fill=_TROUGH)
        write_line(draw, (x + _GAP, y + CROP // 2), "not there any more", 12, CROP, _FAINT)
    else:
        width, height = card.crop.size
        sheet.paste(card.crop, (x + (CROP - width) // 2, y + (CROP - height) // 2))
    left, right = x + CROP + _GAP, x + _CARD - _GAP
    write_line(draw, (left, y + 10), card.heading, 13, right - left, _FAINT)
    low, high = span
    for place, (text, score) in enumerate(card.scores[:BARS]):
        line = y + _HEADING + place * _BAR
        number = f"{score:.3f}"
        edge = right - int(font(13).getlength(number))
        write_line(draw, (left, line), text, 13, edge - left - _GAP, _INK)
        draw.text((edge, line), number, fill=_INK, font=font(13), anchor="lm")
        share = (score - low) / (high - low) if high > low else 1.0
        draw.rectangle((left, line + 9, right, line + 12), fill=_TROUGH)
        fill = _OTHER if place else _BEST
        draw.rectangle((left, line + 9, left + share * (right - left), line + 12), fill=fill)
