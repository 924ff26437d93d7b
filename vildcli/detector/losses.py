"""Losses of the second stage with the published reductions (ViLD §3.2-3.3). Pure functions.

Shapes: M sampled regions of the batch, V distillation regions, C categories, D embedding width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def class_logits(
    embeddings: Tensor, text_embeddings: Tensor, background: Tensor, temperature: float
) -> Tensor:
    """Cosine / τ of regions against [background, categories].

    Args:
        embeddings: [M, D] unit norm.
        text_embeddings: [C, D] unit norm.
        background: [D], learned; normalised here.

    Returns:
        [M, 1 + C]; column 0 is the background.
    """
    columns = torch.cat([F.normalize(background, dim=-1)[None], text_embeddings])
    return embeddings @ columns.T / temperature


def text_loss(
    logits: Tensor,
    labels: Tensor,
    is_base: Tensor,
    novel_logits: Literal["zero", "masked"] = "zero",
) -> Tensor:
    """Softmax cross-entropy over background + all categories, mean over the regions (ViLD eq. 3).

    0 where there are no regions.

    Args:
        logits: [M, 1 + C].
        labels: [M]; 0 is background, category column c is c + 1.
        is_base: [C] bool; the others have no annotations.
        novel_logits: `zero` multiplies novel logits by 0, so they stay in the softmax (as
            released); `masked` takes them out.
    """
    if not len(labels):
        return logits.sum()
    keep = F.pad(is_base, (1, 0), value=True)
    fill = 0.0 if novel_logits == "zero" else float("-inf")
    return F.cross_entropy(logits.masked_fill(~keep, fill), labels)


def distillation_loss(
    embeddings: Tensor, targets: Tensor, valid: Tensor, kind: Literal["l1", "l2"] = "l1"
) -> Tensor:
    """Mean over the valid regions of the distance to the teacher's embedding (ViLD eq. 4).

    Args:
        embeddings: [V, D] unit norm, the student's.
        targets: [V, D] the teacher's; re-normalised here, so stored ones need not be.
        valid: [V] bool; zero-area and padding regions are False.
        kind: `l1` is the sum over D of |difference|; `l2` the sum of its square.
    """
    difference = embeddings - F.normalize(targets.float(), dim=-1)
    distance = difference.abs().sum(-1) if kind == "l1" else difference.square().sum(-1)
    return (distance * valid).sum() / valid.sum().clamp(min=1)


def box_loss(codes: Tensor, targets: Tensor) -> Tensor:
    """Huber (delta 1), mean over the coordinates of the positive regions; 0 where there are none.

    Args:
        codes: [P, 4] of the positive regions.
        targets: [P, 4] codes of their ground truth.
    """
    return F.huber_loss(codes, targets) if len(codes) else codes.sum()


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid cross-entropy, mean over the pixels of the positive regions; 0 where there are none.

    Args:
        logits: [P, 28, 28].
        targets: [P, 28, 28] in {0, 1}, float.
    """
    if not len(logits):
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, targets)
