"""An annotation set as a protocol sees it: its images, its names, its groups. No torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.data.lvis import AnnotationSet, annotation_set, read_content
from vildcli.data.matching import match_categories
from vildcli.data.voc import is_voc, read_voc
from vildcli.errors import DataError
from vildcli.evaluation.lvis import check_lvis
from vildcli.evaluation.predictions import IouType
from vildcli.evaluation.protocols import PROTOCOLS, Protocol
from vildcli.vocabulary.category import FREQUENCIES, Category
from vildcli.vocabulary.files import load_vocabulary

_MOST_NAMES = 0.9  # of a data set's names that a file of it spells as the shipped vocabulary does
_ID_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True, slots=True)
class Truth:
    """What predictions are held against.

    Attributes:
        content: its JSON value in COCO's or LVIS's form, already cut down to what the protocol is
            about; the numbers are those of the file, so that official packages would read the same.
        annotations: the same, typed.
        groups: category ids that are averaged apart.
        notes: what had to be left out.
    """

    path: Path
    protocol: Protocol
    content: Mapping[str, Any]
    annotations: AnnotationSet
    groups: Mapping[str, frozenset[int]]
    notes: tuple[str, ...] = ()

    @property
    def novel_ids(self) -> frozenset[int]:
        """Categories that zero-shot is about; empty where the protocol does not say."""
        return self.groups.get(self.protocol.novel or "", frozenset())

    @property
    def iou_types(self) -> tuple[IouType, ...]:
        """Boxes, and masks where the protocol wants them and every annotation has one."""
        rows = self.content["annotations"]
        masks = self.protocol.masks and rows and all(row.get("segmentation") for row in rows)
        return ("bbox", "segm") if masks else ("bbox",)

    @property
    def is_of_its_data_set(self) -> bool:
        """Whether the names are the data set's own, so that published numbers may stand beside."""
        wanted = load_vocabulary(self.protocol.vocabulary).categories
        if self.protocol.only_groups:
            wanted = tuple(
                category
                for reference in self.protocol.groups.values()
                for category in load_vocabulary(reference).categories
            )
        own = self.annotations.categories
        matched = match_categories(own, wanted)
        return len(own) == len(wanted) and len(matched) >= _MOST_NAMES * len(own)

    def restricted(self, image_ids: Collection[int], category_ids: Collection[int]) -> Truth:
        """Only those images, only those names."""
        content = _restricted(self.content, frozenset(image_ids), frozenset(category_ids))
        return Truth(
            self.path,
            self.protocol,
            content,
            annotation_set(content, self.path),
            {name: ids & frozenset(category_ids) for name, ids in self.groups.items()},
            self.notes,
        )


def load_truth(path: Path, protocol: str | None = None) -> Truth:
    """Read an annotation set for a protocol.

    Args:
        path: COCO or LVIS JSON; of VOC, its folder or one of its image lists.
        protocol: a key of `PROTOCOLS`; None takes the rules that the file is made for.

    Raises:
        DataError: unreadable, without images, or not what the protocol needs.
    """
    content = read_voc(path) if is_voc(path) else read_content(path)
    chosen = PROTOCOLS[protocol or guess_protocol(path, content)]
    if chosen.rules == "lvis":
        check_lvis(content, str(path))
    annotations = annotation_set(content, path)
    if not annotations.images:
        raise DataError(f"{path} has no images.")
    groups, notes = _groups(chosen, annotations.categories, path)
    truth = Truth(path, chosen, content, annotations, groups, notes)
    if not chosen.only_groups:
        return truth
    names: frozenset[int] = frozenset().union(*groups.values())
    images = {row["image_id"] for row in content["annotations"] if row["category_id"] in names}
    return truth.restricted(images, names)


def guess_protocol(path: Path, content: Mapping[str, Any]) -> str:
    """The protocol of a file that speaks for itself: VOC's, LVIS's, else COCO's."""
    if is_voc(path):
        return "voc"
    federated = all(key in row for row in content["images"] for key in _ID_LISTS)
    counted = all(row.get("frequency") in FREQUENCIES for row in content["categories"])
    return "lvis" if federated and counted else "coco"


def _groups(
    protocol: Protocol, categories: tuple[Category, ...], path: Path
) -> tuple[dict[str, frozenset[int]], tuple[str, ...]]:
    if protocol.rules == "lvis":
        return {
            name: frozenset(c.id for c in categories if c.frequency == letter)
            for name, letter in protocol.groups.items()
        }, ()
    groups, notes = {}, []
    for name, reference in protocol.groups.items():
        wanted = load_vocabulary(reference).categories
        found = frozenset(match_categories(wanted, categories).values())
        if not found:
            raise DataError(
                f"{path} has none of the {len(wanted)} {name} categories of {protocol.name}.",
                hint="Name an annotation file of COCO's 80 categories.",
            )
        if len(found) < len(wanted):
            notes.append(
                f"{path} has {len(found)} of the {len(wanted)} {name} categories of "
                f"{protocol.name}."
            )
        groups[name] = found
    return groups, tuple(notes)


def _restricted(
    content: Mapping[str, Any], image_ids: frozenset[int], category_ids: frozenset[int]
) -> dict[str, Any]:
    def image(row: Mapping[str, Any]) -> dict[str, Any]:
        lists = {key: [i for i in row[key] if i in category_ids] for key in _ID_LISTS if key in row}
        return {**row, **lists}

    return {
        **content,
        "images": [image(row) for row in content["images"] if row["id"] in image_ids],
        "categories": [row for row in content["categories"] if row["id"] in category_ids],
        "annotations": [
            row
            for row in content["annotations"]
            if row["image_id"] in image_ids and row["category_id"] in category_ids
        ],
    }
