"""Zero-shot COCO: novel and base categories apart, all names competing (48/17 and 65/15). No torch.

The groups are those of Bansal et al. and OVR-CNN (48 base, 17 novel) and of Rahman et al. (65 seen,
15 unseen).
"""

from __future__ import annotations

from collections.abc import Mapping

from vildcli.evaluation.coco import LIMITS, evaluate_coco
from vildcli.evaluation.engine import Engine
from vildcli.evaluation.predictions import Predictions, best_of_each
from vildcli.evaluation.result import Result

RECALL_LIMIT = LIMITS[-1]  # detections an image over all names


def evaluate_split(
    content: Mapping[str, object], predictions: Predictions, groups: Mapping[str, frozenset[int]]
) -> Result:
    """Box AP50 and Recall@100 at IoU 0.5, averaged over the categories of each group and of all.

    AP is COCO's, at most 100 detections an image and category. Recall@100 takes the best 100 of an
    image over all names, so that novel names compete with base ones for a place.

    Args:
        content: JSON value of the truth, cut down to the names and images of the protocol.
        predictions: over all those names.
        groups: category ids by the name of their group.
    """
    found = evaluate_coco(Engine(content, predictions), "bbox")
    kept = best_of_each(predictions.image_ids, predictions.scores, RECALL_LIMIT)
    recalled = evaluate_coco(Engine(content, predictions.take(kept)), "bbox")
    every = {**groups, "all": frozenset().union(*groups.values())}
    metrics = {f"{name} AP50": found.mean_ap50(ids) for name, ids in every.items()}
    metrics |= {
        f"{name} Recall@{RECALL_LIMIT}": recalled.mean_recall50(ids) for name, ids in every.items()
    }
    return Result("Box AP50", "bbox", metrics, found.categories)
