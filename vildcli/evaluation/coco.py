"""COCO's average precision and recall: the 12 numbers, for boxes or masks. No torch."""

from __future__ import annotations

from vildcli.evaluation.engine import AREAS, Curves, Engine
from vildcli.evaluation.predictions import IouType
from vildcli.evaluation.result import TITLES, Result, mean_present

LIMITS = (1, 10, 100)  # detections an image and category


def evaluate_coco(engine: Engine, iou_type: IouType) -> Result:
    """Evaluate as `pycocotools` does, at most 100 detections an image and category."""
    curves = engine.coco(iou_type, limits=LIMITS)
    return Result(TITLES[iou_type], iou_type, coco_metrics(curves), curves.categories())


def coco_metrics(curves: Curves) -> dict[str, float]:
    """COCO's numbers in its own order."""
    precision, recall = curves.precision, curves.recall
    metrics = {
        "AP": mean_present(precision[:, :, :, 0, -1]),
        "AP50": mean_present(precision[0, :, :, 0, -1]),
        "AP75": mean_present(precision[5, :, :, 0, -1]),
    }
    areas = tuple(enumerate(AREAS))[1:]
    metrics |= {f"AP{name[0]}": mean_present(precision[:, :, :, i, -1]) for i, name in areas}
    metrics |= {f"AR@{n}": mean_present(recall[:, :, 0, i]) for i, n in enumerate(LIMITS)}
    most = LIMITS[-1]
    metrics |= {f"AR{name[0]}@{most}": mean_present(recall[:, :, i, -1]) for i, name in areas}
    return metrics
