"""Simple Copy-Paste (Ghiasi et al., 2021): objects of one training image on top of another.

Off in every published row. The rules are those of the released code but for its blurred edges
(without them the paper does about as well) and its test of "covered", which asked about all
objects of an image together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_COVERED = 0.1  # share of a distillation region: beyond it, the teacher saw something else
# An object of whose box a side moves by more pixels than this, and of which no more pixels than
# this are left, counts as covered.
_MOVED, _LEFT = 10, 300


@dataclass(frozen=True, slots=True)
class Views:
    """Aligned views of one image; everything in canvas pixels.

    Attributes:
        image: [3, S, S] uint8.
        boxes: [N, 4] of the objects.
        labels: [N] int64.
        masks: [N, S, S] bool.
        regions: [V, 4] distillation boxes.
        valid: [V] bool; False where a region no longer shows what the teacher saw.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor
    regions: Tensor
    valid: Tensor


def copy_paste(views: Views, donor: Views, generator: torch.Generator) -> Views:
    """Paste a random number, none to all, of the donor's visible objects onto an image.

    Masks lose what is covered; boxes that lost something are drawn anew around what is left;
    covered objects go. Distillation regions that the paste covers by more than a tenth become
    invalid.

    Args:
        donor: of the same canvas size, jittered on its own; its regions are not used.
    """
    seen = torch.nonzero(donor.masks.flatten(1).any(1))[:, 0]
    count = int(torch.randint(len(seen) + 1, (), generator=generator))
    chosen = seen[torch.randperm(len(seen), generator=generator)[:count]]
    pasted = donor.masks[chosen].any(0)
    masks = views.masks & ~pasted
    touched = (views.masks & pasted).flatten(1).any(1)
    boxes = torch.where(touched[:, None], boxes_around(masks), views.boxes)
    left = masks.flatten(1).sum(1)
    moved = (boxes - views.boxes).abs().amax(1) > _MOVED
    kept = ~touched | ((left > 0) & ~(moved & (left <= _LEFT)))
    return Views(
        image=torch.where(pasted, donor.image, views.image),
        boxes=torch.cat([boxes[kept], donor.boxes[chosen]]),
        labels=torch.cat([views.labels[kept], donor.labels[chosen]]),
        masks=torch.cat([masks[kept], donor.masks[chosen]]),
        regions=views.regions,
        valid=views.valid & (covered_shares(views.regions, pasted) <= MAX_COVERED),
    )


def boxes_around(masks: Tensor) -> Tensor:
    """[N, S, S] bool to [N, 4] float32: the pixels' outer edges; of an empty mask the canvas."""
    edges = []
    for axis in (1, 2):
        set_ = masks.any(axis)  # [N, S], columns first
        edges.append((set_.int().argmax(1), set_.shape[1] - set_.flip(1).int().argmax(1)))
    (x1, x2), (y1, y2) = edges
    return torch.stack([x1, y1, x2, y2], 1).float()


def covered_shares(boxes: Tensor, mask: Tensor) -> Tensor:
    """[V] share of each box's pixels, rounded to whole ones, that the mask [S, S] holds."""
    sums = torch.nn.functional.pad(mask.int().cumsum(0).cumsum(1), (1, 0, 1, 0))
    x1, y1, x2, y2 = boxes.round().long().unbind(1)
    held = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    return held / ((x2 - x1) * (y2 - y1)).clamp(min=1)
