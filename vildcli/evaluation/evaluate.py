"""Predictions against truth, by the rules of the truth's protocol. No torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vildcli.evaluation.coco import evaluate_coco
from vildcli.evaluation.engine import Engine
from vildcli.evaluation.lvis import (
    FIXED_DETECTIONS,
    best_of_categories,
    best_of_images,
    evaluate_lvis,
)
from vildcli.evaluation.predictions import Predictions, check_predictions
from vildcli.evaluation.result import Result
from vildcli.evaluation.truth import Truth
from vildcli.evaluation.voc import evaluate_voc
from vildcli.evaluation.zero_shot import evaluate_split


def evaluate(truth: Truth, predictions: Predictions) -> tuple[tuple[Result, ...], tuple[str, ...]]:
    """Evaluate by the protocol: boxes, and masks where it has them.

    Returns:
        The results, and what is odd about the predictions.

    Raises:
        DataError: predictions that would make a number wrong.
    """
    warnings = check_predictions(predictions, truth.content, truth.iou_types)
    if not len(predictions):
        warnings += ("There is not one prediction: every number is 0.",)
    rules = truth.protocol.rules
    if rules == "voc":
        return (evaluate_voc(truth.content, predictions),), warnings
    if rules == "split":
        return (evaluate_split(truth.content, predictions, truth.groups),), warnings
    if rules == "coco":
        engine = Engine(truth.content, predictions)
        return tuple(evaluate_coco(engine, iou_type) for iou_type in truth.iou_types), warnings
    engine = Engine(truth.content, best_of_images(predictions))
    found = (evaluate_lvis(engine, truth.content, iou_type) for iou_type in truth.iou_types)
    return tuple(found), warnings


def evaluate_fixed(
    truth: Truth, predictions: Predictions, *, limit: int = FIXED_DETECTIONS
) -> tuple[Result, ...]:
    """Fixed AP on LVIS: the best 10,000 of each category over the data set, no limit an image.

    The predictions must not have been cut image by image before: the number would be too low. It is
    not the standard AP and stands in no table with it (Dave et al., 2021).

    Raises:
        DataError: as `evaluate`.
    """
    check_predictions(predictions, truth.content, truth.iou_types)
    best = best_of_categories(predictions, limit)
    engine = Engine(truth.content, best)
    most = _most_of_an_image(best)
    results = []
    for iou_type in truth.iou_types:
        found = evaluate_lvis(engine, truth.content, iou_type, limit=most)
        precision = {key: value for key, value in found.metrics.items() if key.startswith("AP")}
        title = f"Fixed {found.title[0].lower()}{found.title[1:]}"
        results.append(replace(found, title=title, metrics=precision))
    return tuple(results)


def _most_of_an_image(predictions: Predictions) -> int:
    """The greatest number of predictions of one image and category; at least 1."""
    pairs = np.stack([predictions.image_ids, predictions.category_ids])
    _, counts = np.unique(pairs, axis=1, return_counts=True)
    return int(counts.max(initial=1))
