"""A run about real photographs, whose labels are what people annotated on them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.data.lvis import Annotation, AnnotationSet, annotation_mask, load_annotations
from vildcli.labelling import records
from vildcli.vocabulary.category import Vocabulary


def build_photograph_run(folder: Path, coco128: Path, count: int) -> Path:
    """Photographs with a few large objects, in `folder/photos`, and the run about them.

    Args:
        coco128: holds `coco_json` and `images/train2017`.
    """
    truth = load_annotations(coco128 / "coco_json" / "instances_train2017_128.json")
    chosen = [i for i in truth.images if 2 <= len(_large(truth, i.id)) <= 5][:count]
    images = [
        DrawnImage(
            image.file_name,
            (image.width, image.height),
            [_label(a, place) for place, a in enumerate(_large(truth, image.id))],
            f"{image.id:016x}" * 4,
        )
        for image in chosen
    ]
    vocabulary = Vocabulary("coco", tuple(replace(c, frequency="f") for c in truth.categories))
    run = build_run(folder / "run", folder / "photos", images, vocabulary=vocabulary)
    for image in chosen:
        photo = coco128 / "images" / "train2017" / image.file_name
        shutil.copyfile(photo, folder / "photos" / image.file_name)
    masks = {
        (place, region): _mask(a, image.height, image.width)
        for place, image in enumerate(chosen, start=1)
        for region, a in enumerate(_large(truth, image.id))
    }
    for unit in records.done_units(run):
        _write_masks(run, unit, masks)
    return run


def _large(truth: AnnotationSet, image_id: int) -> list[Annotation]:
    rows = truth.annotations.get(image_id, ())
    return [a for a in rows if a.area > 9000 and not a.iscrowd]


def _label(annotation: Annotation, place: int) -> DrawnLabel:
    return DrawnLabel(annotation.category_id, 0.95 - 0.1 * place, annotation.box, place % 2 == 0)


def _mask(annotation: Annotation, height: int, width: int) -> bytes:
    x1, y1, x2, y2 = (round(side) for side in annotation.box)
    crop = annotation_mask(annotation, height, width)[y1:y2, x1:x2]
    small = Image.fromarray(crop.astype(np.uint8) * 255).resize((28, 28), Image.Resampling.BOX)
    return small.tobytes()


def _write_masks(run: Path, unit: int, masks: Mapping[tuple[int, int], bytes]) -> None:
    table = records.read_part(run, "regions", unit)
    keys = zip(*(table.column(c).to_pylist() for c in ("image_id", "region")), strict=True)
    column = pa.array([masks[key] for key in keys], table.schema.field("mask").type)
    place = table.column_names.index("mask")
    records.write_part_table(run, "regions", unit, table.set_column(place, "mask", column))
