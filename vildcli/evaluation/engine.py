"""The evaluation engine: predictions against truth to precision and recall. No torch.

It is hotcoco. The references are `pycocotools` and `lvis` 0.5.3; the latter is unmaintained, breaks
on numpy 1.24 and later, and took 7 minutes and 18 GiB for as many boxes as LVIS val has, where
hotcoco took 3 seconds and 0.8 GiB. The tests hold each pair to equal numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from vildcli.evaluation.predictions import IouType, Predictions
from vildcli.evaluation.result import ABSENT, CategoryResult

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
    """One set of predictions against one annotation set, both handed over once.

    Args:
        content: JSON value of the annotation file, in COCO's or LVIS's form.
        predictions: of its images and categories.
    """

    def __init__(self, content: Mapping[str, Any], predictions: Predictions) -> None:
        self._category_ids = tuple(sorted(row["id"] for row in content["categories"]))
        self._truth = hotcoco.COCO({**content, "annotations": _annotations(content)})
        columns = (
            predictions.image_ids,
            predictions.boxes,
            predictions.scores,
            predictions.category_ids,
        )
        found = self._truth.load_res(
            np.column_stack(columns).astype(np.float64),
            segmentation=None if predictions.masks is None else [*predictions.masks],
        )
        # Else LVIS's rules cut it to 300 an image here, whatever the limit: it is cut already.
        self._found = found.cap_detections_per_image(None)

    def coco(
        self, iou_type: IouType, *, limits: Sequence[int], use_categories: bool = True
    ) -> Curves:
        """COCO's rules: crowds, and the best detections of an image and category.

        Args:
            iou_type: boxes or masks.
            limits: of detections an image and category, ascending.
            use_categories: False compares everything with everything; there is one column then.
        """
        evaluation = hotcoco.COCOeval(self._truth, self._found, iou_type)
        evaluation.params.max_dets = list(limits)
        evaluation.params.use_cats = use_categories
        return self._accumulated(evaluation, self._category_ids if use_categories else (-1,))

    def lvis(self, iou_type: IouType, *, limit: int) -> Curves:
        """LVIS's rules: federated truth. `limit` detections an image and category are looked at."""
        evaluation = hotcoco.COCOeval(self._truth, self._found, iou_type, lvis_style=True)
        evaluation.params.max_dets = [limit]
        return self._accumulated(evaluation, self._category_ids)

    def errors(self, *, limit: int, lvis: bool) -> Errors:
        """Wrong boxes by kind (TIDE), at IoU 0.5 and 0.1, by COCO's rules or LVIS's."""
        evaluation = hotcoco.COCOeval(self._truth, self._found, "bbox", lvis_style=lvis)
        evaluation.params.max_dets = [limit]
        evaluation.evaluate()
        found = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
        return Errors(
            counts={name.lower(): int(found["counts"][name]) for name in _ERRORS},
            gains={name.lower(): float(found["delta_ap"][name]) for name in _ERRORS},
        )

    def _accumulated(self, evaluation: Any, category_ids: tuple[int, ...]) -> Curves:
        evaluation.evaluate()
        evaluation.accumulate()
        found = evaluation.eval
        assert found is not None, "hotcoco accumulated nothing"
        return Curves(np.asarray(found["precision"]), np.asarray(found["recall"]), category_ids)


def _annotations(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Annotations numbered from 1: to engines equal ids are one object, to pycocotools 0 none."""
    return [
        {
            **row,
            "id": number,
            "area": row.get("area", row["bbox"][2] * row["bbox"][3]),
            "iscrowd": int(row.get("iscrowd", 0)),
        }
        for number, row in enumerate(content["annotations"], start=1)
    ]
