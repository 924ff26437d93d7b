"""A labelling run as COCO detection JSON, written as a stream: one unit in memory at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from vildcli import __version__
from vildcli.export.attributes import DETECTION_FIELDS
from vildcli.export.geometry import Geometry, coco_segmentation, cut_box, short
from vildcli.export.selection import Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.writing import write_file
from vildcli.labelling.records import ImageRecord, LabelRecord
from vildcli.vocabulary.category import Category


def export_coco(selection: Selection, out: Path, *, geometry: Geometry = "rle") -> ExportSummary:
    """Write one COCO file, or one for each part of a split, replacing what is there.

    Image and category ids are the run's own; boxes are cut at the image's borders.

    Args:
        selection: what of a run is written.
        out: the JSON file; whole or not there at all.
        geometry: what `segmentation` holds: the mask as compressed RLE or as polygons, or the box.

    Raises:
        RunError: `out` cannot be written.
        DataError: a record is damaged, or an image is not under `images_root`.
    """
    counts: Counter[str] = Counter()
    for path, part in selection.files(out):
        write_file(path, partial(_write, selection=part, geometry=geometry, counts=counts))
    return selection.summary(out, counts)


def _write(path: Path, selection: Selection, geometry: Geometry, counts: Counter[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"info": ' + json_text(coco_info(selection)) + ',\n"licenses": []')
        write_list(file, "categories", map(coco_category, selection.categories))
        write_list(file, "images", _images(selection))
        write_list(file, "annotations", coco_annotations(selection, geometry, counts))
        file.write("}\n")


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_list(file: TextIO, key: str, values: Iterable[dict[str, Any]]) -> None:
    """Write one more key of a JSON object, its list element by element."""
    file.write(f',\n"{key}": [')
    for place, value in enumerate(values):
        file.write((",\n" if place else "\n") + json_text(value))
    file.write("\n]")


def coco_info(selection: Selection) -> dict[str, Any]:
    return {
        "description": f"Labels of the vocabulary '{selection.view.vocabulary.name}'",
        "contributor": f"vildcli {__version__}",
        "run": selection.view.fingerprint,
    }


def coco_category(category: Category) -> dict[str, Any]:
    extra = {"synset": category.synset, "frequency": category.frequency}
    return {
        "id": category.id,
        "name": category.name,
        "supercategory": category.parent or "",
        **{key: value for key, value in extra.items() if value is not None},
    }


def coco_image(record: ImageRecord, name: str) -> dict[str, Any]:
    return {
        "id": record.image_id,
        "file_name": name,
        "width": record.width,
        "height": record.height,
    }


def _images(selection: Selection) -> Iterator[dict[str, Any]]:
    for record in selection.images():
        yield coco_image(record, selection.name(record))


def coco_annotations(
    selection: Selection, geometry: Geometry, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The labels as COCO annotations, numbered from 1 within a file."""
    number = 0
    for selected in selection.labelled_images(counts):
        for label in selected.labels:
            number += 1
            scores = selection.scores(label)
            yield coco_annotation(number, selected.record, label, geometry, scores)


def coco_annotation(
    number: int,
    record: ImageRecord,
    label: LabelRecord,
    geometry: Geometry,
    scores: dict[str, float],
) -> dict[str, Any]:
    """One label as COCO's object of that number, its box cut at the image's borders."""
    x1, y1, x2, y2 = cut_box(label, record)
    area, segmentation = coco_segmentation(label, record, geometry)
    return {
        "id": number,
        "image_id": record.image_id,
        "category_id": label.category_id,
        "bbox": [x1, y1, short(x2 - x1), short(y2 - y1)],
        "area": area,
        "segmentation": segmentation,
        "iscrowd": 0,
        **scores,
        "is_base": label.is_base,
        "vildcli_label": label.label,
        **_attributes(label),
    }


def _attributes(label: LabelRecord) -> dict[str, Any]:
    """The best value of each set as CVAT and FiftyOne read it, and both scores in its likeness."""
    if not label.attributes:
        return {}
    # FiftyOne makes fields of them, beside its own.
    keys = {
        a.set: f"attribute_{a.set}" if a.set in DETECTION_FIELDS else a.set
        for a in label.attributes
    }
    return {
        "attributes": {keys[a.set]: a.name for a in label.attributes},
        "attribute_scores": {keys[a.set]: short(a.score) for a in label.attributes},
        "joint_scores": {keys[a.set]: short(a.joint) for a in label.attributes},
    }
