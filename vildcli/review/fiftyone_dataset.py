"""A labelling run as a FiftyOne dataset.

The dataset is the reviewer's: a second review adds what is new and leaves alone what is there. Each
sample carries `vildcli_image`, the image's id in the run, and each detection `vildcli_label`, its
number in the image; on these, corrections are matched when they are brought back.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.errors import DataError, VildError
from vildcli.export.attributes import Fields
from vildcli.labelling.image_files import image_file, image_is_there
from vildcli.labelling.plan import image_path
from vildcli.labelling.records import OK, LabelledImage
from vildcli.labelling.thresholds import RunView
from vildcli.review.drawing import category_colour
from vildcli.review.fiftyone_labels import (
    DETECTIONS,
    FIELD,
    add_detection_fields,
    detection,
    fields_of,
)
from vildcli.review.fiftyone_views import (
    FAILED_TAG,
    index_similarity,
    mark_duplicates,
    mark_selection,
    save_views,
)

_RUN_KEY, _IMAGES_KEY = "vildcli_run", "vildcli_images"  # of the dataset's info
_BATCH = 64  # samples sent to the database at a time


@dataclass(frozen=True, slots=True)
class ReviewSummary:
    """What a review's dataset holds.

    Attributes:
        added: samples that are new.
        replaced: those of `added` whose file had become another picture.
        extended: samples that got more labels.
        similarity: what the App can search by likeness: `images`, `regions`.
    """

    dataset: str
    samples: int
    added: int
    replaced: int
    extended: int
    failed: int
    labels: int
    similarity: tuple[str, ...]


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

    Labels that are shown and never were in the dataset are added; what a person changed or deleted,
    whole samples too, stays so. An image that is another file now is replaced.

    Args:
        view: the run and the thresholds to see it at.
        name: of the dataset; default `dataset_name`.
        images_root: folder that the images have moved to.
        max_samples: only the first so many images of the run.

    Raises:
        VildError: the dataset of that name belongs to something else, or is deleted meanwhile; the
            database stops answering.
        DataError: an image is not where it was.
    """
    with database_errors():
        dataset = _open_or_make(view, name or dataset_name(view))
        spans = [list(span) for span in dataset.info.get(_IMAGES_KEY, [])]
        writer = _Writer(dataset, view, fields_of(view), images_root, spans)
        try:
            for batch in batches(itertools.islice(view.labelled_images(), max_samples)):
                writer.write(batch)
        finally:
            writer.remember()
        mark_duplicates(dataset, view.run)
        mark_selection(dataset, view.run)
        save_views(dataset)
        similarity = index_similarity(dataset, view, anew=bool(writer.added or writer.extended))
        return ReviewSummary(
            dataset=dataset.name,
            samples=len(dataset),
            added=writer.added,
            replaced=writer.replaced,
            extended=writer.extended,
            failed=len(dataset.match_tags(FAILED_TAG)),
            labels=dataset.count(DETECTIONS),
            similarity=similarity,
        )


@contextmanager
def database_errors() -> Iterator[None]:
    """Say it where the database goes away during the work.

    Raises:
        VildError: it did.
    """
    from pymongo.errors import PyMongoError

    try:
        yield
    except PyMongoError as error:
        raise VildError(
            "MongoDB stopped answering.",
            hint="What was written is kept; start it again, and repeat the command.",
        ) from error


def batches(images: Iterable[LabelledImage]) -> Iterator[list[LabelledImage]]:
    """The images of a run, a few at a time."""
    images = iter(images)
    while batch := list(itertools.islice(images, _BATCH)):
        yield batch


def open_dataset(view: RunView, name: str) -> Any:
    """The dataset that a review of the run made.

    Raises:
        VildError: there is none of that name, or it belongs to something else.
    """
    import fiftyone as fo

    if not fo.dataset_exists(name):
        raise VildError(
            f"There is no FiftyOne dataset '{name}'.",
            hint=f"It was deleted, or {view.run} was not reviewed yet: review it first.",
        )
    dataset = fo.load_dataset(name)
    if dataset.info.get(_RUN_KEY) != view.fingerprint:
        raise VildError(
            f"The FiftyOne dataset '{name}' is not of this run.",
            hint="Choose another --name, or delete that dataset in FiftyOne.",
        )
    return dataset


def _open_or_make(view: RunView, name: str) -> Any:
    import fiftyone as fo

    if fo.dataset_exists(name):
        dataset = open_dataset(view, name)
    else:
        dataset = fo.Dataset(name)
        dataset.info = {_RUN_KEY: view.fingerprint, _IMAGES_KEY: []}
        dataset.save()
    if not dataset.persistent:  # new, or left half made by a review that was killed
        _prepare(dataset, view)
        dataset.persistent = True
    return dataset


def _prepare(dataset: Any, view: RunView) -> None:
    """Declare what samples hold, and how the App shows them."""
    import fiftyone as fo

    colours = {
        "path": FIELD,
        "colorByAttribute": "label",
        "valueColors": [
            {"value": c.name, "color": "#{:02x}{:02x}{:02x}".format(*category_colour(c.id))}
            for c in view.vocabulary.categories
        ],
    }
    # Each category the colour that it has on contact sheets; the App's own change from day to day.
    dataset.app_config.color_scheme = fo.ColorScheme(color_by="value", fields=[colours])
    dataset.default_classes = [category.name for category in view.vocabulary.categories]
    for number in ("vildcli_image", "duplicate_group", "selection_rank"):
        dataset.add_sample_field(number, fo.IntField)
    dataset.add_sample_field("vildcli_labels", fo.ListField, subfield=fo.IntField)
    for text in ("sha256", "source", "path", "reason"):
        dataset.add_sample_field(text, fo.StringField)
    fields = fields_of(view)
    add_detection_fields(dataset, fields)
    dataset.create_index("vildcli_image", unique=True)
    _offer_names(dataset, view, fields)
    groups = fo.DatasetAppConfig.default_sidebar_groups(dataset)
    for group in groups:
        group.expanded = group.name in ("tags", "labels")  # the rest is bookkeeping
    dataset.app_config.sidebar_groups = groups
    dataset.save()


def _offer_names(dataset: Any, view: RunView, fields: Fields) -> None:
    """Let the App's annotation offer the vocabulary's names, and those alone."""
    if not hasattr(dataset, "set_label_schemas"):  # of a FiftyOne without annotation in the App
        return
    attributes = [
        {"name": fields[kind][0], "type": "str", "component": "dropdown", "values": list(values)}
        for kind, values in view.vocabulary.attributes.items()
    ]
    schema = {
        "type": "detections",
        "component": "dropdown",
        "classes": [category.name for category in view.vocabulary.categories],
        "attributes": attributes,
    }
    dataset.set_label_schemas({FIELD: schema})
    dataset.active_label_schemas = [FIELD]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the dataset has of an image: its sample, and every label that was ever put there."""

    sample_id: str
    filepath: str
    sha256: str
    labels: frozenset[int]


@dataclass(slots=True)
class _Writer:
    """Brings batches of images into a dataset, and counts.

    Attributes:
        spans: first and last id of each stretch of images that were ever put there, ascending.
    """

    dataset: Any
    view: RunView
    fields: Fields
    images_root: Path | None
    spans: list[list[int]]
    added: int = 0
    replaced: int = 0
    extended: int = 0

    def write(self, batch: Sequence[LabelledImage]) -> None:
        import fiftyone as fo

        if not fo.dataset_exists(self.dataset.name):
            raise VildError(
                f"The FiftyOne dataset '{self.dataset.name}' was deleted while it was written.",
                hint="Review again to make it anew.",
            )
        known = _known_samples(self.dataset, [image.image.image_id for image in batch])
        new = []
        for image in batch:
            image_id = image.image.image_id
            there = known.get(image_id)
            if there is None and _within(self.spans, image_id):
                continue  # a person deleted the sample
            filepath = _filepath(self.view, image, self.images_root)
            if there is not None and there.sha256 == image.image.sha256:
                self.extended += self._extend(image, there, filepath)
                continue
            if there is not None:
                self.dataset.delete_samples(there.sample_id)
                self.replaced += 1
            new.append(self._sample(image, filepath))
        if new:
            self.dataset.add_samples(new, expand_schema=False, validate=False)
        self.added += len(new)
        _join(self.spans, [sample.vildcli_image for sample in new])

    def remember(self) -> None:
        """Write down which images were put there, so that a deleted sample does not return."""
        import fiftyone as fo

        if fo.dataset_exists(self.dataset.name):
            self.dataset.info[_IMAGES_KEY] = self.spans
            self.dataset.save()

    def _sample(self, image: LabelledImage, filepath: str) -> Any:
        import fiftyone as fo

        record = image.image
        shown = self.view.shown(image)
        sample = fo.Sample(
            filepath=filepath,
            vildcli_image=record.image_id,
            vildcli_labels=[label.label for label in shown],
            sha256=record.sha256,
            source=record.source,
            path=record.path,
        )
        if record.status == OK:
            sample.metadata = fo.ImageMetadata(
                size_bytes=record.bytes, width=record.width, height=record.height
            )
            found = [detection(self.view, self.fields, record, label) for label in shown]
            sample[FIELD] = fo.Detections(detections=found)
        else:
            sample["reason"] = record.reason
            sample.tags.append(FAILED_TAG)
        return sample

    def _extend(self, image: LabelledImage, known: _Known, filepath: str) -> bool:
        """Add the labels that are shown now and never were before; leave others as they are."""
        import fiftyone as fo

        new = [label for label in self.view.shown(image) if label.label not in known.labels]
        if not new and filepath == known.filepath:
            return False
        sample = self.dataset[known.sample_id]
        sample.filepath = filepath
        if new:
            detections = sample[FIELD] or fo.Detections()
            detections.detections.extend(
                detection(self.view, self.fields, image.image, label) for label in new
            )
            sample[FIELD] = detections
            sample.vildcli_labels = sorted(known.labels.union(label.label for label in new))
        sample.save()
        return bool(new)


def _known_samples(dataset: Any, image_ids: Collection[int]) -> dict[int, _Known]:
    fields = ["vildcli_image", "id", "filepath", "sha256", "vildcli_labels"]
    # A condition in MongoDB's own words: only those are looked up in an index.
    there = dataset.match({"vildcli_image": {"$in": list(image_ids)}})
    return {
        image_id: _Known(sample_id, filepath, sha256, frozenset(labels or ()))
        for image_id, sample_id, filepath, sha256, labels in zip(*there.values(fields), strict=True)
    }


def _within(spans: Sequence[Sequence[int]], image_id: int) -> bool:
    place = bisect_right(spans, image_id, key=lambda span: span[0]) - 1
    return place >= 0 and image_id <= spans[place][1]


def _join(spans: list[list[int]], image_ids: Iterable[int]) -> None:
    """Add ids to the stretches that are there, in place."""
    single = [[id_, id_] for id_ in image_ids]
    joined: list[list[int]] = []
    for first, last in sorted([*spans, *single]):
        if joined and first <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    spans[:] = joined


def _filepath(view: RunView, image: LabelledImage, images_root: Path | None) -> str:
    path = image_path(view.run, image.image, images_root).absolute()
    if image.image.status != OK:
        return str(path)
    if not image_is_there(path):
        raise DataError(
            f"{path} is not there.", hint="Name the folder that the images moved to as --images."
        )
    return str(image_file(view.run, image.image, path).absolute())
