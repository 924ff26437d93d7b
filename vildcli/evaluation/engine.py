"""The evaluation engine: predictions against truth to precision and recall. No torch.

It is hotcoco. The references are `pycocotools` and `lvis` 0.5.3; the latter is unmaintained, breaks
on numpy 1.24 and later, and took 7 minutes and 18 GiB for as many boxes as LVIS val has, where
hotcoco took 3 seconds and 0.8 GiB. The tests hold each pair to equal numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from vildcli.evaluation.predictions import IouType, Predictions
from vildcli.evaluation.result import ABSENT, CategoryResult

_AT_ONCE = 1 << 20  # predictions that hotcoco holds, decoded: 2 GiB with masks
_ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
AREAS = ("all", "small", "medium", "large")  # at most 32 x 32, at most 96 x 96, larger


@dataclass(frozen=True, slots=True)
class Curves:
    """Precision and recall; -1 marks what has no truth.

    T IoU thresholds (0.50, 0.55, …, 0.95), R recalls (0, 0.01, …, 1), C categories by ascending id,
    A areas, M limits of detections.

    Attributes:
        precision: [T, R, C, A, M].
        recall: [T, C, A, M], the greatest that is reached.
        category_ids: [C].
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    category_ids: tuple[int, ...]

    def categories(self) -> dict[int, CategoryResult]:
        """Of all areas, at the highest limit."""
        precision, recall = self.precision[:, :, :, 0, -1], self.recall[:, :, 0, -1]
        return {
            id_: CategoryResult(
                ap=float(precision[:, :, column].mean()),
                ap50=float(precision[0, :, column].mean()),
                recall=float(recall[:, column].mean()),
                recall50=float(recall[0, column]),
                curve=precision[0, :, column],
            )
            for column, id_ in enumerate(self.category_ids)
            if precision[0, 0, column] > ABSENT
        }


@dataclass(frozen=True, slots=True)
class Errors:
    """What keeps AP50 down, after TIDE (Bolya et al., 2020); definitions in docs/evaluation.md.

    Attributes:
        counts: wrong detections (and, as `miss`, objects) of each kind.
        gains: by how much AP50, 0-1, would rise if those of one kind were mended.
    """

    counts: Mapping[str, int]
    gains: Mapping[str, float]

    def shares(self) -> dict[str, float]:
        """Each kind's part of all gains, 0-1."""
        total = sum(self.gains.values())
        return {kind: gain / total if total else 0.0 for kind, gain in self.gains.items()}


class Engine:
    """One set of predictions against one annotation set.

    Categories are independent of each other, so that a large set is handed over some of them at a
    time: memory is that of the greatest part.

    Args:
        content: JSON value of the annotation file, in COCO's or LVIS's form.
        predictions: of its images and categories.
    """

    def __init__(self, content: Mapping[str, Any], predictions: Predictions) -> None:
        self._content, self._predictions = content, predictions
        self._category_ids = tuple(sorted(row["id"] for row in content["categories"]))
        self._parts = _parts(self._category_ids, predictions)

    @cached_property
    def _whole(self) -> _HandedOver:
        """Kept, because boxes and masks may both be asked for."""
        return _hand_over(self._content, self._content["annotations"], self._predictions)

    def coco(
        self, iou_type: IouType, *, limits: Sequence[int], use_categories: bool = True
    ) -> Curves:
        """COCO's rules: crowds, and the best detections of an image and category.

        Args:
            iou_type: boxes or masks.
            limits: of detections an image and category, ascending.
            use_categories: False compares everything with everything; there is one column then.
        """
        if use_categories:
            return self._curves(iou_type, limits, lvis=False)
        return self._whole.curves(iou_type, limits, None, lvis=False)

    def lvis(self, iou_type: IouType, *, limit: int) -> Curves:
        """LVIS's rules: federated truth. `limit` detections an image and category are looked at."""
        return self._curves(iou_type, [limit], lvis=True)

    def errors(self, *, limit: int, lvis: bool) -> Errors:
        """Wrong boxes by kind (TIDE), at IoU 0.5 and 0.1, by COCO's rules or LVIS's."""
        evaluation = self._whole.evaluated("bbox", [limit], self._category_ids, lvis=lvis)
        found = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
        return Errors(
            counts={name.lower(): int(found["counts"][name]) for name in _ERRORS},
            gains={name.lower(): float(found["delta_ap"][name]) for name in _ERRORS},
        )

    def _curves(self, iou_type: IouType, limits: Sequence[int], *, lvis: bool) -> Curves:
        if len(self._parts) == 1:
            return self._whole.curves(iou_type, limits, self._category_ids, lvis=lvis)
        found = [
            self._of_categories(ids).curves(iou_type, limits, ids, lvis=lvis) for ids in self._parts
        ]
        return Curves(
            np.concatenate([curves.precision for curves in found], axis=2),
            np.concatenate([curves.recall for curves in found], axis=1),
            self._category_ids,
        )

    def _of_categories(self, ids: tuple[int, ...]) -> _HandedOver:
        chosen = set(ids)
        rows = [row for row in self._content["annotations"] if row["category_id"] in chosen]
        predictions = self._predictions.take(np.isin(self._predictions.category_ids, ids))
        return _hand_over(self._content, rows, predictions)


@dataclass(frozen=True, slots=True)
class _HandedOver:
    """Truth and predictions as hotcoco has them."""

    truth: Any
    found: Any

    def evaluated(
        self,
        iou_type: IouType,
        limits: Sequence[int],
        category_ids: tuple[int, ...] | None,
        *,
        lvis: bool,
    ) -> Any:
        evaluation = hotcoco.COCOeval(self.truth, self.found, iou_type, lvis_style=lvis)
        evaluation.params.max_dets = list(limits)
        if category_ids is None:
            evaluation.params.use_cats = False
        else:
            evaluation.params.cat_ids = list(category_ids)
        evaluation.evaluate()
        return evaluation

    def curves(
        self,
        iou_type: IouType,
        limits: Sequence[int],
        category_ids: tuple[int, ...] | None,
        *,
        lvis: bool,
    ) -> Curves:
        """Of these categories, or of everything as one."""
        evaluation = self.evaluated(iou_type, limits, category_ids, lvis=lvis)
        evaluation.accumulate()
        found = evaluation.eval
        assert found is not None, "hotcoco accumulated nothing"
        precision, recall = np.asarray(found["precision"]), np.asarray(found["recall"])
        return Curves(precision, recall, (-1,) if category_ids is None else category_ids)


def _parts(category_ids: tuple[int, ...], predictions: Predictions) -> list[tuple[int, ...]]:
    """Categories in order, cut where their predictions would be more than are handed over."""
    if len(predictions) <= _AT_ONCE:
        return [category_ids]
    found, counts = np.unique(predictions.category_ids, return_counts=True)
    sizes = dict(zip(found.tolist(), counts.tolist(), strict=True))
    parts: list[list[int]] = [[]]
    total = 0
    for id_ in category_ids:
        total += sizes.get(id_, 0)
        if total > _AT_ONCE and parts[-1]:
            parts.append([])
            total = sizes.get(id_, 0)
        parts[-1].append(id_)
    return [tuple(part) for part in parts]


def _hand_over(
    content: Mapping[str, Any], annotations: Iterable[Mapping[str, Any]], predictions: Predictions
) -> _HandedOver:
    truth = hotcoco.COCO({**content, "annotations": _numbered(annotations)})
    columns = (
        predictions.image_ids,
        predictions.boxes,
        predictions.scores,
        predictions.category_ids,
    )
    found = truth.load_res(
        np.column_stack(columns).astype(np.float64, copy=False),
        segmentation=None if predictions.masks is None else list(predictions.masks),
    )
    # Else LVIS's rules cut it to 300 an image here, whatever the limit: it is cut already.
    return _HandedOver(truth, found.cap_detections_per_image(None))


def _numbered(annotations: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Annotations numbered from 1: to engines equal ids are one object, to pycocotools 0 none."""
    return [
        {
            **row,
            "id": number,
            "area": row.get("area", row["bbox"][2] * row["bbox"][3]),
            "iscrowd": int(row.get("iscrowd", 0)),
        }
        for number, row in enumerate(annotations, start=1)
    ]
