"""A labelling run as CVAT's own XML ("CVAT for images 1.1"), written as a stream.

A task takes such a file only where it has the labels that it names, and drops an attribute that it
lacks without a word: `NAME-labels.json` beside it is what CVAT's label editor takes under "Raw".
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vildcli.export.attributes import DETECTION_FIELDS, Fields, attribute_fields
from vildcli.export.coco import json_text
from vildcli.export.geometry import Geometry, cut_box, outline, short
from vildcli.export.selection import SelectedImage, Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.writing import write_file, write_text
from vildcli.export.xml import add_element, pretty, xml_text
from vildcli.labelling.masks import object_mask, run_lengths
from vildcli.labelling.records import ImageRecord, LabelRecord

LABELS_END = "-labels.json"
_OWN_FIELDS = ("occluded", "outside", "keyframe", "source", "z_order")


def export_cvat(selection: Selection, out: Path, *, geometry: Geometry = "box") -> ExportSummary:
    """Write one XML for a task, or one for each part of a split, replacing what is there.

    Image ids are the run's; CVAT matches images by name. Scores are attributes of the label, as
    CVAT shows none.

    Args:
        geometry: a `box`, one `polygon` an object, or `rle`: a mask.

    Raises:
        RunError: `out` cannot be written.
        DataError: a record is damaged, or an image is not under `images_root`.
    """
    counts: Counter[str] = Counter()
    for path, part in selection.files(out):
        write_file(path, partial(_write, selection=part, geometry=geometry, counts=counts))
    write_text(out.with_name(out.stem + LABELS_END), json_text(_labels(selection)) + "\n")
    return selection.summary(out, counts)


def _write(path: Path, selection: Selection, geometry: Geometry, counts: Counter[str]) -> None:
    fields = _fields(selection)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        file.write(f"  <version>1.1</version>\n  {pretty(_meta(selection), level=1)}")
        for image in selection.labelled_images(counts):
            element = _image(selection, image, geometry, fields)
            file.write(f"  {pretty(element, level=1)}")
        file.write("</annotations>\n")


def _fields(selection: Selection) -> Fields:
    return attribute_fields(selection.attribute_sets, (*_OWN_FIELDS, *DETECTION_FIELDS))


def _labels(selection: Selection) -> list[dict[str, Any]]:
    """The labels as CVAT's label editor and API take them."""
    attributes = list(_attribute_specs(selection))
    return [
        {"name": xml_text(category.name), "type": "any", "attributes": attributes}
        for category in selection.categories
    ]


def _attribute_specs(selection: Selection) -> Iterator[dict[str, Any]]:
    scores = ["score", *(["category_score"] if selection.view.joint else []), "vildcli_label"]
    yield from map(_text_spec, scores)
    for set_, (name, score, _) in _fields(selection).items():
        values = [xml_text(value) for value in selection.view.vocabulary.attributes[set_]]
        yield {
            "name": xml_text(name),
            "mutable": False,
            "input_type": "select",
            "default_value": values[0],
            "values": values,
        }
        yield _text_spec(score)


def _text_spec(name: str) -> dict[str, Any]:
    """A number is text, as CVAT's own numbers are of fixed steps."""
    return {
        "name": xml_text(name),
        "mutable": False,
        "input_type": "text",
        "default_value": "",
        "values": [""],
    }


def _meta(selection: Selection) -> ElementTree.Element:
    meta = ElementTree.Element("meta")
    task = add_element(meta, "task")
    add_element(task, "name", selection.view.vocabulary.name)
    add_element(task, "size", sum(1 for _ in selection.images()))
    add_element(task, "mode", "annotation")
    labels = add_element(task, "labels")
    for spec in _labels(selection):
        label = add_element(labels, "label")
        add_element(label, "name", spec["name"])
        add_element(label, "type", spec["type"])
        attributes = add_element(label, "attributes")
        for values in spec["attributes"]:
            attribute = add_element(attributes, "attribute")
            for key, value in values.items():
                text = "\n".join(value) if isinstance(value, list) else value
                add_element(attribute, key, text)
    return meta


def _image(
    selection: Selection, image: SelectedImage, geometry: Geometry, fields: Fields
) -> ElementTree.Element:
    record = image.record
    element = ElementTree.Element("image", id=str(record.image_id), name=xml_text(image.name))
    element.attrib |= {"width": str(record.width), "height": str(record.height)}
    for label in image.labels:
        tag, place = _SHAPES[geometry](label, record)
        shape = ElementTree.SubElement(element, tag)
        name = selection.view.categories[label.category_id].name
        shape.attrib |= {"label": xml_text(name), "source": "auto", "occluded": "0"}
        shape.attrib |= {key: str(value) for key, value in place.items()}
        shape.set("z_order", "0")
        for key, value in _attributes(selection, label, fields).items():
            add_element(shape, "attribute", value).set("name", xml_text(key))
    return element


def _attributes(selection: Selection, label: LabelRecord, fields: Fields) -> dict[str, object]:
    values: dict[str, object] = {**selection.scores(label), "vildcli_label": label.label}
    for a in selection.attributes(label):
        name, score, _ = fields[a.set]  # the joint score is the product
        values |= {name: a.name, score: short(a.score)}
    return values


def _box(label: LabelRecord, image: ImageRecord) -> tuple[str, Mapping[str, object]]:
    sides = ("xtl", "ytl", "xbr", "ybr")
    return "box", dict(zip(sides, cut_box(label, image), strict=True))


def _polygon(label: LabelRecord, image: ImageRecord) -> tuple[str, Mapping[str, object]]:
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline(label, image))
    return "polygon", {"points": points}


def _mask(label: LabelRecord, image: ImageRecord) -> tuple[str, Mapping[str, object]]:
    """CVAT's run lengths go along the rows of a crop, and begin with pixels not set."""
    crop, (left, top) = object_mask(label.mask, label.mask_box, image.height, image.width)
    height, width = crop.shape
    rle = ", ".join(map(str, run_lengths(crop.T, (0, 0), width, height)))
    return "mask", {"rle": rle, "left": left, "top": top, "width": width, "height": height}


_SHAPES = {"box": _box, "polygon": _polygon, "rle": _mask}
