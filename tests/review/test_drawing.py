from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

from vildcli.review import drawing
from vildcli.review.drawing import category_colour, draw_labels, name_colour

GREY = (128, 128, 128)


def test_draw_labels__box_mask_and_name():
    mask = np.zeros((120, 160), bool)
    mask[60:90, 60:90] = True
    image = Image.new("RGB", (160, 120), GREY)
    drawn = np.asarray(
        draw_labels(image, [[40, 40, 120, 110]], [mask], ["apple"], [0.9], colours=[(255, 0, 0)])
    )
    assert (np.asarray(image) == 128).all()
    assert tuple(drawn[75, 40]) == (255, 0, 0)
    inside = drawn[70, 70].astype(int)
    assert inside[0] > 128 > inside[1]
    assert tuple(drawn[100, 100]) == GREY
    name_box = drawn[25:39, 42:60].reshape(-1, 3)
    assert (name_box == (255, 0, 0)).all(axis=1).any()
    assert not (name_box == (255, 0, 0)).all()


def test_draw_labels__without_masks_or_scores():
    image = Image.new("L", (100, 100), 128)
    drawn = draw_labels(image, [[30, 30, 70, 70]], None, ["pear"])
    assert drawn.mode == "RGB"
    assert drawn.getpixel((30, 50)) == name_colour("pear")
    assert draw_labels(image, [], [], []).tobytes() == image.convert("RGB").tobytes()


def test_draw_labels__names_do_not_overlap(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, "_write", lambda draw, text, place, *_: written.append(place))
    boxes = [[50 + i, 60 + i, 120 + i, 130 + i] for i in range(12)]
    draw_labels(Image.new("RGB", (200, 200)), boxes, None, ["drinking straw"] * 12, [0.5] * 12)
    assert len(written) >= 4
    for a, b in itertools.combinations(written, 2):
        assert not drawing._overlap(a, b)
    for x1, y1, x2, y2 in written:
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= 200
        assert y2 <= 200


def test_draw_labels__boxes_at_and_over_the_border():
    boxes = [[-20, -20, 30, 30], [90, 90, 140, 140], [50, 50, 50, 50], [0, 0, 100, 100]]
    drawn = draw_labels(Image.new("RGB", (100, 100)), boxes, None, list("abcd"), [0.9] * 4)
    assert drawn.size == (100, 100)


def test_category_colour__stable_and_distinct():
    assert category_colour(1) == category_colour(1)
    colours = np.array([category_colour(i) for i in range(1, 21)])
    distances = np.linalg.norm(colours[:, None] - colours, axis=2) + 1000 * np.eye(20)
    assert distances.min() > 25
