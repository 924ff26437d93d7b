"""Draws images and writes a labelling run about them, as `detect` would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vildcli.labelling import records
from vildcli.labelling.plan import make_plan, write_plan
from vildcli.labelling.sources import FoundImage
from vildcli.runs import open_run
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary

VOCABULARY = Vocabulary(
    "fruit",
    (
        Category(1, "apple", synset="apple.n.01", frequency="f"),
        Category(44, "pear", parent="pome", threshold=0.5),
        Category(90, "drinking straw"),
    ),
)


@dataclass(frozen=True)
class DrawnLabel:
    """One label to store; its mask is an ellipse filling the box."""

    category_id: int
    score: float
    box: tuple[float, float, float, float]
    is_base: bool = True
    attributes: tuple[tuple[str, str, float], ...] = ()


@dataclass(frozen=True)
class DrawnImage:
    """One image to draw, its size as width, height; without a size a file that is no image."""

    name: str
    size: tuple[int, int] | None = (96, 64)
    labels: Sequence[DrawnLabel] = field(default_factory=tuple)
    sha256: str = "0" * 64


IMAGES = (
    DrawnImage(
        "a.png",
        (96, 64),
        (
            DrawnLabel(1, 0.9, (4.25, 6.5, 40.75, 50.0), attributes=(("colour", "red", 0.75),)),
            DrawnLabel(44, 0.6, (50.0, 10.0, 90.5, 60.25), is_base=False),
            DrawnLabel(44, 0.4, (48.0, 2.0, 70.0, 20.0), is_base=False),
            DrawnLabel(90, 0.35, (0.0, 30.0, 96.0, 64.0)),
            DrawnLabel(90, 0.05, (10.0, 10.0, 30.0, 30.0)),
        ),
    ),
    DrawnImage("deep/b.jpg", (64, 96), (DrawnLabel(1, 0.8, (10.0, 12.0, 50.0, 70.0)),)),
    DrawnImage("broken.jpg", None),
    DrawnImage("empty.png", (32, 32)),
)


def ellipse_mask() -> np.ndarray:
    """A soft ellipse, [28, 28] uint8."""
    y, x = (np.mgrid[:28, :28] + 0.5) / 28 * 2 - 1
    return (255 / (1 + np.exp(8 * (x**2 + y**2 - 0.85)))).astype(np.uint8)


def build_run(
    run: Path,
    photos: Path,
    images: Sequence[DrawnImage] = IMAGES,
    *,
    vocabulary: Vocabulary = VOCABULARY,
    arguments: Mapping[str, Any] | None = None,
    unit_size: int = 2,
    finished: int | None = None,
) -> Path:
    """Draw `images` under `photos` and write the run about them, or `finished` units of it."""
    sources = {"photos": str(photos.absolute())}
    settings = {"vocabulary": vocabulary.fingerprint(), "floor": 0.01}
    open_run(
        run,
        kind="labelling",
        settings=settings,
        arguments={"sources": sources, **(arguments or {})},
    )
    save_vocabulary(vocabulary, run / "vocabulary.yaml")
    for image in images:
        _draw(photos / image.name, image)
    found = [FoundImage("photos", image.name, 1, 1) for image in images]
    plan = [
        type(planned)(**{**_fields(planned), "unit": place // unit_size})
        for place, planned in enumerate(make_plan(found))
    ]
    write_plan(run, plan)
    units = range(-(-len(images) // unit_size))[:finished]
    for unit in units:
        part = list(enumerate(images, start=1))[unit * unit_size : (unit + 1) * unit_size]
        records.write_part(run, "regions", unit, [r for i, im in part for r in _regions(i, im)])
        records.write_part(run, "labels", unit, [r for i, im in part for r in _labels(i, im)])
        records.write_part(run, "images", unit, [_image(i, im) for i, im in part])
    return run


def _fields(planned: Any) -> dict[str, Any]:
    return {name: getattr(planned, name) for name in planned.__dataclass_fields__}


def _draw(path: Path, image: DrawnImage) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.size is None:
        path.write_bytes(b"\xff\xd8\xff no image")
        return
    canvas = Image.new("RGB", image.size, (215, 222, 205))
    draw = ImageDraw.Draw(canvas)
    for label in image.labels:
        draw.ellipse(label.box, fill=(60 + label.category_id, 120, 80), outline=(30, 30, 30))
    canvas.save(path)


def _image(image_id: int, image: DrawnImage) -> dict[str, Any]:
    width, height = image.size or (0, 0)
    return {
        "image_id": image_id,
        "source": "photos",
        "path": image.name,
        "width": width,
        "height": height,
        "sha256": image.sha256,
        "bytes": 1,
        "mtime_ns": 1,
        "status": records.OK if image.size else records.FAILED,
        "reason": None if image.size else f"{image.name}: not an image.",
    }


def _regions(image_id: int, image: DrawnImage) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "region": place,
            "proposal": list(label.box),
            "box": list(label.box),
            "objectness": 0.75,
            "mask": ellipse_mask().tobytes(),
        }
        for place, label in enumerate(image.labels)
    ]


def _labels(image_id: int, image: DrawnImage) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "label": place,
            "region": place,
            "category_id": label.category_id,
            "is_base": label.is_base,
            "score": label.score,
            "text_score": label.score / 2,
            "image_score": None,
            "attributes": [
                {"set": kind, "name": name, "score": score, "joint": label.score * score}
                for kind, name, score in label.attributes
            ],
        }
        for place, label in enumerate(image.labels)
    ]
