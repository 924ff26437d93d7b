"""A labelling run as PASCAL VOC: one XML an image, in the folders of VOC's own kit.

Annotations/deep/b.xml   JPEGImages/deep/b.jpg (copied or linked)   ImageSets/Main/train.txt
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TextIO

from vildcli import __version__
from vildcli.export.attributes import DETECTION_FIELDS, Fields, attribute_fields, attribute_values
from vildcli.export.geometry import Geometry, cut_box
from vildcli.export.names import FileNames
from vildcli.export.selection import SelectedImage, Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.writing import ImageFiles, place_image, write_folder
from vildcli.export.xml import add_element, pretty
from vildcli.labelling.records import ImageRecord, LabelRecord

ALL_IMAGES = "trainval"  # the list that VOC itself has of all
_OWN_FIELDS = ("pose", "truncated", "difficult", "occluded", "point", "part", "bndbox", "actions")


def export_voc(
    selection: Selection,
    out: Path,
    *,
    geometry: Geometry = "box",
    images: ImageFiles | None = None,
) -> ExportSummary:
    """Write a folder in VOC's form, in place of an older export.

    Boxes are whole pixels counted from 1, the last one included. What VOC has no element for
    (scores, ids, attributes) stands in `<attributes>`, as CVAT writes and FiftyOne reads it.

    Args:
        geometry: VOC's XML holds boxes only.
        images: how the images come into the folder; by default they do not.

    Raises:
        RunError: `out` holds something else or cannot be written.
        DataError: a record is damaged, or an image is not where it was.
    """
    counts: Counter[str] = Counter()
    settings = {"to": "voc", "run": selection.view.fingerprint, "geometry": geometry}
    write_folder(out, settings, partial(_write, selection=selection, images=images, counts=counts))
    return selection.summary(out, counts)


def _write(
    folder: Path, selection: Selection, images: ImageFiles | None, counts: Counter[str]
) -> None:
    names = FileNames(selection)
    fields = attribute_fields(selection.attribute_sets, (*_OWN_FIELDS, *DETECTION_FIELDS))
    _write_labelmap(folder, selection)
    (folder / "Annotations").mkdir()
    with ExitStack() as stack:
        lists = _open_lists(folder / "ImageSets" / "Main", selection, stack)
        for image in selection.labelled_images(counts):
            stem, file = names.stem(image.record), names.image(image.record)
            lists[image.part].write(f"{stem}\n")
            path = folder / "Annotations" / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            element = _annotation(selection, image, file, fields)
            path.write_text(pretty(element), encoding="utf-8")
            if images is not None:
                place_image(selection.path(image.record), folder / "JPEGImages" / file, images)


def _open_lists(folder: Path, selection: Selection, stack: ExitStack) -> dict[str | None, TextIO]:
    folder.mkdir(parents=True)
    parts = selection.split.names if selection.split is not None else (None,)
    return {
        part: stack.enter_context(
            (folder / f"{part or ALL_IMAGES}.txt").open("w", encoding="utf-8")
        )
        for part in parts
    }


def _write_labelmap(folder: Path, selection: Selection) -> None:
    """The names for CVAT and Datumaro, in a form that has no way to write a colon in them."""
    names = [category.name for category in selection.categories]
    if not any(":" in name or name.startswith("#") or not name.isprintable() for name in names):
        lines = ["# label:color_rgb:parts:actions", *(f"{name}:::" for name in names)]
        text = "".join(f"{line}\n" for line in lines)
        (folder / "labelmap.txt").write_text(text, encoding="utf-8")


def _annotation(
    selection: Selection, image: SelectedImage, file: str, fields: Fields
) -> ElementTree.Element:
    record = image.record
    root = ElementTree.Element("annotation")
    add_element(root, "folder", "JPEGImages")
    add_element(root, "filename", file)
    add_element(root, "image_id", record.image_id)
    source = add_element(root, "source")
    add_element(source, "database", f"run {selection.view.fingerprint}")
    add_element(source, "annotation", f"vildcli {__version__}")
    add_element(source, "image", selection.name(record))
    size = add_element(root, "size")
    for tag, pixels in (("width", record.width), ("height", record.height), ("depth", 3)):
        add_element(size, tag, pixels)
    add_element(root, "segmented", 0)
    for label in image.labels:
        root.append(_object(selection, record, label, fields))
    return root


def _object(
    selection: Selection, image: ImageRecord, label: LabelRecord, fields: Fields
) -> ElementTree.Element:
    element = ElementTree.Element("object")
    add_element(element, "name", selection.view.categories[label.category_id].name)
    add_element(element, "pose", "Unspecified")
    add_element(element, "truncated", 0)
    add_element(element, "difficult", 0)
    box = add_element(element, "bndbox")
    x1, y1, x2, y2 = cut_box(label, image)
    (xmin, xmax), (ymin, ymax) = _pixels(x1, x2), _pixels(y1, y2)
    for tag, place in (("xmin", xmin), ("ymin", ymin), ("xmax", xmax), ("ymax", ymax)):
        add_element(box, tag, place)
    attributes = add_element(element, "attributes")
    for name, value in _attributes(selection, label, fields):
        attribute = add_element(attributes, "attribute")
        add_element(attribute, "name", name)
        add_element(attribute, "value", value)
    return element


def _pixels(low: float, high: float) -> tuple[int, int]:
    """The first and last pixel of a side, counted from 1; at least one."""
    first, end = round(low), round(high)
    if first >= end:
        first = min(math.floor(low), math.ceil(high) - 1)
        end = first + 1
    return first + 1, end


def _attributes(
    selection: Selection, label: LabelRecord, fields: Fields
) -> Iterator[tuple[str, object]]:
    yield from selection.scores(label).items()
    yield "category_id", label.category_id
    yield "vildcli_label", label.label
    yield from attribute_values(selection, label, fields)
