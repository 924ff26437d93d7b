"""A model's predictions on an annotation set, by the publication's policy.

Per-category NMS 0.5, no threshold, 300 detections an image, scored among the annotation set's own
categories: unlike labelling, which gives a region one name and scores it in a context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage, AnnotationSet
from vildcli.detector.postprocess import top_detections
from vildcli.detector.scoring import ScoringHead, score_regions
from vildcli.labelling.masks import mask_to_rle
from vildcli.text.context import ScoringBank
from vildcli.types import Regions

Prediction = dict[str, Any]  # COCO's result: image_id, category_id, bbox, score, segmentation


@dataclass(frozen=True, slots=True)
class Scorer:
    """One way to score an image's regions: an embedding bank and a model's scoring head."""

    bank: ScoringBank
    head: ScoringHead

    def scores(self, regions: Regions) -> Tensor:
        """[R, C] in 0-1."""
        bank = self.bank
        fused = score_regions(
            regions.text_side, regions.image_side, bank.text_embeddings, bank.is_base, self.head
        ).fused
        return fused[:, : len(bank.category_ids)]


def predict(
    detector: Callable[[Tensor], Regions],
    scorers: Mapping[str, Scorer],
    annotations: AnnotationSet,
    images: Path,
    *,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, list[Prediction]]:
    """Predict every image once and score its regions in several ways.

    Args:
        detector: image [3, H, W] uint8 to its regions.
        scorers: by name; all read the same regions.

    Returns:
        COCO results by scorer.
    """
    results: dict[str, list[Prediction]] = {name: [] for name in scorers}
    for info in annotations.images:
        pixels = torch.from_numpy(read_image(images / info.file_name).pixels)
        regions = detector(pixels.permute(2, 0, 1))
        masks: dict[int, dict[str, Any]] = {}
        for name, scorer in scorers.items():
            results[name] += _detections(info, regions, scorer, masks)
        advance()
    return results


def _detections(
    info: AnnotatedImage, regions: Regions, scorer: Scorer, masks: dict[int, dict[str, Any]]
) -> Iterator[Prediction]:
    """The best 300 of an image; `masks` remembers pasted regions, which several names share."""
    scores = scorer.scores(regions)
    rows, columns = top_detections(regions.boxes, scores)
    ids = scorer.bank.category_ids[columns].tolist()
    best = scores[rows, columns].tolist()
    for row, category_id, score in zip(rows.tolist(), ids, best, strict=True):
        x1, y1, x2, y2 = regions.boxes[row].tolist()
        if row not in masks:
            masks[row] = mask_to_rle(
                regions.masks[row].numpy(), (x1, y1, x2, y2), info.height, info.width
            )
        yield {
            "image_id": info.id,
            "category_id": category_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            "segmentation": masks[row],
        }
