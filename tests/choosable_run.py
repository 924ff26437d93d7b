"""A labelling run to choose images of: labels and embeddings as told, no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.labelling.records import done_units, read_part, write_part_table


@dataclass(frozen=True)
class Seen:
    """An image by the scores of its labels and its embedding, which may be at any length."""

    name: str
    scores: Sequence[float] = ()
    embedding: Sequence[float] | None = (1.0, 0.0, 0.0)
    category: int = 1
    broken: bool = False


def choosable_run(folder: Path, images: Sequence[Seen], finished: int | None = None) -> Path:
    run = build_run(
        folder / "run",
        folder / "photos",
        [
            DrawnImage(
                image.name,
                None if image.broken else (40, 30),
                [DrawnLabel(image.category, s, (2.0, 3.0, 20.0, 25.0)) for s in image.scores],
                hashlib.sha256(image.name.encode()).hexdigest(),
            )
            for image in images
        ],
        finished=finished,
    )
    embeddings = {place: image.embedding for place, image in enumerate(images, start=1)}
    for unit in done_units(run):
        part = read_part(run, "images", unit)
        rows = [embeddings[i] for i in part.column("image_id").to_pylist()]
        kept = [None if row is None else np.array(row, np.float16) for row in rows]
        place = part.column_names.index("embedding")
        column = pa.array(kept, pa.list_(pa.float16()))
        write_part_table(run, "images", unit, part.set_column(place, "embedding", column))
    return run


def write_annotations(file: Path, names: Sequence[str], boxes: bool = True) -> Path:
    """A COCO file with one apple in each image of 40 x 30 pixels."""
    images = [
        {"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names, 1)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 3, 18, 22]}
        for i in range(1, len(names) + 1)
    ]
    content = {
        "images": images,
        "annotations": annotations if boxes else [],
        "categories": [{"id": 1, "name": "apple"}],
    }
    file.write_text(json.dumps(content))
    return file
