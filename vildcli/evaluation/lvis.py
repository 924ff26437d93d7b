"""Average precision on LVIS: federated, over rare, common and frequent categories. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vildcli.errors import DataError
from vildcli.evaluation.engine import AREAS, Curves, Engine
from vildcli.evaluation.predictions import IouType, Predictions, best_of_each
from vildcli.evaluation.result import TITLES, Result, mean_present
from vildcli.vocabulary.category import FREQUENCIES

MAX_DETECTIONS = 300  # an image; LVIS's own
FIXED_DETECTIONS = 10_000  # a category, over the whole data set


def best_of_images(predictions: Predictions, limit: int = MAX_DETECTIONS) -> Predictions:
    """The best-scored of each image over all categories: LVIS looks at nothing else."""
    return predictions.take(best_of_each(predictions.image_ids, predictions.scores, limit))


def best_of_categories(predictions: Predictions, limit: int = FIXED_DETECTIONS) -> Predictions:
    """The best-scored of each category over the data set: what fixed AP looks at."""
    return predictions.take(best_of_each(predictions.category_ids, predictions.scores, limit))


def evaluate_lvis(
    engine: Engine, content: Mapping[str, Any], iou_type: IouType, *, limit: int = MAX_DETECTIONS
) -> Result:
    """Evaluate as the official LVIS evaluation does.

    Args:
        engine: with predictions that `best_of_images` has cut (fixed AP: `best_of_categories`).
        content: JSON value of an LVIS annotation file.
        iou_type: boxes or masks.
        limit: names the recall metrics; no image and category has more predictions.
    """
    curves = engine.lvis(iou_type, limit=limit)
    return Result(
        TITLES[iou_type], iou_type, lvis_metrics(curves, content, limit), curves.categories()
    )


def lvis_metrics(curves: Curves, content: Mapping[str, Any], limit: int) -> dict[str, float]:
    """LVIS's numbers in its own order."""
    precision, recall = curves.precision[..., -1], curves.recall[..., -1]
    areas = tuple(enumerate(AREAS))
    metrics = {
        "AP": mean_present(precision[:, :, :, 0]),
        "AP50": mean_present(precision[0, :, :, 0]),
        "AP75": mean_present(precision[5, :, :, 0]),
    }
    metrics |= {f"AP{name[0]}": mean_present(precision[:, :, :, i]) for i, name in areas[1:]}
    frequencies = {row["id"]: row["frequency"] for row in content["categories"]}
    for frequency in FREQUENCIES:
        columns = [i for i, id_ in enumerate(curves.category_ids) if frequencies[id_] == frequency]
        metrics[f"AP{frequency}"] = mean_present(precision[:, :, columns, 0])
    metrics |= {
        f"AR{name[0] if i else ''}@{limit}": mean_present(recall[:, :, i]) for i, name in areas
    }
    return metrics


def check_lvis(content: Mapping[str, Any], where: str) -> None:
    """Refuse what lacks LVIS's own fields.

    Raises:
        DataError: an image without its two lists, or a category without a frequency.
    """
    hint = "Evaluate a COCO file with --protocol coco."
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if any(key not in row for row in content["images"]):
            raise DataError(f"{where} is not an LVIS file: an image has no '{key}'.", hint=hint)
    if any(row.get("frequency") not in FREQUENCIES for row in content["categories"]):
        raise DataError(f"{where} is not an LVIS file: a category has no frequency.", hint=hint)
