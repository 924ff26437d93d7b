"""A labelling run as a FiftyOne dataset.

The dataset is the reviewer's: a second review adds what is new and leaves alone what is there. Each
sample carries `vildcli_image`, the image's id in the run, and each detection `vildcli_label`, its
number in the image; on these, corrections are matched when they are brought back.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vildcli.errors import DataError, VildError
from vildcli.labelling.image_files import image_file, image_is_there
from vildcli.labelling.masks import mask_over_box
from vildcli.labelling.plan import image_path
from vildcli.labelling.records import OK, LabelledImage, LabelRecord
from vildcli.labelling.thresholds import RunView

FIELD = "predictions"
FAILED_TAG = "failed"
LOW_CONFIDENCE = 0.5
_OWN_FIELDS = (
    "vildcli_label",
    "category_id",
    "is_base",
    "text_score",
    "image_score",
    "objectness",
)
_BATCH = 64  # samples sent to the database at a time


@dataclass(frozen=True, slots=True)
class ReviewSummary:
    """What a review's dataset holds; `added` samples are new, `extended` ones got more labels."""

    dataset: str
    samples: int
    added: int
    extended: int
    failed: int
    labels: int


def dataset_name(view: RunView) -> str:
    return f"{view.run.absolute().name}-{view.fingerprint[:8]}"


def write_dataset(
    view: RunView,
    *,
    name: str | None = None,
    images_root: Path | None = None,
    max_samples: int | None = None,
) -> ReviewSummary:
    """Make or update the persistent FiftyOne dataset of a run, after `mongo.ensure_database`.

    Labels that are shown and never were in the dataset are added; what a person changed or deleted
    stays so. An image that is another file now is replaced.

    Args:
        view: the run and the thresholds to see it at.
        name: of the dataset; default `dataset_name`.
        images_root: folder that the images have moved to.
        max_samples: only the first so many images of the run.

    Raises:
        VildError: the dataset of that name belongs to something else.
        DataError: an image is not where it was.
    """
    dataset = _open_dataset(view, name or dataset_name(view))
    known = _known_samples(dataset)
    added = extended = 0
    for batch in _batches(itertools.islice(view.labelled_images(), max_samples)):
        new = []
        for image in batch:
            filepath = _filepath(view, image, images_root)
            there = known.get(image.image.image_id)
            if there is not None and there.sha256 == image.image.sha256:
                extended += _update(dataset, view, image, there, filepath)
                continue
            if there is not None:
                dataset.delete_samples(there.sample_id)
            new.append(_sample(view, image, filepath))
        dataset.add_samples(new, dynamic=True)
        added += len(new)
    _save_views(dataset)
    return ReviewSummary(
        dataset=dataset.name,
        samples=len(dataset),
        added=added,
        extended=extended,
        failed=len(dataset.match_tags(FAILED_TAG)),
        labels=dataset.count(f"{FIELD}.detections"),
    )


def _batches(images: Iterable[LabelledImage]) -> Iterator[list[LabelledImage]]:
    images = iter(images)
    while batch := list(itertools.islice(images, _BATCH)):
        yield batch


def _open_dataset(view: RunView, name: str) -> Any:
    import fiftyone as fo

    if not fo.dataset_exists(name):
        dataset = fo.Dataset(name, persistent=True)
        dataset.info = {"vildcli_run": view.fingerprint}
        dataset.app_config.color_scheme = fo.ColorScheme(color_by="value")  # a colour a category
        dataset.add_sample_field(FIELD, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        dataset.add_sample_field("vildcli_image", fo.IntField)
        dataset.add_sample_field("vildcli_labels", fo.ListField, subfield=fo.IntField)
        for text in ("sha256", "source", "path", "reason"):
            dataset.add_sample_field(text, fo.StringField)
        dataset.create_index("vildcli_image", unique=True)
        return dataset
    dataset = fo.load_dataset(name)
    if dataset.info.get("vildcli_run") != view.fingerprint:
        raise VildError(
            f"The FiftyOne dataset '{name}' is not of this run.",
            hint="Choose another --name, or delete that dataset in FiftyOne.",
        )
    return dataset


@dataclass(frozen=True, slots=True)
class _Known:
    """What the dataset has of an image: its sample, and every label that was ever put there."""

    sample_id: str
    filepath: str
    sha256: str
    labels: frozenset[int]


def _known_samples(dataset: Any) -> dict[int, _Known]:
    fields = ["vildcli_image", "id", "filepath", "sha256", "vildcli_labels"]
    return {
        image_id: _Known(sample_id, filepath, sha256, frozenset(labels or ()))
        for image_id, sample_id, filepath, sha256, labels in zip(
            *dataset.values(fields), strict=True
        )
        if image_id is not None
    }


def _sample(view: RunView, image: LabelledImage, filepath: str) -> Any:
    import fiftyone as fo

    record = image.image
    shown = view.shown(image)
    sample = fo.Sample(
        filepath=filepath,
        vildcli_image=record.image_id,
        vildcli_labels=[label.label for label in shown],
        sha256=record.sha256,
        source=record.source,
        path=record.path,
    )
    if record.status == OK:
        sample.metadata = fo.ImageMetadata(width=record.width, height=record.height)
        sample[FIELD] = fo.Detections(detections=[_detection(view, image, la) for la in shown])
    else:
        sample["reason"] = record.reason
        sample.tags.append(FAILED_TAG)
    return sample


def _filepath(view: RunView, image: LabelledImage, images_root: Path | None) -> str:
    path = image_path(view.run, image.image, images_root).absolute()
    if image.image.status != OK:
        return str(path)
    if not image_is_there(path):
        raise DataError(
            f"{path} is not there.", hint="Name the folder that the images moved to as --images."
        )
    return str(image_file(view.run, image.image, path).absolute())


def _update(
    dataset: Any, view: RunView, image: LabelledImage, known: _Known, filepath: str
) -> bool:
    """Add the labels that are shown now and never were before, and leave all others as they are."""
    import fiftyone as fo

    new = [label for label in view.shown(image) if label.label not in known.labels]
    if not new and filepath == known.filepath:
        return False
    sample = dataset[known.sample_id]
    sample.filepath = filepath
    detections = sample[FIELD] or fo.Detections()
    detections.detections.extend(_detection(view, image, label) for label in new)
    sample[FIELD] = detections
    sample.vildcli_labels = sorted(known.labels.union(label.label for label in new))
    sample.save()
    return bool(new)


def _detection(view: RunView, image: LabelledImage, label: LabelRecord) -> Any:
    import fiftyone as fo

    width, height = image.image.width, image.image.height
    x1, x2 = (min(max(x, 0), width) for x in label.box[::2])
    y1, y2 = (min(max(y, 0), height) for y in label.box[1::2])
    fields = _attribute_fields(tuple(a.set for a in label.attributes))
    attributes: dict[str, Any] = {}
    for a in label.attributes:
        names = fields[a.set]
        attributes |= dict(zip(names, (a.name, a.score, a.joint), strict=True))
    return fo.Detection(
        label=view.categories[label.category_id].name,
        bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
        mask=mask_over_box(label.mask, label.box, (x1, y1, x2, y2)),
        confidence=label.score,
        vildcli_label=label.label,
        category_id=label.category_id,
        is_base=label.is_base,
        text_score=label.text_score,
        image_score=label.image_score,
        objectness=label.objectness,
        **attributes,
    )


@lru_cache
def _attribute_fields(sets: tuple[str, ...]) -> dict[str, tuple[str, str, str]]:
    """The fields of each attribute set: `colour`, `colour_score`, `colour_joint`.

    A set that is called as a field which is there already, or not as a field can be, is
    `attribute_…`.
    """
    import fiftyone as fo

    fields: dict[str, tuple[str, str, str]] = {}
    taken = set(_OWN_FIELDS)
    for name in sets:
        key = re.sub(r"\W", "_", name)
        own = (key, f"{key}_score", f"{key}_joint")
        while not key[0].isalpha() or any(f in taken or hasattr(fo.Detection, f) for f in own):
            key = f"attribute_{key}"
            own = (key, f"{key}_score", f"{key}_joint")
        fields[name] = own
        taken.update(own)
    return fields


def _save_views(dataset: Any) -> None:
    from fiftyone import ViewField

    views = {
        "low-confidence": dataset.filter_labels(FIELD, ViewField("confidence") < LOW_CONFIDENCE),
        "novel-categories": dataset.filter_labels(FIELD, ~ViewField("is_base")),
        "failures": dataset.match_tags(FAILED_TAG),
    }
    for name, view in views.items():
        if not dataset.has_saved_view(name):
            dataset.save_view(name, view)
