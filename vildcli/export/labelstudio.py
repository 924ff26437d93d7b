"""A labelling run as Label Studio tasks with predictions, written as a stream.

A project shows them where its labelling configuration has the same names: `NAME-config.xml` beside
the file is one. It carries the ids of the categories, which Label Studio's own COCO export then
keeps.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vildcli import __version__
from vildcli.export.attributes import Fields, attribute_fields
from vildcli.export.brush import brush_rle
from vildcli.export.coco import json_text
from vildcli.export.geometry import Geometry, cut_box, outline, short
from vildcli.export.selection import SelectedImage, Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.writing import write_file, write_text
from vildcli.export.xml import add_element, pretty, xml_text
from vildcli.labelling.masks import object_mask
from vildcli.labelling.records import ImageRecord, LabelRecord

CONFIG_END = "-config.xml"
LOCAL_FILES = "/data/local-files/?d="
_STORES = ("s3://", "gs://", "azure-blob://")  # their keys are no URLs
_LABELS, _IMAGE = "label", "image"  # what the configuration calls them


def export_labelstudio(
    selection: Selection,
    out: Path,
    *,
    geometry: Geometry = "box",
    image_url: str = LOCAL_FILES,
) -> ExportSummary:
    """Write one file of tasks, or one for each part of a split, replacing what is there.

    Args:
        geometry: a `box`, one `polygon` an object, or `rle`: a brush mask.
        image_url: what stands before the name of an image. By default the images are files of a
            storage of Label Studio's own machine whose document root is the source's folder.

    Raises:
        RunError: `out` cannot be written.
        DataError: a record is damaged, or an image is not under `images_root`.
    """
    counts: Counter[str] = Counter()
    for path, part in selection.files(out):
        tasks = partial(_tasks, part, geometry, image_url, counts)
        write_file(path, partial(_write, tasks=tasks))
    config = pretty(_config(selection, geometry))
    write_text(out.with_name(out.stem + CONFIG_END), config)
    return selection.summary(out, counts)


def _write(path: Path, tasks: Callable[[], Iterator[dict[str, Any]]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for place, task in enumerate(tasks()):
            file.write((",\n" if place else "\n") + json_text(task))
        file.write("\n]\n")


def _tasks(
    selection: Selection, geometry: Geometry, image_url: str, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    model_version = f"vildcli {__version__} {selection.view.fingerprint}"
    fields = _fields(selection)
    for image in selection.labelled_images(counts):
        data = {
            _IMAGE: _url(image_url, image.name),
            "file_name": image.name,
            "image_id": image.record.image_id,
        }
        result = list(_results(selection, image, geometry, fields))
        prediction: dict[str, Any] = {"model_version": model_version, "result": result}
        scores = [selection.scores(label)["score"] for label in image.labels]
        if scores:  # by the mean, tasks can be sorted
            prediction["score"] = sum(scores) / len(scores)
        yield {"data": data, "predictions": [prediction]}


def _url(prefix: str, name: str) -> str:
    return prefix + (name if prefix.startswith(_STORES) else quote(name))


def _results(
    selection: Selection, image: SelectedImage, geometry: Geometry, fields: Fields
) -> Iterator[dict[str, Any]]:
    """A region a label; then one choice an attribute set, which hangs on the region by its id."""
    record = image.record
    kind, place = _SHAPES[geometry]
    for label in image.labels:
        scores = selection.scores(label)
        where = {
            "id": f"{record.image_id}-{label.label}",
            "to_name": _IMAGE,
            "original_width": record.width,
            "original_height": record.height,
            "image_rotation": 0,
        }
        name = xml_text(selection.view.categories[label.category_id].name)  # as in the config
        yield {
            **where,
            "from_name": _LABELS,
            "type": kind,
            "value": {**place(label, record), kind: [name]},
            "score": scores.pop("score"),
            **({"meta": scores} if scores else {}),
        }
        for a in selection.attributes(label):
            yield {
                **where,
                "from_name": xml_text(fields[a.set][0]),
                "type": "choices",
                "value": {"choices": [xml_text(a.name)]},
                "score": short(a.score),
            }


def _fields(selection: Selection) -> Fields:
    return attribute_fields(selection.attribute_sets, (_LABELS, _IMAGE))


def _rectangle(label: LabelRecord, image: ImageRecord) -> dict[str, Any]:
    x1, y1, x2, y2 = cut_box(label, image)
    return {
        "x": _percent(x1, image.width),
        "y": _percent(y1, image.height),
        "width": _percent(x2 - x1, image.width),
        "height": _percent(y2 - y1, image.height),
        "rotation": 0,
    }


def _polygon(label: LabelRecord, image: ImageRecord) -> dict[str, Any]:
    points = outline(label, image)
    return {
        "points": [[_percent(x, image.width), _percent(y, image.height)] for x, y in points],
        "closed": True,
    }


def _brush(label: LabelRecord, image: ImageRecord) -> dict[str, Any]:
    size = image.height, image.width
    return {
        "format": "rle",
        "rle": brush_rle(*object_mask(label.mask, label.mask_box, *size), *size),
    }


def _percent(pixels: float, of: int) -> float:
    return round(pixels / of * 100, 7)


_SHAPES: dict[Geometry, tuple[str, Callable[[LabelRecord, ImageRecord], dict[str, Any]]]] = {
    "box": ("rectanglelabels", _rectangle),
    "polygon": ("polygonlabels", _polygon),
    "rle": ("brushlabels", _brush),
}
_TAGS = {"box": "RectangleLabels", "polygon": "PolygonLabels", "rle": "BrushLabels"}


def _config(selection: Selection, geometry: Geometry) -> ElementTree.Element:
    """The labelling configuration of a project for these tasks."""
    view = ElementTree.Element("View")
    add_element(view, "Image").attrib |= {"name": _IMAGE, "value": f"${_IMAGE}", "zoom": "true"}
    labels = add_element(view, _TAGS[geometry])
    labels.attrib |= {"name": _LABELS, "toName": _IMAGE}
    for category in selection.categories:
        named = {"value": xml_text(category.name), "category": str(category.id)}
        add_element(labels, "Label").attrib |= named
    for set_, (name, _, _) in _fields(selection).items():
        choices = add_element(view, "Choices")
        choices.attrib |= {"name": xml_text(name), "toName": _IMAGE, "perRegion": "true"}
        for value in selection.view.vocabulary.attributes[set_]:
            add_element(choices, "Choice").set("value", xml_text(value))
    return view
