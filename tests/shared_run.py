"""A run of a small real model that several processes make, and what it holds byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tiny_student import save_clip, save_student

from vildcli.labelling.label import LabellingJob
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import SCHEMAS, done_units, part_path
from vildcli.labelling.run import LabellingRun, open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.vocabulary.category import Category, Vocabulary

VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(2, "plum")))
JOB = LabellingJob(keep_regions=True, batch_size=4, workers=1)


def student_options(folder: Path) -> LabellingOptions:
    """How a tiny model is opened, whose file is written here."""
    model = save_student(folder / "model.safetensors", save_clip(folder / "clip"))
    return LabellingOptions(model=str(model), regions=8, context="none", offline=True, device="cpu")


def draw_noise(folder: Path, count: int) -> Path:
    """`count` images of noise, one that is none, and a copy of 007.png."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        pixels = generator.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    (folder / "bad.png").write_text("hello")
    (folder / "copy.png").write_bytes((folder / "007.png").read_bytes())
    return folder


def opened(folder: Path, photos: Path) -> LabellingRun:
    return open_labelling_run(folder, find_images([str(photos)]), {}, VOCABULARY, dedupe=True)


def parts(run: Path) -> dict[str, bytes]:
    """Every part of the units that are done, by table and unit."""
    return {
        f"{table}/{unit}": part_path(run, table, unit).read_bytes()
        for table in SCHEMAS
        for unit in done_units(run)
    }
