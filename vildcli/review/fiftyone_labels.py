"""A label of the records as a FiftyOne detection, and a detection as a reviewed label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vildcli.errors import DataError
from vildcli.export.attributes import DETECTION_FIELDS, Fields, attribute_fields
from vildcli.labelling.masks import mask_over_box
from vildcli.labelling.records import AttributeScore, ImageRecord, LabelledImage, LabelRecord
from vildcli.labelling.thresholds import VOCABULARY_FILE, RunView
from vildcli.review.corrections import MASK_SIDE, Box, ReviewedImage, ReviewedLabel, cut_record

FIELD = "predictions"
DETECTIONS = f"{FIELD}.detections"


def fields_of(view: RunView) -> Fields:
    """The fields of each attribute set, as an export to FiftyOne calls them."""
    return attribute_fields(view.vocabulary.attributes, DETECTION_FIELDS, identifiers=True)


def add_detection_fields(dataset: Any, fields: Fields) -> None:
    """Declare what detections hold, so that samples need not be searched for it."""
    import fiftyone as fo

    dataset.add_sample_field(FIELD, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    kinds = {
        fo.IntField: ["vildcli_label", "category_id"],
        fo.BooleanField: ["is_base"],
        fo.FloatField: ["text_score", "image_score", "objectness"],
        fo.StringField: [value for value, _, _ in fields.values()],
    }
    kinds[fo.FloatField] += [score for _, *scores in fields.values() for score in scores]
    for kind, names in kinds.items():
        for name in names:
            dataset.add_sample_field(f"{DETECTIONS}.{name}", kind)


def detection(view: RunView, fields: Fields, image: ImageRecord, label: LabelRecord) -> Any:
    """One `fiftyone.Detection`: its box relative to the image and cut at the borders, its mask."""
    import fiftyone as fo

    width, height = image.width, image.height
    box = cut_record(label, (width, height))
    x1, y1, x2, y2 = box
    attributes: dict[str, Any] = {}
    for a in label.attributes:
        names = _fields_of_set(view, fields, a)
        attributes |= dict(zip(names, (a.name, a.score, a.joint), strict=True))
    return fo.Detection(
        label=view.categories[label.category_id].name,
        bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
        mask=mask_over_box(label.mask, label.mask_box, box, MASK_SIDE),
        confidence=label.score,
        vildcli_label=label.label,
        category_id=label.category_id,
        is_base=label.is_base,
        text_score=label.text_score,
        image_score=label.image_score,
        objectness=label.objectness,
        **attributes,
    )


def _fields_of_set(view: RunView, fields: Fields, a: AttributeScore) -> tuple[str, str, str]:
    try:
        return fields[a.set]
    except KeyError:
        raise DataError(
            f"{view.run / VOCABULARY_FILE} lacks the attributes '{a.set}' of labels.",
            hint="Thresholds may be edited there; attributes may not.",
        ) from None


def reviewed_images(
    dataset: Any, fields: Fields, images: Sequence[LabelledImage]
) -> dict[int, ReviewedImage]:
    """What the dataset has of those images now, by image id; nothing of samples that are gone."""
    by_id = {image.image.image_id: image.image for image in images}
    per_label = ["vildcli_label", "label", "bounding_box", "mask", "tags"]
    per_label += [value for value, _, _ in fields.values()]
    columns = ["vildcli_image", "id", "tags", "vildcli_labels"]
    columns += [f"{DETECTIONS}.{name}" for name in per_label]
    # A condition in MongoDB's own words: only those are looked up in an index.
    there = dataset.match({"vildcli_image": {"$in": list(by_id)}})
    found = {}
    for image_id, sample, tags, given, *labels in zip(*there.values(columns), strict=True):
        size = by_id[image_id].width, by_id[image_id].height
        found[image_id] = ReviewedImage(
            sample=sample,
            tags=frozenset(tags or ()),
            given=frozenset(given or ()),
            labels=tuple(_reviewed(row, size, tuple(fields)) for row in _rows(labels)),
        )
    return found


def _rows(columns: Sequence[Sequence[Any] | None]) -> Iterator[tuple[Any, ...]]:
    """One tuple a label; none where the sample has no detections."""
    return zip(*(column or () for column in columns), strict=True)


def _reviewed(row: tuple[Any, ...], size: tuple[int, int], sets: tuple[str, ...]) -> ReviewedLabel:
    number, name, box, mask, tags, *values = row
    attributes: Mapping[str, str] = {
        kind: value for kind, value in zip(sets, values, strict=True) if value is not None
    }
    return ReviewedLabel(
        number=number,
        name=name or "",
        box=_in_pixels(box, size),
        mask=None if mask is None else np.asarray(mask, bool),
        tags=frozenset(tags or ()),
        attributes=attributes,
    )


def _in_pixels(box: Sequence[float], size: tuple[int, int]) -> Box:
    x, y, across, down = box
    width, height = size
    return x * width, y * height, (x + across) * width, (y + down) * height
