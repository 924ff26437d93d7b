"""The contact sheet: a run at a glance, as one PNG. No torch, no database."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vildcli.data.images import read_image
from vildcli.errors import DataError, RunError
from vildcli.labelling.masks import full_frame, object_mask
from vildcli.labelling.plan import image_path
from vildcli.labelling.records import OK, LabelledImage, LabelRecord
from vildcli.labelling.thresholds import RunView, view_run
from vildcli.review.drawing import category_colour, draw_labels, font
from vildcli.runs import write_atomically

CELL = (400, 300)  # pixels an image is scaled into, up or down
_GAP, _CAPTION, _TITLE = 12, 22, 44
_BACKGROUND, _INK, _FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)
_COUNTED_LABELS = 5  # an image is judged by its best few: the fullest one is not the most telling


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a sheet with the line under it."""

    picture: Image.Image
    caption: str


def write_contact_sheet(
    run: Path,
    out: Path,
    *,
    conf: float | None = None,
    limit: int = 12,
    images_root: Path | None = None,
) -> Path:
    """Draw the most confidently labelled images of a run, spread over it, and write them as PNG.

    Args:
        run: a labelling run, complete or not.
        out: the PNG, replaced when it is there.
        conf: score from which labels are drawn; default as `display_threshold`.
        limit: how many images at most.
        images_root: folder that the images have moved to.

    Raises:
        RunError: `run` cannot be read, or `out` cannot be written.
        DataError: none of the chosen images is where it was.
    """
    view = view_run(run, conf=conf)
    images = sum(1 for image in view.images() if image.status == OK)
    chosen = _choose(view, images, limit)
    cells, missing = [], ""
    for image in chosen:
        try:
            cells.append(_cell(view, image, images_root))
        except DataError as error:
            missing = str(error)
    if chosen and not cells:
        raise DataError(missing, hint="Name the folder that the images moved to as --images.")
    title = f"{run.absolute().name}  ·  {len(cells)} of {images} images  ·  {view.vocabulary.name}"
    sheet = compose_sheet(title, cells)
    try:
        write_atomically(out, lambda path: sheet.save(path, "PNG", optimize=True))
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}.",
            hint="Make room, or change the folder's permissions.",
        ) from error
    return out


def compose_sheet(title: str, cells: Sequence[Cell], columns: int | None = None) -> Image.Image:
    """Lay cells out in rows under a title; by default about as wide as two screens are high."""
    columns = columns or max(1, min(4, math.ceil(math.sqrt(len(cells)))))
    rows = math.ceil(len(cells) / columns)
    step = (CELL[0] + _GAP, CELL[1] + _CAPTION + _GAP)
    size = (columns * step[0] + _GAP, rows * step[1] + _TITLE + _GAP)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    write_line(draw, (_GAP, _TITLE // 2 + 2), title, 20, size[0] - 2 * _GAP, _INK)
    for place, cell in enumerate(cells):
        x = _GAP + place % columns * step[0]
        y = _TITLE + place // columns * step[1]
        width, height = cell.picture.size
        sheet.paste(cell.picture, (x + (CELL[0] - width) // 2, y + (CELL[1] - height) // 2))
        write_line(draw, (x, y + CELL[1] + _CAPTION // 2), cell.caption, 13, CELL[0], _FAINT)
    return sheet


def fit_cell(width: int, height: int) -> tuple[int, int]:
    """The size at which an image fills a cell without being stretched, pixels."""
    scale = min(CELL[0] / width, CELL[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _choose(view: RunView, images: int, limit: int) -> list[LabelledImage]:
    """Cut the run into `limit` equal stretches and take of each the image labelled best."""
    best: dict[int, tuple[float, LabelledImage]] = {}
    readable = (image for image in view.labelled_images() if image.image.status == OK)
    for place, image in enumerate(readable):
        worth = sum(label.score for label in view.shown(image)[:_COUNTED_LABELS])
        stretch = place * limit // max(images, limit)
        if stretch not in best or worth > best[stretch][0]:
            best[stretch] = worth, image
    labelled = [image for worth, image in best.values() if worth > 0]
    return labelled or [image for _, image in best.values()]


def _cell(view: RunView, image: LabelledImage, images_root: Path | None) -> Cell:
    count = len(view.shown(image))
    caption = f"{Path(image.image.path).name}  ·  {count} label{'s' * (count != 1)}"
    return Cell(draw_image(view, image, images_root), caption)


def draw_image(view: RunView, image: LabelledImage, images_root: Path | None) -> Image.Image:
    """An image with its shown labels, as large as a cell.

    Raises:
        DataError: it is not where it was, or cannot be read any more.
    """
    pixels = read_image(image_path(view.run, image.image, images_root), image.image.path).pixels
    size = fit_cell(image.image.width, image.image.height)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    labels = view.shown(image)
    scale = np.tile(np.divide(size, (image.image.width, image.image.height)), 2)
    boxes = [np.asarray(label.box) * scale for label in labels]
    return draw_labels(
        picture,
        boxes,
        [_mask(label, np.asarray(label.mask_box) * scale, size) for label in labels],
        [_name(view, label) for label in labels],
        [label.score for label in labels],
        colours=[category_colour(label.category_id) for label in labels],
    )


def _name(view: RunView, label: LabelRecord) -> str:
    """Such as "apple (red)": the score behind it is the apple's."""
    name = view.categories[label.category_id].name
    values = ", ".join(attribute.name for attribute in label.attributes)
    return f"{name} ({values})" if values else name


def _mask(label: LabelRecord, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    return full_frame(*object_mask(label.mask, box.tolist(), height, width), height, width)


def write_line(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    width: int,
    ink: tuple[int, int, int],
) -> None:
    """Write one line, cut in its middle where it is too wide."""
    shown, keep = text, len(text)
    while font(size).getlength(shown) > width and keep > 8:
        keep -= 1
        shown = f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
    draw.text(place, shown, fill=ink, font=font(size), anchor="lm")
