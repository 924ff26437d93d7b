from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from run_builder import build_run, ellipse_mask

from vildcli.errors import RunError
from vildcli.labelling.plan import read_plan
from vildcli.labelling.search import FoundRegion
from vildcli.review.question_sheet import (
    CROP,
    Card,
    Section,
    compose_answer,
    crop_region,
    draw_image_answer,
    draw_run_answer,
    number_regions,
    write_answer,
)

GREEN = np.full((60, 90, 3), (10, 200, 30), np.uint8)
FULL = np.full((28, 28), 255, np.uint8)
CARDS = tuple(Card(None, f"card {i}", (("a", 0.3), ("b", 0.1))) for i in range(7))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_crop_region__keeps_its_own_colours_and_fades_the_rest():
    crop = crop_region(GREEN, (30, 20, 60, 40), ellipse_mask())
    width, height = crop.size
    assert max(crop.size) == CROP
    shown = pixels(crop)
    # A red umbrella must be seen to be red: nothing is painted over the region.
    assert tuple(shown[height // 2, width // 2]) == (10, 200, 30)
    assert tuple(shown[2, 2]) == (154, 230, 162)


@pytest.mark.parametrize(
    "box",
    [
        (-40.0, -40.0, 20.0, 20.0),
        (80.0, 50.0, 200.0, 200.0),
        (10.0, 10.0, 10.0, 10.0),
        (0.0, 59.5, 90.0, 60.0),
        (95.0, 70.0, 99.0, 75.0),
    ],
)
def test_crop_region__of_any_box(box):
    crop = crop_region(GREEN, box, FULL)
    assert max(crop.size) == CROP
    assert min(crop.size) >= 1


@pytest.mark.parametrize("size", [(40, 4000), (4000, 40), (1, 1)])
def test_number_regions__fits_whatever_the_shape(size):
    picture = number_regions(np.zeros((*size, 3), np.uint8), [(0, 0, 1, 1)])
    assert picture.width <= 1224
    assert picture.height <= 520


def test_compose_answer__grows_by_rows_of_three():
    heights = [
        compose_answer("title", [Section(None, CARDS[:count])]).height for count in (0, 1, 3, 4, 7)
    ]
    assert heights[1] == heights[2] > heights[0]
    steps = np.diff(heights[2:])
    assert steps.tolist() == [steps[0]] * 2
    headed = compose_answer("title", [Section("a", CARDS[:1]), Section("b", CARDS[:1])])
    assert headed.height > heights[3]


def bar_lengths(scores):
    """Filled pixels of the bars of one card."""
    card = Card(None, "", tuple((f"t{i}", score) for i, score in enumerate(scores)))
    sheet = pixels(compose_answer("title", [Section(None, (card,))]))
    filled = (sheet == (31, 119, 180)).all(2) | (sheet == (165, 178, 190)).all(2)
    rows = filled.sum(1)
    starts = np.flatnonzero((rows > 0) & (np.roll(rows, 1) == 0))
    return [int(rows[start]) for start in starts]


def test_compose_answer__bars_tell_the_differences_of_scores():
    longest, middle, shortest = bar_lengths([0.30, 0.28, 0.20])
    assert longest > middle > shortest > 0
    assert (middle - shortest) / (longest - shortest) == pytest.approx(0.8, abs=0.02)
    assert len(set(bar_lengths([0.25, 0.25]))) == 1
    assert len(bar_lengths([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])) == 5  # the best few


def test_compose_answer__long_texts_stay_in_their_card():
    text = "an exceedingly long description of a thing " * 5
    short, long = (
        pixels(compose_answer("t", [Section(None, (Card(None, "", ((words, 0.5),)),))]))
        for words in ("a", text)
    )
    card = 12 + 400
    assert (short[:, card:] == long[:, card:]).all()


def test_draw_run_answer__a_card_for_each_and_none_for_what_is_gone(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos")
    found = [FoundRegion(1, 1, (50.0, 10.0, 90.5, 60.25), 0.75, 0.3)] * 2
    plan = read_plan(run)
    there = pixels(draw_run_answer(run, plan, {"pear": found}))
    (tmp_path / "photos" / "a.png").rename(tmp_path / "a.png")
    gone = pixels(draw_run_answer(run, plan, {"pear": found}))
    assert there.shape == gone.shape
    assert not (there == gone).all()
    moved = draw_run_answer(run, plan, {"pear": found}, images_root=tmp_path)
    assert (pixels(moved) == there).all()


def test_draw_image_answer__holds_every_region():
    from vildcli.labelling.ask import AskedRegion

    regions = [
        AskedRegion(i, (5.0, 5.0, 40.0, 40.0), 0.9, name, 0.5, (0.1, 0.2), FULL)
        for i, name in enumerate(("apple", None))
    ]
    one, two = (
        draw_image_answer("a.png", GREEN, ("red", "blue"), regions[:count]) for count in (1, 2)
    )
    assert one.size == two.size  # the same row
    assert not (pixels(one) == pixels(two)).all()


def test_write_answer__is_a_png_or_says_why_not(tmp_path):
    sheet = compose_answer("title", [Section(None, CARDS)])
    write_answer(sheet, tmp_path / "deep" / "a.png")
    with Image.open(tmp_path / "deep" / "a.png") as read:
        assert (read.format, read.size) == ("PNG", sheet.size)
    (tmp_path / "file").touch()
    with pytest.raises(RunError) as error:
        write_answer(sheet, tmp_path / "file" / "a.png")
    assert error.value.hint == "Choose another --out."
