"""Box arithmetic: coding against anchors or proposals, matching. Boxes are x1 y1 x2 y2, pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

RPN_CODE_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
BOX_CODE_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# A box grows at most by this factor, so that exp cannot overflow.
MAX_LOG_SCALE = math.log(1000.0 / 16)


def _centre_form(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def encode_boxes(boxes: Tensor, references: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Code boxes [N, 4] relative to references [N, 4]; returns deltas [N, 4] (dx dy dw dh)."""
    centres, sizes = _centre_form(boxes)
    reference_centres, reference_sizes = _centre_form(references)
    reference_sizes = reference_sizes.clamp(min=1e-3)
    shift = (centres - reference_centres) / reference_sizes
    scale = torch.log(sizes.clamp(min=1e-3) / reference_sizes)
    return torch.cat([shift, scale], -1) * boxes.new_tensor(weights)


def decode_boxes(
    deltas: Tensor,
    references: Tensor,
    weights: tuple[float, ...],
    *,
    clamp_shrinking: bool = False,
) -> Tensor:
    """Undo `encode_boxes`: deltas [..., 4] and references [..., 4] to boxes [..., 4].

    Args:
        clamp_shrinking: bound how far a box shrinks as well.
    """
    deltas = deltas / deltas.new_tensor(weights)
    centres, sizes = _centre_form(references)
    centres = centres + deltas[..., :2] * sizes
    least = -MAX_LOG_SCALE if clamp_shrinking else None
    sizes = sizes * torch.exp(deltas[..., 2:].clamp(least, MAX_LOG_SCALE))
    return torch.cat([centres - sizes / 2, centres + sizes / 2], -1)


def match_boxes(candidates: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Best ground-truth box of each candidate.

    Args:
        candidates: [M, 4].
        truth: [N, 4]; may be empty.

    Returns:
        IoU [M] with the best truth (0 where there is none) and its row [M].
    """
    if len(truth) == 0:
        zeros = candidates.new_zeros(len(candidates))
        return zeros, zeros.long()
    iou, row = box_iou(candidates, truth).max(1)
    return iou, row
