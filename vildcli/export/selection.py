"""What of a labelling run is exported: which images and labels, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vildcli.errors import DataError
from vildcli.export.geometry import short
from vildcli.export.split import Split
from vildcli.export.summary import ExportSummary
from vildcli.labelling.image_files import image_file, image_is_there
from vildcli.labelling.plan import image_path, source_roots
from vildcli.labelling.records import OK, AttributeScore, ImageRecord, LabelledImage, LabelRecord
from vildcli.labelling.thresholds import VOCABULARY_FILE, RunView
from vildcli.vocabulary.category import Category


@dataclass(frozen=True, slots=True)
class SelectedImage:
    """One image to write.

    Attributes:
        name: POSIX; of no other image of the export, whatever the number of sources.
        part: of the split; None without one.
        labels: to write, best first.
        stored: all that the run has of it.
    """

    record: ImageRecord
    name: str
    part: str | None
    labels: tuple[LabelRecord, ...]
    stored: tuple[LabelRecord, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """A run as it is exported: read unit by unit, as often as a format needs.

    Attributes:
        view: the run, and the thresholds and attributes to see it at.
        images_root: folder that names are relative to and where the files must be.
        max_per_image: at most so many labels an image, best first.
        split: parts that the images are distributed over.
        part: only the images of this part.
    """

    view: RunView
    images_root: Path | None = None
    max_per_image: int | None = None
    split: Split | None = None
    part: str | None = None

    @property
    def categories(self) -> tuple[Category, ...]:
        """Of the vocabulary, in its order, whether they have labels or not."""
        return self.view.vocabulary.categories

    @property
    def attribute_sets(self) -> tuple[str, ...]:
        return tuple(self.view.vocabulary.attributes)

    def images(self) -> Iterator[ImageRecord]:
        """The images to write: all that could be read, with or without labels."""
        return filter(self._holds, self.view.images())

    def labelled_images(self, counts: Counter[str] | None = None) -> Iterator[SelectedImage]:
        """The images to write with their labels, in the order of the run.

        Args:
            counts: where given, `labels` written and `stored` ones are added up in it.

        Raises:
            DataError: a record is damaged, or an image is not under `images_root`.
        """
        for image in self.view.labelled_images():
            if self._holds(image.image):
                yield self._select(image, Counter() if counts is None else counts)

    def _select(self, image: LabelledImage, counts: Counter[str]) -> SelectedImage:
        labels = self.view.shown(image)[: self.max_per_image]
        counts["labels"] += len(labels)
        counts["stored"] += len(image.labels)
        record = image.image
        return SelectedImage(
            record, self.name(record), self.part_of(record), labels, stored=image.labels
        )

    def _holds(self, image: ImageRecord) -> bool:
        readable = image.status == OK and image.width > 0 and image.height > 0
        return readable and (self.part is None or self.part == self.part_of(image))

    def scores(self, label: LabelRecord) -> dict[str, float]:
        """`score`, in 0-1, and where that is a joint one the `category_score` that it holds."""
        score = {"score": short(self.view.rank(label))}
        return {**score, "category_score": short(label.score)} if self.view.joint else score

    def attributes(self, label: LabelRecord) -> tuple[AttributeScore, ...]:
        """The best value of each attribute set, for formats that declare the sets.

        Raises:
            DataError: a set is not in the run's vocabulary.
        """
        for a in label.attributes:
            if a.set not in self.view.vocabulary.attributes:
                raise DataError(
                    f"{self.view.run / VOCABULARY_FILE} lacks the attributes '{a.set}' of labels.",
                    hint="Thresholds may be edited there; attributes may not.",
                )
        return label.attributes

    def part_of(self, image: ImageRecord) -> str | None:
        return self.split.part_of(image) if self.split is not None else None

    def name(self, image: ImageRecord) -> str:
        """The path of an image relative to its source, or to `images_root`.

        Where a run has several sources, which may hold the same relative path, their names
        come first.

        Raises:
            DataError: the image is not under `images_root`.
        """
        if self.images_root is not None:
            return self._place(image).relative_to(self.images_root).as_posix()
        several = len(source_roots(self.view.run)) > 1
        return f"{image.source}/{image.path}" if several else image.path

    def path(self, image: ImageRecord) -> Path:
        """The file of an image; of what lies in an archive or a video, a copy in the run.

        Raises:
            DataError: it is not there.
        """
        return image_file(self.view.run, image, self._place(image))

    def _place(self, image: ImageRecord) -> Path:
        path = image_path(self.view.run, image, self.images_root)
        if image_is_there(path):
            return path
        missing = f"{path} is not there."
        if self.images_root is not None:
            missing = f"{self.images_root} has no {image.path}."
        raise DataError(
            missing, hint="Name the folder that the run's images were moved to as --images."
        )

    def files(self, out: Path) -> list[tuple[Path, Selection]]:
        """The one file of a format, or `NAME-PART.json` for each part of the split."""
        if self.split is None:
            return [(out, self)]
        return [
            (out.with_name(f"{out.stem}-{part}{out.suffix}"), replace(self, part=part))
            for part in self.split.names
        ]

    def summary(self, out: Path, counts: Counter[str]) -> ExportSummary:
        """What was written, after `labelled_images` has counted the labels."""
        images = Counter(map(self._holds, self.view.images()))
        return ExportSummary(
            out=out,
            images=images[True],
            failed=images[False],
            labels=counts["labels"],
            hidden=counts["stored"] - counts["labels"],
            units_done=len(self.view.units),
            units_total=self.view.units_total,
        )
