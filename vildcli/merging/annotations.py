"""Labelling runs and annotation sets as one annotation set, written as a stream.

Of each image: what people drew, then what machines found and people leave free.

    skip      nothing of machines on images that people labelled
    merge     nothing of machines that shows what a person drew, or that a person said is not there
    replace   nothing of people on images that machines labelled
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vildcli import __version__
from vildcli.errors import RunError
from vildcli.export.coco import coco_category, json_text, write_list
from vildcli.export.lvis import Occurrences
from vildcli.export.writing import refuse_existing, write_file
from vildcli.merging.categories import MergedCategories, merge_categories
from vildcli.merging.inputs import REVIEWED_RUNS, Input, RunInput, SetInput
from vildcli.merging.overlap import NMS_IOU, as_boxes, box_overlaps, keep_best
from vildcli.merging.set_images import SetImage, merge_images
from vildcli.merging.set_labels import Label, RunLabels, SetLabels
from vildcli.merging.summary import OVERLAPS, Counts, MergeSummary
from vildcli.vocabulary.category import FREQUENCIES

Existing = Literal["skip", "merge", "replace"]
SKIPPED = "on images that people labelled"
REVIEWED = "that people have reviewed"
TAKEN = "where a person drew"
DENIED = "of what a person said is not there"
REPLACED = "of a person, on images that a machine labelled"
TWICE = "drawn by two people"
_ABSENT, _PARTLY = "neg_category_ids", "not_exhaustive_category_ids"


@dataclass(frozen=True, slots=True)
class _Merge:
    """What is known before the first annotation is written.

    Attributes:
        machine_ids: filled while writing: categories of machines' labels by image id.
    """

    inputs: Sequence[Input]
    labels: Sequence[SetLabels | RunLabels]
    categories: MergedCategories
    images: Sequence[SetImage]
    existing: Existing
    nms_iou: float
    counts: Counts
    machine_ids: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def is_lvis(self) -> bool:
        sets = [source for source in self.inputs if isinstance(source, SetInput)]
        return bool(sets) and all(map(_is_lvis, sets))


def merge_annotations(
    inputs: Sequence[Input],
    out: Path,
    *,
    existing: Existing = "merge",
    nms_iou: float = NMS_IOU,
    renumber: bool = False,
    images_root: Path | None = None,
    force: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> MergeSummary:
    """Write one COCO file; an LVIS file where every annotation set is one.

    Ids of images and categories are those of the annotation sets in their order, then of the runs.
    Every annotation says whose it is (`by`: person or machine) and from which input (`source`, as
    in `info.inputs`).

    Args:
        inputs: at least one.
        out: the JSON; whole or not there at all.
        existing: what of people and of machines stays on an image that both labelled.
        nms_iou: overlap above which of two machines' labels the better one stays, and of one
            object that two people drew the earlier input's.
        renumber: give free ids to images and categories of later inputs whose own are taken.
        images_root: folder that all file names start from.
        force: replace a file that is there.
        advance: told the number of images just written.

    Raises:
        RunError: `out` exists or cannot be written, or an id stands for two images.
        VocabularyError: an id stands for two categories.
        DataError: an image has two sizes or hashes, or a record is damaged.
    """
    if out.resolve() in [source.path.resolve() for source in inputs]:
        raise RunError(f"{out} is one of the files to merge.", hint="Choose another --out.")
    if not force:
        refuse_existing([out])
    # What people made is what others refer to.
    inputs = sorted(inputs, key=lambda source: isinstance(source, RunInput))
    categories = merge_categories(
        [(source.name, source.categories) for source in inputs], renumber=renumber
    )
    counts = Counts()
    merge = _Merge(
        inputs,
        [_labels(k, source, categories, counts) for k, source in enumerate(inputs)],
        categories,
        merge_images(inputs, images_root=images_root, renumber=renumber),
        existing,
        nms_iou,
        counts,
    )
    write_file(out, partial(_write, merge=merge, advance=advance))
    return counts.summary(
        out,
        kind="annotation set",
        images=len(merge.images),
        labels=counts.kept.total(),
        inputs=[source.name for source in inputs],
        notes=[note for source in inputs for note in source.notes()],
    )


def _labels(
    place: int, source: Input, categories: MergedCategories, counts: Counts
) -> SetLabels | RunLabels:
    ids = categories.ids[place]
    if isinstance(source, RunInput):
        return RunLabels(place, source, ids, counts)
    return SetLabels(place, source, ids, counts)


def _is_lvis(source: SetInput) -> bool:
    images, categories = source.content["images"], source.content["categories"]
    listed = all(key in row for row in images for key in (_ABSENT, _PARTLY))
    return listed and all(row.get("frequency") in FREQUENCIES for row in categories)


def _write(path: Path, merge: _Merge, advance: Callable[[int], None]) -> None:
    occurrences = Occurrences()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"info": ' + json_text(_info(merge)) + ',\n"licenses": []')
        annotations = occurrences.counted(_annotations(merge, advance))
        write_list(file, "annotations", annotations)
        # Later, as they say what was written.
        write_list(file, "images", (_image_row(merge, image) for image in merge.images))
        write_list(file, "categories", _category_rows(merge, occurrences))
        file.write("}\n")


def _info(merge: _Merge) -> dict[str, Any]:
    return {
        "description": f"Labels of {', '.join(source.name for source in merge.inputs)}",
        "contributor": f"vildcli {__version__}",
        "inputs": [source.said() for source in merge.inputs],
        "existing": merge.existing,
        "nms_iou": merge.nms_iou,
    }


def _annotations(merge: _Merge, advance: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """What stays of every image, numbered: people's numbers stay where they are free."""
    used: set[int] = set()
    numbers = count(1 + max((row for s in merge.inputs for row in s.annotation_ids()), default=0))
    for image in _in_order_of_runs(merge):
        for label in _chosen(merge, image):
            own = label.row["id"]
            number = own if own and own not in used else next(numbers)
            used.add(number)
            merge.counts.kept[merge.inputs[label.owner].name] += 1
            if not label.is_of_person:
                merge.machine_ids[image.id].add(label.category_id)
            yield {**label.row, "id": number, "image_id": image.id}
        advance(1)


def _in_order_of_runs(merge: _Merge) -> list[SetImage]:
    """A run is read unit by unit: its images come in its own order."""
    runs = [k for k, source in enumerate(merge.inputs) if isinstance(source, RunInput)]

    def key(image: SetImage) -> tuple[int, int]:
        first = next((k for k in runs if k in image.members), None)
        return (len(merge.inputs), 0) if first is None else (first, image.members[first])

    return sorted(merge.images, key=key)


def _chosen(merge: _Merge, image: SetImage) -> list[Label]:
    """The labels of an image that stay: people's first, machines' best first."""
    labels = [label for k, id_ in image.members.items() for label in merge.labels[k].of(id_)]
    drawn = [label for label in labels if label.is_of_person]
    found = [label for label in labels if not label.is_of_person]
    labelled = {k for k in image.members if isinstance(merge.inputs[k], RunInput)}
    labelled |= {label.owner for label in found}
    counts = merge.counts
    if merge.existing == "replace" and labelled:
        drawn = counts.cut(drawn, [False] * len(drawn), REPLACED)
    drawn = counts.cut(drawn, _drawn_once(drawn, merge.nms_iou), TWICE)
    reviewed = _reviewed(merge, image)
    found = counts.cut(found, [_run(merge, label) not in reviewed for label in found], REVIEWED)
    if merge.existing == "skip" and (drawn or reviewed):
        found = counts.cut(found, [False] * len(found), SKIPPED)
    if merge.existing == "merge":
        absent = set().union(*(merge.labels[k].absent(id_) for k, id_ in image.members.items()))
        found = counts.cut(found, [label.category_id not in absent for label in found], DENIED)
        found = counts.cut(found, _left_free(found, drawn, image), TAKEN)
    found = counts.cut(found, _best(found, merge.nms_iou), OVERLAPS)
    return [*drawn, *sorted(found, key=lambda label: -_score(label))]


def _reviewed(merge: _Merge, image: SetImage) -> set[str]:
    """Fingerprints of runs whose labels of an image people went through: some they took away."""
    if merge.existing == "replace":
        return set()
    return set().union(*(merge.labels[k].reviewed(id_) for k, id_ in image.members.items()))


def _run(merge: _Merge, label: Label) -> str | None:
    source = merge.inputs[label.owner]
    return source.fingerprint if isinstance(source, RunInput) else None


def _drawn_once(drawn: Sequence[Label], iou: float) -> list[bool]:
    """Which of people's labels no earlier input has: the same name on the same place."""
    boxes = as_boxes([label.box for label in drawn])
    owners = np.array([label.owner for label in drawn])
    names = np.array([label.category_id for label in drawn])
    same = (box_overlaps(boxes, boxes) > iou) & (names[:, None] == names[None, :])
    earlier = owners[None, :] < owners[:, None]
    return [not row.any() for row in same & earlier]


def _left_free(found: Sequence[Label], drawn: Sequence[Label], image: SetImage) -> list[bool]:
    """Which of machines' labels show nothing that a person drew, by the rule of `detect`."""
    if not found or not drawn:
        return [True] * len(found)
    import torch  # heavy, and wanted only where people and machines meet

    from vildcli.labelling.human_labels import HumanBoxes, shows_drawn

    boxes = torch.tensor([label.box for label in drawn], dtype=torch.float64)
    is_crowd = torch.tensor([bool(label.row.get("iscrowd")) for label in drawn])
    own = torch.tensor([label.box for label in found], dtype=torch.float64)
    free: list[bool] = (~shows_drawn(own, HumanBoxes(boxes, is_crowd, image.size))).tolist()
    return free


def _best(found: Sequence[Label], iou: float) -> list[bool]:
    kept: list[bool] = keep_best(
        as_boxes([label.box for label in found]),
        np.array([_score(label) for label in found]),
        np.array([label.owner for label in found]),
        iou,
    ).tolist()
    return kept


def _score(label: Label) -> float:
    return float(label.row.get("score") or 0.0)


def _image_row(merge: _Merge, image: SetImage) -> dict[str, Any]:
    """The row of its first input; what was reviewed and LVIS's lists are those of all."""
    own = {key: value for key, value in image.row.items() if key != REVIEWED_RUNS}
    if reviewed := _reviewed(merge, image):
        own[REVIEWED_RUNS] = sorted(reviewed)
    if not merge.is_lvis:
        return own
    machine = merge.machine_ids.get(image.id, set())
    members = image.members.items()
    absent = set().union(*(merge.labels[k].absent(id_) for k, id_ in members)) - machine
    # A machine does not say that it found every one.
    partly = set(machine).union(*(merge.labels[k].partly(id_) for k, id_ in members)) - absent
    return {**own, _ABSENT: sorted(absent), _PARTLY: sorted(partly)}


def _category_rows(merge: _Merge, occurrences: Occurrences) -> Iterator[dict[str, Any]]:
    rows = [source.category_rows() for source in merge.inputs]
    own_ids = [{new: old for old, new in ids.items()} for ids in merge.categories.ids]
    pairs = zip(merge.categories.categories, merge.categories.owners, strict=True)
    for category, owner in pairs:
        row = rows[owner].get(own_ids[owner][category.id])
        counted = occurrences.category(category)
        if row is None:
            yield counted if merge.is_lvis else coco_category(category)
            continue
        numbers: dict[str, Any] = {
            key: counted[key] for key in ("image_count", "instance_count") if key in row
        }
        yield {**row, **numbers, "id": category.id}
