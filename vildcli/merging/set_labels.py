"""Labels of one input, image by image, as COCO objects in the ids of the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vildcli.errors import DataError
from vildcli.export.coco import coco_annotation
from vildcli.export.geometry import short
from vildcli.labelling.plan import read_plan
from vildcli.labelling.records import LabelledImage, iter_labelled_images
from vildcli.merging.inputs import RunInput, SetInput
from vildcli.merging.summary import Counts

PERSON, MACHINE = "person", "machine"
HIDDEN = "below the threshold"
_WAITING = 4  # units of a run that are kept in memory


@dataclass(frozen=True, slots=True)
class Label:
    """One annotation of some input.

    Attributes:
        owner: place of the input.
        row: its COCO object in the result's category ids, yet without ids of its own.
        box: x1 y1 x2 y2, pixels.
    """

    owner: int
    row: Mapping[str, Any]
    box: tuple[float, float, float, float]

    @property
    def is_of_person(self) -> bool:
        return bool(self.row["by"] == PERSON)

    @property
    def category_id(self) -> int:
        return int(self.row["category_id"])


class SetLabels:
    """The annotations of a set.

    Who made one is what it says itself (`by`); else one with a score is a machine's.
    """

    def __init__(
        self, place: int, source: SetInput, ids: Mapping[int, int], counts: Counts
    ) -> None:
        """Args:
        ids: the result's id for each category of the set.
        """
        self._place, self._source, self._ids, self._counts = place, source, ids, counts
        self._images = {image.id: image for image in source.annotations.images}
        self._rows: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for row in source.content["annotations"]:
            self._rows[row["image_id"]].append(row)
        self._reviewed = source.reviewed()

    def of(self, image_id: int) -> list[Label]:
        rows = self._rows.get(image_id, [])
        self._counts.given[self._source.name] += len(rows)
        return [self._label(row) for row in rows]

    def absent(self, image_id: int) -> set[int]:
        """The result's ids of categories that are said not to be in an image; LVIS alone has any.

        Raises:
            DataError: such a category is not defined.
        """
        return self._known(self._images[image_id].negative_ids)

    def partly(self, image_id: int) -> set[int]:
        """Those of which some objects are said not to be annotated; raises as `absent`."""
        return self._known(self._images[image_id].not_exhaustive_ids)

    def reviewed(self, image_id: int) -> frozenset[str]:
        """Fingerprints of runs whose labels of an image people went through."""
        return self._reviewed[image_id]

    def _known(self, ids: frozenset[int]) -> set[int]:
        for id_ in sorted(ids - self._ids.keys()):
            raise DataError(
                f"{self._source.path} lists the category {id_} of an image, which the file does "
                "not define."
            )
        return {self._ids[id_] for id_ in ids}

    def _label(self, row: Mapping[str, Any]) -> Label:
        x, y, width, height = row["bbox"]
        by = row.get("by")
        if by not in (PERSON, MACHINE):
            by = MACHINE if isinstance(row.get("score"), (int, float)) else PERSON
        said = {"category_id": self._ids[row["category_id"]], "by": by, "source": self._name(row)}
        return Label(self._place, {**row, **said}, (x, y, x + width, y + height))

    def _name(self, row: Mapping[str, Any]) -> str:
        """Of what was merged before, where it came from then as well."""
        info = self._source.content.get("info")
        was_merged = isinstance(info, dict) and info.get("inputs") and "source" in row
        return f"{self._source.name}/{row['source']}" if was_merged else self._source.name


class RunLabels:
    """The shown labels of a run, a few units in memory at a time."""

    def __init__(
        self, place: int, source: RunInput, ids: Mapping[int, int], counts: Counts
    ) -> None:
        """Args:
        ids: the result's id for each category of the run.
        """
        self._place, self._source, self._ids, self._counts = place, source, ids, counts
        self._unit_of = {image.image_id: image.unit for image in read_plan(source.path)}
        self._units: dict[int, dict[int, LabelledImage]] = {}

    def of(self, image_id: int) -> list[Label]:
        """Best first.

        Raises:
            DataError: a record is damaged, or a category is not in the run's vocabulary.
        """
        image = self._unit(self._unit_of[image_id])[image_id]
        shown = self._source.view.shown(image)
        self._counts.given[self._source.name] += len(image.labels)
        self._counts.left_out[HIDDEN] += len(image.labels) - len(shown)
        labels = []
        for label in shown:
            row = coco_annotation(0, image.image, label, "rle", {"score": short(label.score)})
            x, y, width, height = row["bbox"]
            row["category_id"] = self._ids[label.category_id]
            row |= {"by": MACHINE, "source": self._source.name}
            labels.append(Label(self._place, row, (x, y, x + width, y + height)))
        return labels

    def absent(self, image_id: int) -> set[int]:
        return set()  # a machine's word is not that something is not there

    def partly(self, image_id: int) -> set[int]:
        return set()

    def reviewed(self, image_id: int) -> frozenset[str]:
        return frozenset()

    def _unit(self, unit: int) -> dict[int, LabelledImage]:
        if unit not in self._units:
            while len(self._units) >= _WAITING:
                self._units.pop(next(iter(self._units)))
            found = iter_labelled_images(self._source.path, [unit])
            self._units[unit] = {image.image.image_id: image for image in found}
        return self._units[unit]
