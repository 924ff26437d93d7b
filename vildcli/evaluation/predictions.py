"""Predictions of a whole annotation set, in columns: read, checked, cut to the best. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vildcli.errors import DataError

IouType = Literal["bbox", "segm"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
RunLengths = dict[str, Any]  # COCO's compressed RLE
_BORDER_SLACK = 1.0  # pixels that a box may stick out before it is worth a word


@dataclass(frozen=True, slots=True)
class Predictions:
    """N predictions; their order decides between equal scores, as in the official packages.

    Attributes:
        image_ids: [N].
        category_ids: [N].
        boxes: [N, 4] x y width height, pixels of the upright original image.
        scores: [N].
        masks: N run-length encodings, or None where there are none.
    """

    image_ids: Ints
    category_ids: Ints
    boxes: Floats
    scores: Floats
    masks: Sequence[RunLengths] | None

    def __post_init__(self) -> None:
        count = len(self.scores)
        lengths = (len(self.image_ids), len(self.category_ids), len(self.boxes))
        assert lengths == (count, count, count), f"columns of unequal length: {lengths}, {count}"
        assert self.masks is None or len(self.masks) == count, "a mask for each, or none at all"

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[Any]) -> Predictions:
        """Those rows (numbers, or a bool for each), in that order."""
        if rows.dtype == bool and rows.all():
            return self  # a large set is not there twice
        numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        masks = None if self.masks is None else [self.masks[i] for i in numbers.tolist()]
        return Predictions(
            self.image_ids[numbers],
            self.category_ids[numbers],
            self.boxes[numbers],
            self.scores[numbers],
            masks,
        )


def predictions_of_results(results: Iterable[Mapping[str, Any]]) -> Predictions:
    """Read COCO results: image_id, category_id, bbox (x y width height), score, segmentation.

    Raises:
        DataError: a key is missing, or a bbox is not four numbers.
    """
    rows = list(results)
    for i, row in enumerate(rows):
        for key in ("image_id", "category_id", "bbox", "score"):
            if key not in row:
                raise DataError(f"Prediction {i} has no '{key}'.")
        if len(row["bbox"]) != 4:
            raise DataError(f"Prediction {i} has the bbox {row['bbox']!r}, not four numbers.")
    masks = [row["segmentation"] for row in rows if "segmentation" in row]
    if masks and len(masks) < len(rows):
        first = next(i for i, row in enumerate(rows) if "segmentation" not in row)
        raise DataError(f"Prediction {first} has no 'segmentation'.")
    return Predictions(
        np.array([row["image_id"] for row in rows], np.int64),
        np.array([row["category_id"] for row in rows], np.int64),
        np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        np.array([row["score"] for row in rows], np.float64),
        masks or None,
    )


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """All predictions, part after part; masks only where every part that is not empty has them."""
    some = [part for part in parts if len(part)]
    masks: list[RunLengths] | None = None
    if some and all(part.masks is not None for part in some):
        masks = [mask for part in some for mask in part.masks or ()]
    return Predictions(
        np.concatenate([np.empty(0, np.int64), *(part.image_ids for part in some)]),
        np.concatenate([np.empty(0, np.int64), *(part.category_ids for part in some)]),
        np.concatenate([np.empty((0, 4)), *(part.boxes for part in some)]),
        np.concatenate([np.empty(0), *(part.scores for part in some)]),
        masks,
    )


def best_of_each(groups: Ints, scores: Floats, count: int) -> NDArray[np.bool_]:
    """Whether each row is among the `count` best-scored of its group; of equals the first ones."""
    _, sizes = np.unique(groups, return_counts=True)
    if sizes.max(initial=0) <= count:
        return np.ones(len(groups), bool)
    order = np.lexsort((-scores, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=np.nan))
    sizes = np.diff(starts, append=len(order))
    kept = np.zeros(len(order), bool)
    kept[order] = np.arange(len(order)) - np.repeat(starts, sizes) < count
    return kept


def check_predictions(
    predictions: Predictions, content: Mapping[str, Any], iou_types: Sequence[IouType]
) -> tuple[str, ...]:
    """Refuse predictions that would make a number wrong; say what is only odd.

    Args:
        predictions: to be evaluated.
        content: JSON value of the annotation file.
        iou_types: what they will be compared by.

    Returns:
        Warnings, with counts.

    Raises:
        DataError: an unknown image or category, a score or box that is no number, no mask, or one
            of another size than its image.
    """
    images = {row["id"]: row for row in content["images"]}
    _check_ids(predictions, images, content)
    _check_numbers(predictions)
    if "segm" in iou_types:
        _check_masks(predictions, images)
    outside = _count_outside(predictions, images)
    if not outside:
        return ()
    return (f"{outside} of {len(predictions)} predicted boxes reach beyond their image.",)


def _check_ids(
    predictions: Predictions, images: Mapping[int, Any], content: Mapping[str, Any]
) -> None:
    if (row := _first(~np.isin(predictions.image_ids, list(images)))) is not None:
        image = predictions.image_ids[row]
        raise DataError(f"Prediction {row} is for image {image}, which has no truth.")
    known = [category["id"] for category in content["categories"]]
    if (row := _first(~np.isin(predictions.category_ids, known))) is not None:
        raise DataError(
            f"Prediction {row} has the unknown category {predictions.category_ids[row]}."
        )


def _check_numbers(predictions: Predictions) -> None:
    if (row := _first(~np.isfinite(predictions.scores))) is not None:
        raise DataError(f"Prediction {row} has the score {predictions.scores[row]}.")
    boxes = predictions.boxes
    bad = np.logical_or(~np.isfinite(boxes).all(axis=1), (boxes[:, 2:] < 0).any(axis=1))
    if (row := _first(bad)) is not None:
        raise DataError(
            f"Prediction {row} has the bbox {boxes[row].tolist()}.",
            hint="A bbox is x, y, width, height in pixels; no side is negative.",
        )


def _check_masks(predictions: Predictions, images: Mapping[int, Any]) -> None:
    if predictions.masks is None:
        if len(predictions):
            raise DataError("Prediction 0 has no 'segmentation'.")
        return
    for row, (image_id, mask) in enumerate(
        zip(predictions.image_ids.tolist(), predictions.masks, strict=True)
    ):
        size = [images[image_id]["height"], images[image_id]["width"]]
        if list(mask["size"]) != size:
            raise DataError(
                f"The mask of prediction {row} is {list(mask['size'])}, its image {size}."
            )


def _count_outside(predictions: Predictions, images: Mapping[int, Any]) -> int:
    sizes = {id_: (image["width"], image["height"]) for id_, image in images.items()}
    limits = np.array([sizes[i] for i in predictions.image_ids.tolist()], float).reshape(-1, 2)
    low, high = predictions.boxes[:, :2], predictions.boxes[:, :2] + predictions.boxes[:, 2:]
    beyond = (low < -_BORDER_SLACK).any(axis=1) | (high > limits + _BORDER_SLACK).any(axis=1)
    return int(beyond.sum())


def _first(bad: NDArray[np.bool_]) -> int | None:
    found = np.flatnonzero(bad)
    return int(found[0]) if len(found) else None
