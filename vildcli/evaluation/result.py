"""What an evaluation found: the summary numbers, and how each category did. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vildcli.evaluation.predictions import IouType

ABSENT = -1.0  # what the official packages give where nothing was there to be found
TITLES: dict[IouType, str] = {"bbox": "Box AP", "segm": "Mask AP"}
RECALLS = 101  # recall points at which precision is read


@dataclass(frozen=True, slots=True)
class CategoryResult:
    """How one category that has truth did; all in 0-1.

    Attributes:
        ap: over the protocol's IoU thresholds.
        ap50: at IoU 0.5.
        recall: greatest recall, mean over the IoU thresholds.
        recall50: the same at IoU 0.5.
        curve: precision at IoU 0.5 at 101 recalls from 0 to 1.
    """

    ap: float
    ap50: float
    recall: float
    recall50: float
    curve: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Result:
    """Numbers of one evaluation.

    Attributes:
        title: what was measured, such as "Mask AP".
        iou_type: whether boxes or masks were compared.
        metrics: the protocol's numbers by their usual keys, in the usual order, in 0-1; -1 where
            nothing was there to be found.
        categories: by category id; those without truth are absent.
    """

    title: str
    iou_type: IouType
    metrics: Mapping[str, float]
    categories: Mapping[int, CategoryResult]

    @property
    def per_category_ap(self) -> dict[int, float]:
        return {id_: found.ap for id_, found in self.categories.items()}

    @property
    def per_category_ap50(self) -> dict[int, float]:
        return {id_: found.ap50 for id_, found in self.categories.items()}

    def mean_ap(self, category_ids: Iterable[int]) -> float:
        """Mean AP of those categories that have truth; -1 when none has."""
        return mean(self.categories[i].ap for i in category_ids if i in self.categories)

    def mean_ap50(self, category_ids: Iterable[int]) -> float:
        """Mean AP50 of those categories that have truth; -1 when none has."""
        return mean(self.categories[i].ap50 for i in category_ids if i in self.categories)

    def mean_recall50(self, category_ids: Iterable[int]) -> float:
        """Mean recall at IoU 0.5 of those categories that have truth; -1 when none has."""
        return mean(self.categories[i].recall50 for i in category_ids if i in self.categories)


def mean(values: Iterable[float]) -> float:
    """The mean; -1 of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else ABSENT


def mean_present(values: NDArray[np.float64]) -> float:
    """Mean of the values above -1; -1 when none is."""
    present = values[values > ABSENT]
    return float(present.mean()) if present.size else ABSENT
