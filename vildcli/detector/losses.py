"""Losses of the second stage with the published reductions (ViLD §3.2-3.3). Pure functions.

Each gives `LossParts`, a sum and what it is to be divided by: processes that share a batch divide
by what all of them counted together.

Shapes: M sampled regions of the batch, V distillation regions, C categories, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossParts:
    """A loss before its division: Σₖ sums[k] / counts[k], where a part that counted nothing is 0.

    Attributes:
        sums: [k] differentiable.
        counts: [k] float32, how many values each sum is over.
    """

    sums: Tensor
    counts: Tensor

    def mean(self) -> Tensor:
        """The loss of this batch alone."""
        return self.divided_by(self.counts.clamp(min=1))

    def divided_by(self, divisors: Tensor) -> Tensor:
        return (self.sums / divisors).sum()


def _parts(values: Tensor) -> LossParts:
    """Mean of all values; of none, 0 that still reaches their parameters."""
    return LossParts(values.sum()[None], values.new_tensor([values.numel()], dtype=torch.float32))


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
    return _float32_product(embeddings, columns) / temperature


def classifier_logits(features: Tensor, weights: Tensor) -> Tensor:
    """Logits of a linear classifier: features [M, D], weights [1 + C, D] to [M, 1 + C]."""
    return _float32_product(features, weights)


def _float32_product(rows: Tensor, columns: Tensor) -> Tensor:
    # At τ = 0.01 a bfloat16 cosine would move a logit by 0.4.
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float() @ columns.float().T


def text_loss(
    logits: Tensor,
    labels: Tensor,
    is_base: Tensor,
    novel_logits: Literal["zero", "masked"] = "zero",
) -> LossParts:
    """Softmax cross-entropy over background + all categories, mean over the regions (ViLD eq. 3).

    Args:
        logits: [M, 1 + C].
        labels: [M]; 0 is background, category column c is c + 1.
        is_base: [C] bool; the others have no annotations.
        novel_logits: `zero` multiplies novel logits by 0, so they stay in the softmax (as
            released); `masked` takes them out.
    """
    keep = F.pad(is_base, (1, 0), value=True)
    fill = 0.0 if novel_logits == "zero" else float("-inf")
    return _parts(F.cross_entropy(logits.masked_fill(~keep, fill), labels, reduction="none"))


def distillation_loss(
    embeddings: Tensor, targets: Tensor, valid: Tensor, kind: Literal["l1", "l2"] = "l1"
) -> LossParts:
    """Mean over the valid regions of the distance to the teacher's embedding (ViLD eq. 4).

    Args:
        embeddings: [V, D] unit norm, the student's.
        targets: [V, D] the teacher's; re-normalised here, so stored ones need not be.
        valid: [V] bool; zero-area and padding regions are False.
        kind: `l1` is the sum over D of |difference|; `l2` the sum of its square.
    """
    difference = embeddings - F.normalize(targets.float(), dim=-1)
    distance = difference.abs().sum(-1) if kind == "l1" else difference.square().sum(-1)
    return LossParts((distance * valid).sum()[None], valid.sum()[None].float())


def box_loss(codes: Tensor, targets: Tensor) -> LossParts:
    """Huber (delta 1), mean over the coordinates of the positive regions.

    Args:
        codes: [P, 4] of the positive regions.
        targets: [P, 4] codes of their ground truth.
    """
    return _parts(F.huber_loss(codes, targets, reduction="none"))


def mask_loss(logits: Tensor, targets: Tensor) -> LossParts:
    """Sigmoid cross-entropy, mean over the pixels of the positive regions.

    Args:
        logits: [P, 28, 28].
        targets: [P, 28, 28] in {0, 1}, float.
    """
    return _parts(F.binary_cross_entropy_with_logits(logits, targets, reduction="none"))
