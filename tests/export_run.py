"""A labelling run that is hard to export, and what an export of it should hold."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.export.selection import Selection
from vildcli.labelling.records import ImageRecord, LabelRecord
from vildcli.labelling.thresholds import view_run
from vildcli.vocabulary.category import Category, Vocabulary

ODD_NAME = 'straw, "drinking" <& co>'
ODD = Vocabulary(
    "odd, names",
    (
        Category(7, "apple", synset="apple.n.01", frequency="f", definition="a fruit"),
        Category(3, "poire d'été", synonyms=("pear", "Birne")),
        Category(1203, ODD_NAME),
        Category(12, "never seen"),
    ),
    attributes={"colour": ("red", "green & blue"), "label": ("old", "new")},
)
RED_OLD = (("colour", "red", 0.75), ("label", "old", 0.1))
GREEN_NEW = (("colour", "green & blue", 0.6), ("label", "new", 1 / 3))
IMAGES = (
    DrawnImage(
        "a.png",
        (96, 64),
        (
            DrawnLabel(7, 0.9, (4.25, 6.5, 40.75, 50.0), True, RED_OLD),
            DrawnLabel(3, 1 / 3, (50.0, 10.0, 90.5, 60.25), False, GREEN_NEW),
            DrawnLabel(7, 0.7, (-5.5, -8.0, 30.1, 20.2), True, GREEN_NEW),
            DrawnLabel(1203, 0.6, (80.0, 40.0, 120.0, 99.0), True, RED_OLD),
            DrawnLabel(1203, 0.05, (10.0, 10.0, 30.0, 30.0), True, RED_OLD),
        ),
    ),
    DrawnImage("a.jpg", (64, 96), (DrawnLabel(1203, 0.8, (10.0, 12.0, 50.0, 70.0)),)),
    DrawnImage("broken.jpg", None),
    DrawnImage("deep/a.png", (32, 48), (DrawnLabel(3, 0.5, (3.3, 4.4, 30.7, 40.9)),)),
    DrawnImage("empty.png", (32, 32)),
    DrawnImage("images/in the dark, é&ü.png", (40, 30), (DrawnLabel(7, 0.4, (5, 5, 35, 25)),)),
)


def build_odd_run(folder: Path, **changes: Any) -> Path:
    """The run in `folder/run`, its images in `folder/photos`; each has bytes of its own."""
    images = [
        replace(image, sha256=hashlib.sha256(image.name.encode()).hexdigest()) for image in IMAGES
    ]
    arguments = {"vocabulary": ODD, "images": images, **changes}
    return build_run(folder / "run", folder / "photos", arguments.pop("images"), **arguments)


def select(run: Path, *, conf: float | None = None, **choices: Any) -> Selection:
    asked = {key: choices.pop(key) for key in ("where", "joint") if key in choices}
    return Selection(view_run(run, conf=conf, **asked), **choices)


def shown(run: Path, conf: float | None = None) -> list[tuple[ImageRecord, LabelRecord]]:
    """Every shown label with its image, in the order of an export."""
    view = view_run(run, conf=conf)
    return [(im.image, label) for im in view.labelled_images() for label in view.shown(im)]


def name_of(category_id: int) -> str:
    return ODD.by_id()[category_id].name


def cut(image: ImageRecord, label: LabelRecord) -> tuple[float, float, float, float]:
    """The label's box within its image, x1 y1 x2 y2."""
    x1, y1, x2, y2 = label.box
    return max(x1, 0), max(y1, 0), min(x2, image.width), min(y2, image.height)
