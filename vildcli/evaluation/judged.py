"""A run's labels told right from wrong, and how the shown ones agree with the truth. No torch.

A label is right when it is the surest of its name on an object of that name that no other has
taken, box IoU 0.5 or more. Whether a label is right does not depend on labels below it, so one
judgement serves every threshold. What the truth cannot judge is left out: in a federated truth,
names that an image was not checked for, and surplus labels of names that were not annotated
exhaustively; anywhere, labels on crowds and on difficult objects.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from vildcli.evaluation.agreement import GROUP_NAMES, Agreement
from vildcli.evaluation.predictions import Floats, Ints
from vildcli.evaluation.run import EvaluatedRun, MatchedRun
from vildcli.evaluation.truth import Truth
from vildcli.evaluation.voc import is_difficult
from vildcli.labelling.records import LabelRecord
from vildcli.vocabulary.category import FREQUENCIES

MATCH_IOU = 0.5
_GROUP_LIMITS = (10, 100)  # images that part LVIS's groups


@dataclass(frozen=True, slots=True)
class JudgedLabels:
    """N labels that the truth can judge, and the M objects that they were held against.

    Terms are category ids of the run's vocabulary, images are the run's.

    Attributes:
        terms, images: [N].
        scores: [N] in 0-1.
        right: [N].
        object_terms, object_images: [M]; an object stands once for each term that means it.
        unjudged: labels of the same terms that the truth cannot judge.
    """

    terms: Ints
    images: Ints
    scores: Floats
    right: NDArray[np.bool_]
    object_terms: Ints
    object_images: Ints
    unjudged: int

    def on(self, images: Ints) -> JudgedLabels:
        """Only those images; `unjudged` stays that of all."""
        own, objects = np.isin(self.images, images), np.isin(self.object_images, images)
        return JudgedLabels(
            self.terms[own],
            self.images[own],
            self.scores[own],
            self.right[own],
            self.object_terms[objects],
            self.object_images[objects],
            self.unjudged,
        )


def judge_labels(matched: MatchedRun | EvaluatedRun) -> JudgedLabels:
    """Judge every stored label whose image and name are in the truth, unit by unit."""
    judge = _Judge(matched.truth)
    terms_of = defaultdict(list)
    for term, category_id in matched.category_ids.items():
        terms_of[category_id].append(term)
    rows: list[tuple[int, int, float, bool]] = []
    objects: list[tuple[int, int]] = []
    unjudged = 0
    for image in matched.view.labelled_images():
        place = matched.image_ids.get(image.image.image_id)
        if place is None:
            continue
        by_term: dict[int, list[LabelRecord]] = defaultdict(list)
        for label in image.labels:
            if label.category_id in matched.category_ids:
                by_term[label.category_id].append(label)
        for term, labels in by_term.items():
            verdicts = judge.verdicts(place, matched.category_ids[term], labels)
            unjudged += sum(verdict is None for _, verdict in verdicts)
            rows += [(term, image.image.image_id, s, v) for s, v in verdicts if v is not None]
        for category_id, count in judge.wanted(place).items():
            objects += [
                (term, image.image.image_id) for term in terms_of[category_id] for _ in range(count)
            ]
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    wanted = np.array(objects, np.int64).reshape(-1, 2)
    return JudgedLabels(
        np.array(columns[0], np.int64),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.float64),
        np.array(columns[3], bool),
        wanted[:, 0],
        wanted[:, 1],
        unjudged,
    )


class _Judge:
    """The truth, image by image."""

    def __init__(self, truth: Truth) -> None:
        self._federated = truth.protocol.rules == "lvis"
        self._images = {image.id: image for image in truth.annotations.images}
        self._rows: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
        self._wanted: dict[int, Counter[int]] = defaultdict(Counter)
        for row in truth.content["annotations"]:
            self._rows[row["image_id"], row["category_id"]].append(row)
            if not is_difficult(row):
                self._wanted[row["image_id"]][row["category_id"]] += 1

    def wanted(self, image_id: int) -> Mapping[int, int]:
        """How many objects of each category must be found."""
        return self._wanted.get(image_id, {})

    def verdicts(
        self, image_id: int, category_id: int, labels: Iterable[LabelRecord]
    ) -> list[tuple[float, bool | None]]:
        """Score and verdict of one term's labels; None where the truth cannot tell."""
        ranked = sorted(labels, key=lambda label: (-label.score, label.label))
        rows = self._rows.get((image_id, category_id), [])
        image = self._images[image_id]
        if self._federated and not rows and category_id not in image.negative_ids:
            return [(label.score, None) for label in ranked]
        may_miss_some = self._federated and category_id in image.not_exhaustive_ids
        overlaps = _overlaps(ranked, rows)
        ignored = np.array([is_difficult(row) for row in rows], bool)
        free = ~ignored
        verdicts: list[tuple[float, bool | None]] = []
        for label, own in zip(ranked, overlaps, strict=True):
            best = int(np.where(free, own, -1.0).argmax()) if len(rows) else -1
            if best >= 0 and free[best] and own[best] >= MATCH_IOU:
                free[best] = False
                verdicts.append((label.score, True))
            elif (own[ignored] >= MATCH_IOU).any():
                verdicts.append((label.score, None))
            else:
                verdicts.append((label.score, None if may_miss_some else False))
        return verdicts


def _overlaps(labels: list[LabelRecord], rows: list[Mapping[str, Any]]) -> Floats:
    """IoU [N, M] of labels and objects; with a crowd, the share of the label that lies in it."""
    if not rows:
        return np.empty((len(labels), 0))
    boxes = np.array([label.box for label in labels], np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    objects = np.array([row["bbox"] for row in rows], np.float64)
    crowds = [int(bool(row.get("iscrowd"))) for row in rows]
    return np.asarray(coco_mask.iou(boxes, objects, crowds), np.float64)


def frequency_groups(matched: MatchedRun | EvaluatedRun) -> dict[int, str]:
    """Rare, common or frequent, for each term that has truth.

    LVIS's own groups, which are of its training images; else by how many of these images hold an
    object of it: up to 10, up to 100, more.
    """
    letters = dict(zip(FREQUENCIES, GROUP_NAMES, strict=True))
    categories = {category.id: category for category in matched.truth.annotations.categories}
    rows = matched.truth.content["annotations"]
    places = {(row["category_id"], row["image_id"]) for row in rows}
    images = Counter(category_id for category_id, _ in places)
    if matched.truth.protocol.rules == "lvis":
        found = {i: letters.get(category.frequency or "") for i, category in categories.items()}
    else:
        found = dict.fromkeys(categories)
    return {
        term: found[category_id] or GROUP_NAMES[sum(images[category_id] > n for n in _GROUP_LIMITS)]
        for term, category_id in matched.category_ids.items()
    }


def agreements_of_run(matched: MatchedRun | EvaluatedRun) -> tuple[Agreement, ...]:
    """How the labels of each term that has truth did at the threshold that the run is shown at."""
    names = {id_: category.name for id_, category in matched.view.categories.items()}
    groups = frequency_groups(matched)
    return term_agreements(judge_labels(matched), groups, matched.view.thresholds, names)


def term_agreements(
    judged: JudgedLabels,
    groups: Mapping[int, str],
    thresholds: Mapping[int, float],
    names: Mapping[int, str],
) -> tuple[Agreement, ...]:
    """How each term did at its threshold, in the order of `groups`."""
    limits = np.array([thresholds[term] for term in judged.terms.tolist()])
    shown = judged.scores >= limits
    counts = Counter(judged.terms[shown].tolist())
    right = Counter(judged.terms[shown & judged.right].tolist())
    objects = Counter(judged.object_terms.tolist())
    return tuple(
        Agreement(
            term, names[term], group, thresholds[term], objects[term], counts[term], right[term]
        )
        for term, group in groups.items()
    )
