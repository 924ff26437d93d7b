"""The boxes that a teacher chooses among: EZSD's grid of anchors, and how sure it is of each.

    objectness = log C − H(softmax(cos / τ))    0: all C names alike; log C: one of them

Stride, sides and ratios are those of an image that was resized to fit 800 x 1333, as detectors are
trained; 1344 x 800 gives 15,750 anchors. Here they are brought back to the image as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

STRIDE = 32
SIDES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)  # height / width, of one area
SHORT_SIDE, LONG_SIDE = 800, 1333


def frame_scale(height: int, width: int) -> float:
    """What an image is resized by to fit 800 x 1333."""
    return min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))


def make_anchors(height: int, width: int, stride: int = STRIDE) -> Tensor:
    """The anchors of an image of that many pixels, cell by cell, by side, then by ratio.

    Returns:
        [A, 4] original image frame, clipped to it; each has area.
    """
    scale = frame_scale(height, width)
    rows, columns = (math.ceil(max(1, round(side * scale)) / stride) for side in (height, width))
    y = (torch.arange(rows) + 0.5) * stride
    x = (torch.arange(columns) + 0.5) * stride
    centres = torch.cartesian_prod(y, x).flip(1)  # [cells, 2] x y
    sides = torch.tensor(SIDES, dtype=torch.float32)
    ratios = torch.tensor(RATIOS).sqrt()
    half = torch.stack([sides[:, None] / ratios, sides[:, None] * ratios], -1).reshape(-1, 2) / 2
    corners = torch.cat([centres[:, None] - half, centres[:, None] + half], -1).reshape(-1, 4)
    boxes = clip_boxes_to_image(corners / scale, (height, width))
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a cell may begin on the image's last pixels
    found: Tensor = boxes[has_area]
    return found


@dataclass(frozen=True, slots=True)
class Certainty:
    """What a teacher makes of regions.

    Attributes:
        objectness: [R] in 0 to log C, negative entropy shifted.
        confidence: [R] in 0-1, the greatest probability.
        best: [R] int64, the name that has it.
    """

    objectness: Tensor
    confidence: Tensor
    best: Tensor


def certainty(embeddings: Tensor, texts: Tensor, temperature: float) -> Certainty:
    """How sure the teacher is of what it sees.

    Args:
        embeddings: [R, D] unit norm; texts: [C, D] unit norm.
        temperature: τ.
    """
    logs = (embeddings.float() @ texts.T / temperature).log_softmax(1)
    probabilities = logs.exp()
    entropy = -(probabilities * logs).sum(1)
    confidence, best = probabilities.max(1)
    return Certainty((math.log(len(texts)) - entropy).clamp(min=0), confidence, best)
