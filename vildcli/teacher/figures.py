"""How far a teacher cache can be trusted, measured on ground truth before anything trains on it.

    accuracy   the teacher's top-1 on crops of true boxes, among the data's own categories
    recall     share of the true boxes that one of the cached proposals meets with IoU 0.5

Wrong embeddings have halved the novel AP of a reproduction of ViLD, and a first stage trained at
the wrong rate found a quarter of the objects. Boxes of novel categories are looked at for these
figures alone; nothing here reaches training.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torchvision.ops import box_iou

from vildcli.data.images import read_image
from vildcli.data.lvis import Annotation, AnnotationSet
from vildcli.errors import DataError
from vildcli.runs import write_json
from vildcli.teacher.cache import TeacherCache
from vildcli.teacher.crops import ImageEncoder, embed_regions

FIGURES_FILE = "accuracy.json"
BOXES = 2000  # true boxes that the teacher is asked about
RECALL_IOU = 0.5
_TIMES_CHANCE = 3
_Hit = tuple[int, bool]  # category id of a true box, and whether it was hit


class GroupFigures(TypedDict):
    """Of one group of categories; shares in 0-1, None where there are no true boxes."""

    asked: int  # true boxes that the teacher was asked about
    accuracy: float | None
    objects: int  # all true boxes of the data
    recall: float | None


class TeacherFigures(TypedDict):
    """What `accuracy.json` holds."""

    data: str  # hash of the annotation file
    prompts: str  # their fingerprint
    categories: int
    chance: float
    groups: dict[str, GroupFigures]  # all; base and novel where LVIS's frequencies tell them apart


def measure_teacher(
    cache: TeacherCache,
    annotations: AnnotationSet,
    image_folder: Path,
    encoder: ImageEncoder,
    text_embeddings: Callable[[], Tensor],
    *,
    data: str,
    prompts: str,
    seed: int = 0,
) -> TeacherFigures:
    """Measure accuracy on a random sample of the true boxes, and recall on all of them.

    Args:
        text_embeddings: makes those of the data's categories, [C, D] unit norm; asked for only
            where there are true boxes.
        data, prompts: written down with the figures.
    """
    objects = [o for group in annotations.annotations.values() for o in group if _counts(o)]
    order = torch.randperm(len(objects), generator=torch.Generator().manual_seed(seed))
    asked = [objects[i] for i in order[:BOXES].tolist()]
    named = (
        name_boxes(asked, annotations, image_folder, encoder, text_embeddings()) if asked else []
    )
    met = _met(objects, cache)
    groups = {
        name: _figures([hit for i, hit in named if i in ids], [hit for i, hit in met if i in ids])
        for name, ids in _groups(annotations).items()
    }
    count = len(annotations.categories)
    return TeacherFigures(
        data=data, prompts=prompts, categories=count, chance=1 / max(count, 1), groups=groups
    )


def write_teacher_figures(cache: Path, figures: TeacherFigures) -> None:
    write_json(cache / FIGURES_FILE, figures)


def read_teacher_figures(cache: Path) -> TeacherFigures | None:
    """The figures of a cache folder; None where `teach` has not come that far.

    Raises:
        DataError: the file is damaged.
    """
    path = cache / FIGURES_FILE
    if not path.is_file():
        return None
    try:
        figures: TeacherFigures = json.loads(path.read_text(encoding="utf-8"))
        figures["groups"]["all"]["accuracy"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged: {error!r}.", hint="Delete it and run `vildcli teach` again."
        ) from error
    return figures


def doubt_about(figures: TeacherFigures) -> str | None:
    """Why a teacher should not be trained on, or None: it hardly does better than chance."""
    accuracy, chance = figures["groups"]["all"]["accuracy"], figures["chance"]
    # Three times chance is not to be had where there are three categories.
    if accuracy is None or accuracy >= min(_TIMES_CHANCE * chance, (1 + chance) / 2):
        return None
    return (
        f"The teacher names {accuracy:.1%} of the true boxes right, and chance is {chance:.1%}: "
        "its weights, the prompts or the image folder are not what they should be."
    )


def _counts(annotation: Annotation) -> bool:
    x1, y1, x2, y2 = annotation.box
    return not annotation.iscrowd and x2 > x1 and y2 > y1


def _groups(annotations: AnnotationSet) -> dict[str, set[int]]:
    """Category ids by group."""
    categories = annotations.categories
    groups = {"all": {c.id for c in categories}}
    if categories and all(c.frequency is not None for c in categories):
        groups["base"] = {c.id for c in categories if c.frequency != "r"}
        groups["novel"] = groups["all"] - groups["base"]
    return groups


def name_boxes(
    asked: Sequence[Annotation],
    annotations: AnnotationSet,
    image_folder: Path,
    encoder: ImageEncoder,
    text_embeddings: Tensor,
) -> list[_Hit]:
    """Whether the text embedding nearest to a box is that of its category: ids and hits.

    Args:
        asked: objects of an annotation set, in any order; they come back by image.
        text_embeddings: of the set's categories, [C, D] unit norm.
    """
    category_ids = [category.id for category in annotations.categories]
    names = {image.id: image.file_name for image in annotations.images}
    hits: list[_Hit] = []
    for image_id, group in _by_image(asked).items():
        pixels = torch.from_numpy(read_image(image_folder / names[image_id]).pixels)
        boxes = torch.tensor([o.box for o in group])
        embeddings = embed_regions(pixels.permute(2, 0, 1), boxes, encoder)
        columns = (embeddings @ text_embeddings.T).argmax(1).tolist()
        hits += [
            (o.category_id, category_ids[column] == o.category_id)
            for o, column in zip(group, columns, strict=True)
        ]
    return hits


def _met(objects: Sequence[Annotation], cache: TeacherCache) -> list[_Hit]:
    """Whether a proposal of its image overlaps a box enough, of whatever class."""
    hits: list[_Hit] = []
    for image_id, group in _by_image(objects).items():
        proposals, is_true = cache.boxes(image_id), cache.is_true(image_id)
        if is_true is not None:
            proposals = proposals[~is_true]
        overlaps = box_iou(torch.tensor([o.box for o in group]), proposals)
        found = (overlaps >= RECALL_IOU).any(1).tolist()
        hits += [(o.category_id, hit) for o, hit in zip(group, found, strict=True)]
    return hits


def _by_image(annotations: Sequence[Annotation]) -> Mapping[int, list[Annotation]]:
    groups: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        groups[annotation.image_id].append(annotation)
    return groups


def _figures(named: Sequence[bool], met: Sequence[bool]) -> GroupFigures:
    return GroupFigures(
        asked=len(named), accuracy=_share(named), objects=len(met), recall=_share(met)
    )


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
