"""One row a label: the columns that CSV and Parquet share.

Columns, units and ranges: docs/exports.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from vildcli.export.attributes import Fields, attribute_fields, attribute_values
from vildcli.export.geometry import Geometry, coco_segmentation, cut_box, short
from vildcli.export.selection import SelectedImage, Selection
from vildcli.labelling.records import LabelRecord

_FLOAT = pa.float32()
_COLUMNS = {
    "image_id": pa.int64(),
    "file_name": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "label": pa.int32(),
    "category_id": pa.int64(),
    "category": pa.string(),
    "is_base": pa.bool_(),
    "score": _FLOAT,
    "text_score": _FLOAT,
    "image_score": _FLOAT,
    "objectness": _FLOAT,
    "x1": _FLOAT,
    "y1": _FLOAT,
    "x2": _FLOAT,
    "y2": _FLOAT,
}
_SEGMENTATIONS = {
    "polygon": pa.list_(pa.list_(pa.float64())),
    "rle": pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())]),
}


def table_schema(selection: Selection, geometry: Geometry) -> pa.Schema:
    """The columns of a run: those of every run, `split`, three an attribute set, the masks."""
    columns = _own_columns(selection)
    for names in _attribute_columns(selection).values():
        columns |= dict(zip(names, (pa.string(), _FLOAT, _FLOAT), strict=True))
    if geometry != "box":
        columns["segmentation"] = _SEGMENTATIONS[geometry]
    return pa.schema(list(columns.items()))


def _own_columns(selection: Selection) -> dict[str, pa.DataType]:
    columns = dict(_COLUMNS)
    if selection.view.joint:
        columns["category_score"] = _FLOAT
    if selection.split is not None:
        columns["split"] = pa.string()
    return columns


def _attribute_columns(selection: Selection) -> Fields:
    return attribute_fields(selection.attribute_sets, (*_own_columns(selection), "segmentation"))


def table_rows(
    selection: Selection, geometry: Geometry, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The rows of `table_schema`'s columns, best first within an image.

    A label without an attribute of some set lacks its columns.
    """
    columns = _attribute_columns(selection)
    categories = selection.view.categories
    for image in selection.labelled_images(counts):
        for label in image.labels:
            row = _row(image, label, categories[label.category_id].name)
            row |= selection.scores(label)
            if selection.split is not None:
                row["split"] = image.part
            row |= dict(attribute_values(selection, label, columns))
            if geometry != "box":
                row["segmentation"] = coco_segmentation(label, image.record, geometry)[1]
            yield row


def _row(image: SelectedImage, label: LabelRecord, category: str) -> dict[str, Any]:
    x1, y1, x2, y2 = cut_box(label, image.record)
    sides = {
        "text_score": label.text_score,
        "image_score": label.image_score,
        "objectness": label.objectness,
    }
    return {
        "image_id": image.record.image_id,
        "file_name": image.name,
        "width": image.record.width,
        "height": image.record.height,
        "label": label.label,
        "category_id": label.category_id,
        "category": category,
        "is_base": label.is_base,
        **{name: None if value is None else short(value) for name, value in sides.items()},
        **{"x1": x1, "y1": y1, "x2": x2, "y2": y2},
    }
