from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.errors import DataError
from vildcli.labelling.thresholds import view_run
from vildcli.review import sheet
from vildcli.review.drawing import category_colour
from vildcli.review.sheet import CELL, Cell, compose_sheet, fit_cell, write_contact_sheet


def photo(name: str, *scores: float, size=(64, 48)) -> DrawnImage:
    return DrawnImage(name, size, [DrawnLabel(1, score, (8, 8, 40, 40)) for score in scores])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def names_chosen(run, limit: int) -> list[str]:
    view = view_run(run)
    images = sum(1 for image in view.images() if image.status == "ok")
    return [image.image.path for image in sheet._choose(view, images, limit)]


def test_write_contact_sheet__shows_the_labels(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos")
    drawn = pixels(write_contact_sheet(run, tmp_path / "sheet.png"))
    for category_id in (1, 44, 90):
        assert (drawn == category_colour(category_id)).all(axis=2).sum() > 100
    nothing = pixels(write_contact_sheet(run, tmp_path / "nothing.png", conf=1.0))
    assert not (nothing == category_colour(1)).all(axis=2).any()


def test_write_contact_sheet__is_the_same_twice(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos")
    first = write_contact_sheet(run, tmp_path / "a.png").read_bytes()
    assert write_contact_sheet(run, tmp_path / "b.png").read_bytes() == first


def test_write_contact_sheet__no_labels_at_all(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", [photo("a.png"), photo("b.png")])
    picture = pixels(write_contact_sheet(run, tmp_path / "sheet.png"))
    assert picture.shape[1] > 2 * CELL[0]


def test_write_contact_sheet__only_failures(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", [DrawnImage("a.jpg", None)])
    picture = pixels(write_contact_sheet(run, tmp_path / "sheet.png"))
    assert picture.shape[0] < CELL[1]


def test_write_contact_sheet__images_gone(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", [photo("a.png", 0.9)])
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(DataError) as error:
        write_contact_sheet(run, tmp_path / "sheet.png")
    assert error.value.hint == "Name the folder that the images moved to as --images."
    write_contact_sheet(run, tmp_path / "sheet.png", images_root=tmp_path / "moved")
    assert (tmp_path / "sheet.png").is_file()


def test_choose__best_of_each_stretch(tmp_path):
    images = [photo(f"{i}.png", score) for i, score in enumerate((0.4, 0.9, 0.8, 0.5, 0.6, 0.7))]
    run = build_run(tmp_path / "run", tmp_path / "photos", images)
    assert names_chosen(run, 3) == ["1.png", "2.png", "5.png"]
    assert len(names_chosen(run, 12)) == 6


def test_choose__leaves_out_images_without_labels(tmp_path):
    images = [photo("a.png"), photo("b.png", 0.9), photo("c.png", 0.1)]
    run = build_run(tmp_path / "run", tmp_path / "photos", images)
    assert names_chosen(run, 3) == ["b.png"]


def test_choose__many_labels_do_not_beat_confident_ones(tmp_path):
    crowded = photo("crowded.png", *[0.31] * 50)
    images = [crowded, photo("clear.png", 0.9, 0.9)]
    run = build_run(tmp_path / "run", tmp_path / "photos", images)
    assert names_chosen(run, 1) == ["clear.png"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((192, 192), (300, 300)),
        ((4000, 3000), (400, 300)),
        ((1000, 10), (400, 4)),
        ((1, 1), (300, 300)),
    ],
)
def test_fit_cell(size, expected):
    assert fit_cell(*size) == expected


def test_compose_sheet__grid():
    cells = [Cell(Image.new("RGB", CELL, (9, 9, 9)), f"{i}.png") for i in range(5)]
    picture = np.asarray(compose_sheet("title", cells, columns=2))
    black = (picture == 9).all(axis=2)
    assert black.sum() == 5 * CELL[0] * CELL[1]


def test_compose_sheet__long_captions_stay_in_their_cell():
    cells = [Cell(Image.new("RGB", CELL), "n" * 500), Cell(Image.new("RGB", CELL), "")]
    picture = np.asarray(compose_sheet("", cells, columns=2))
    captions = picture[44 + CELL[1] + 2 : 44 + CELL[1] + 20]
    dark = (captions < 200).any(axis=(0, 2))
    assert dark[12 : 12 + CELL[0]].any()
    assert not dark[12 + CELL[0] + 6 :].any()
