"""Which regions the second stage is trained on: 25% foreground, ground truth appended."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vildcli.detector.boxes import match_boxes
from vildcli.detector.proposals import draw
from vildcli.types import Target

FOREGROUND_IOU = 0.5  # foreground is strictly above


@dataclass(frozen=True, slots=True)
class SampledRegions:
    """Training regions of one image, canvas pixels.

    Attributes:
        boxes: [M, 4].
        labels: [M]; 0 is background, category column c is c + 1.
        truth: [M] row of the matched ground truth; meaningless for background.
    """

    boxes: Tensor
    labels: Tensor
    truth: Tensor

    @property
    def foreground(self) -> Tensor:
        """[M] bool."""
        return self.labels > 0


@torch.no_grad()
def sample_regions(
    proposals: Tensor,
    target: Target,
    *,
    count: int,
    foreground_share: float = 0.25,
    generator: torch.Generator | None = None,
) -> SampledRegions:
    """Draw `count` regions of an image, at most a share of them foreground."""
    candidates = torch.cat([proposals, target.boxes])
    iou, truth = match_boxes(candidates, target.boxes)
    foreground = draw(
        torch.where(iou > FOREGROUND_IOU)[0], int(count * foreground_share), generator
    )
    background = torch.where(iou <= FOREGROUND_IOU)[0]
    background = draw(background, count - len(foreground), generator)
    rows = torch.cat([foreground, background])
    labels = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    labels[: len(foreground)] = target.labels[truth[foreground]] + 1
    return SampledRegions(candidates[rows], labels, truth[rows])
