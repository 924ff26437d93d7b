"""A labelling run as a FiftyOne data set on disk, in FiftyOne's own JSON, written as a stream.

`fiftyone.Dataset.from_dir(OUT, dataset_type=fiftyone.types.FiftyOneDataset)` reads it. Fields are
called as in `vildcli review`, which needs no export. Nothing here imports fiftyone.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vildcli.export.attributes import DETECTION_FIELDS, Fields, attribute_fields, attribute_values
from vildcli.export.coco import json_text
from vildcli.export.geometry import Geometry, cut_box, short
from vildcli.export.names import FileNames
from vildcli.export.selection import SelectedImage, Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.writing import ImageFiles, place_image, write_folder
from vildcli.labelling.masks import mask_over_box
from vildcli.labelling.records import ImageRecord, LabelRecord

# The oldest FiftyOne that `pip install vildcli[review]` takes; later ones convert what they read.
FIFTYONE_VERSION = "1.17.0"
FIELD = "predictions"
_FIELDS = "fiftyone.core.fields."
_STRING, _INT, _FLOAT = f"{_FIELDS}StringField", f"{_FIELDS}IntField", f"{_FIELDS}FloatField"
_LIST, _DOCUMENT = f"{_FIELDS}ListField", f"{_FIELDS}EmbeddedDocumentField"
_OBJECT_ID, _TIME = f"{_FIELDS}ObjectIdField", f"{_FIELDS}DateTimeField"
_LABELS = "fiftyone.core.labels."


def export_fiftyone(
    selection: Selection,
    out: Path,
    *,
    geometry: Geometry = "rle",
    images: ImageFiles | None = None,
) -> ExportSummary:
    """Write a FiftyOneDataset folder, in place of an older export.

    Args:
        geometry: `rle` for masks over the boxes, or `box`.
        images: how the images come into the folder; by default the samples name them where they
            are.

    Raises:
        RunError: `out` holds something else or cannot be written.
        DataError: a record is damaged, or an image is not where it was.
    """
    counts: Counter[str] = Counter()
    settings = {"to": "fiftyone", "run": selection.view.fingerprint, "geometry": geometry}
    write = partial(_write, selection=selection, geometry=geometry, images=images, counts=counts)
    write_folder(out, settings, write)
    return selection.summary(out, counts)


def _write(
    folder: Path,
    selection: Selection,
    geometry: Geometry,
    images: ImageFiles | None,
    counts: Counter[str],
) -> None:
    fields = attribute_fields(selection.attribute_sets, DETECTION_FIELDS, identifiers=True)
    dataset = json.dumps(_dataset(selection, fields))  # ASCII: FiftyOne opens it as the system does
    (folder / "metadata.json").write_text(dataset, encoding="ascii")
    names = FileNames(selection) if images is not None else None
    with (folder / "samples.json").open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"samples": [')
        for place, image in enumerate(selection.labelled_images(counts)):
            if images is None or names is None:
                filepath = str(selection.path(image.record).absolute())
            else:
                filepath = f"data/{names.image(image.record)}"
                place_image(selection.path(image.record), folder / filepath, images)
            sample = _sample(selection, image, filepath, geometry, fields)
            file.write((",\n" if place else "\n") + json_text(sample))
        file.write("\n]}\n")


def _sample(
    selection: Selection, image: SelectedImage, filepath: str, geometry: Geometry, fields: Fields
) -> dict[str, Any]:
    record = image.record
    key = f"{selection.view.fingerprint} {record.image_id}"
    return {
        "_id": _object_id(key),
        "filepath": filepath,
        "tags": [] if image.part is None else [image.part],
        "metadata": {"_cls": "ImageMetadata", "width": record.width, "height": record.height},
        "_media_type": "image",
        "_rand": int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16**13,
        "vildcli_image": record.image_id,
        "sha256": record.sha256,
        "source": record.source,
        "path": record.path,
        FIELD: {
            "_cls": "Detections",
            "detections": [
                {
                    "_id": _object_id(f"{key} {label.label}"),
                    **_detection(selection, record, label, geometry, fields),
                }
                for label in image.labels
            ],
        },
    }


def _detection(
    selection: Selection, image: ImageRecord, label: LabelRecord, geometry: Geometry, fields: Fields
) -> dict[str, Any]:
    box = cut_box(label, image)
    x1, y1, x2, y2 = box
    scores = selection.scores(label)
    sides = {
        "text_score": label.text_score,
        "image_score": label.image_score,
        "objectness": label.objectness,
    }
    mask = _binary(mask_over_box(label.mask, label.mask_box, box)) if geometry == "rle" else None
    width, height = image.width, image.height
    return {
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": selection.view.categories[label.category_id].name,
        "bounding_box": [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
        "mask": mask,
        "confidence": scores.pop("score"),
        **scores,
        "vildcli_label": label.label,
        "category_id": label.category_id,
        "is_base": label.is_base,
        **{name: None if value is None else short(value) for name, value in sides.items()},
        **dict(attribute_values(selection, label, fields)),
    }


def _binary(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """An array as FiftyOne keeps it: numpy's own file, compressed, as BSON's extended JSON."""
    file = io.BytesIO()
    np.save(file, mask, allow_pickle=False)
    text = base64.b64encode(zlib.compress(file.getvalue())).decode("ascii")
    return {"$binary": {"base64": text, "subType": "00"}}


def _object_id(key: str) -> dict[str, str]:
    """The same one whenever the run is exported."""
    return {"$oid": hashlib.sha256(key.encode()).hexdigest()[:24]}


def _dataset(selection: Selection, fields: Fields) -> dict[str, Any]:
    """The document of a data set: its fields, which FiftyOne does not find out on import."""
    return {
        "version": FIFTYONE_VERSION,
        "media_type": "image",
        "info": {"vildcli_run": selection.view.fingerprint},
        "default_classes": [category.name for category in selection.categories],
        "sample_fields": _sample_fields(_detection_fields(selection, fields)),
        "frame_fields": [],
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }


def _sample_fields(detection: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pixels = [_field(name, _INT) for name in ("size_bytes", "width", "height", "num_channels")]
    metadata = [*pixels, _field("mime_type", _STRING)]
    detections = _field("detections", _LIST, _DOCUMENT, f"{_LABELS}Detection", detection)
    return [
        _field("id", _OBJECT_ID),
        _field("filepath", _STRING),
        _field("tags", _LIST, _STRING),
        _field("metadata", _DOCUMENT, None, "fiftyone.core.metadata.ImageMetadata", metadata),
        _field("_media_type", _STRING),
        _field("_rand", _FLOAT),
        _field("_dataset_id", _OBJECT_ID),
        _field("created_at", _TIME),
        _field("last_modified_at", _TIME),
        _field("vildcli_image", _INT),
        *(_field(name, _STRING) for name in ("sha256", "source", "path")),
        _field(FIELD, _DOCUMENT, None, f"{_LABELS}Detections", [detections]),
    ]


def _detection_fields(selection: Selection, fields: Fields) -> list[dict[str, Any]]:
    scores = ["confidence", "text_score", "image_score", "objectness"]
    scores += ["category_score"] if selection.view.joint else []
    scores += [name for _, *own in fields.values() for name in own]
    texts = ["label", "mask_path", *(name for name, *_ in fields.values())]
    return [
        _field("id", _OBJECT_ID),
        _field("tags", _LIST, _STRING),
        _field("bounding_box", _LIST, _FLOAT),
        _field("mask", f"{_FIELDS}ArrayField"),
        _field("is_base", f"{_FIELDS}BooleanField"),
        *(_field(name, _INT) for name in ("index", "vildcli_label", "category_id")),
        *(_field(name, _FLOAT) for name in scores),
        *(_field(name, _STRING) for name in texts),
    ]


def _field(
    name: str,
    kind: str,
    subfield: str | None = None,
    document: str | None = None,
    fields: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "ftype": kind,
        "subfield": subfield,
        "embedded_doc_type": document,
        "fields": fields or [],
        "db_field": "_id" if name == "id" else name,
    }
