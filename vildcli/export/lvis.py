"""A labelling run as LVIS JSON, written as a stream: COCO's, plus what is known to be missing.

LVIS is federated: an image says of a few categories that they are not in it, of others that not all
of their objects are annotated, and of all the rest nothing. Here the machine says so, not a person:
it looked for the whole vocabulary in every image.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vildcli.export.coco import coco_annotations, coco_image, coco_info, json_text, write_list
from vildcli.export.geometry import Geometry
from vildcli.export.selection import SelectedImage, Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.writing import write_file
from vildcli.runs import read_run
from vildcli.vocabulary.category import Category

MOST_NEGATIVES = 100  # an image; LVIS has some ten, and a vocabulary may have 20,000 names
_MOST_IMAGES = {"r": 10, "c": 100}  # of a rare and of a common category


def export_lvis(
    selection: Selection, out: Path, *, geometry: Geometry = "polygon"
) -> ExportSummary:
    """Write one LVIS file, or one for each part of a split, replacing what is there.

    `neg_category_ids` are categories with no stored label in the image, at most `MOST_NEGATIVES`
    drawn by image id, and none where the run's limit an image was reached, or in a merged run.
    `not_exhaustive_category_ids` are those of which some stored labels are not written.
    A category without `frequency` in the vocabulary gets the one that its images here amount to.

    Raises:
        RunError: `out` cannot be written.
        DataError: a record is damaged, or an image is not under `images_root`.
    """
    counts: Counter[str] = Counter()
    for path, part in selection.files(out):
        write_file(path, partial(_write, selection=part, geometry=geometry, counts=counts))
    return selection.summary(out, counts)


def _write(path: Path, selection: Selection, geometry: Geometry, counts: Counter[str]) -> None:
    occurrences = Occurrences()
    annotations = coco_annotations(selection, geometry, counts)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"info": ' + json_text(coco_info(selection)) + ',\n"licenses": []')
        write_list(file, "images", _images(selection))
        write_list(file, "annotations", occurrences.counted(annotations))
        # Last, as they say how often each of them was written.
        write_list(file, "categories", map(occurrences.category, selection.categories))
        file.write("}\n")


def _images(selection: Selection) -> Iterator[dict[str, Any]]:
    settings = read_run(selection.view.run, "labelling")["settings"]
    most = settings.get("max_det")
    is_merged = "merged" in settings  # not every name was looked for in every image
    for image in selection.labelled_images():
        full = is_merged or (most is not None and len(image.stored) >= most)
        yield {
            **coco_image(image.record, image.name),
            "neg_category_ids": [] if full else _negatives(selection, image),
            "not_exhaustive_category_ids": _partly_written(image),
        }


def _negatives(selection: Selection, image: SelectedImage) -> list[int]:
    found = {label.category_id for label in image.stored}
    absent = [category.id for category in selection.categories if category.id not in found]
    if len(absent) > MOST_NEGATIVES:
        absent = random.Random(image.record.image_id).sample(absent, MOST_NEGATIVES)
    return sorted(absent)


def _partly_written(image: SelectedImage) -> list[int]:
    written = Counter(label.category_id for label in image.labels)
    stored = Counter(label.category_id for label in image.stored)
    return sorted(id_ for id_, number in written.items() if number < stored[id_])


@dataclass(slots=True)
class Occurrences:
    """How often each category was written, for the last list of the file."""

    objects: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    last_image: dict[int, int] = field(default_factory=dict)

    def counted(self, annotations: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for annotation in annotations:
            category, image = annotation["category_id"], annotation["image_id"]
            self.objects[category] += 1
            self.images[category] += self.last_image.get(category) != image
            self.last_image[category] = image
            yield annotation

    def category(self, category: Category) -> dict[str, Any]:
        """LVIS's object of a category, after everything was counted."""
        images = self.images[category.id]
        return {
            "id": category.id,
            "name": category.name,
            "synset": category.synset or "",
            "synonyms": [category.name, *category.synonyms],
            "def": category.definition or "",
            "frequency": category.frequency or _frequency(images),
            "image_count": images,
            "instance_count": self.objects[category.id],
        }


def _frequency(images: int) -> str:
    """LVIS's own rule."""
    return next((name for name, most in _MOST_IMAGES.items() if images <= most), "f")
