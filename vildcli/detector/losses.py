"""Losses of the second stage with the published reductions (ViLD §3.2-3.3, EZSD). Pure functions.

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

SEESAW_MITIGATION, SEESAW_COMPENSATION = 0.8, 2.0  # p and q, as published
_CACHE_LINE = 16  # float32 numbers
_LEAST_SHARE = 1e-2  # of a region's own category, below which its mistakes weigh no more


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
    embeddings: Tensor,
    text_embeddings: Tensor,
    background: Tensor,
    temperature: float | Tensor,
    *,
    free_background: bool = False,
) -> Tensor:
    """Cosine / τ of regions against [background, categories].

    Args:
        embeddings: [M, D] unit norm.
        text_embeddings: [C, D] unit norm.
        background: [D], learned; normalised here unless it is free.
        free_background: whether its length counts (EZSD).

    Returns:
        [M, 1 + C]; column 0 is the background.
    """
    first = background if free_background else F.normalize(background, dim=-1)
    return float32_product(embeddings, torch.cat([first[None], text_embeddings])) / temperature


def objectness_logits(embeddings: Tensor, background: Tensor) -> Tensor:
    """Logits [M, 2] of background and object, beside the classes of Seesaw loss; τ has no part.

    Args:
        embeddings: [M, D] unit norm.
        background: [2, D], learned.
    """
    return float32_product(embeddings, background)


def word_logits(embeddings: Tensor, text_embeddings: Tensor, temperature: float | Tensor) -> Tensor:
    """Cosine / τ of regions [M, D] against categories [C, D] alone."""
    return float32_product(embeddings, text_embeddings) / temperature


def classifier_logits(features: Tensor, weights: Tensor) -> Tensor:
    """Logits of a linear classifier: features [M, D], weights [1 + C, D] to [M, 1 + C]."""
    return float32_product(features, weights)


def float32_product(rows: Tensor, columns: Tensor) -> Tensor:
    """Rows [M, D] times columns [C, D] to [M, C], whatever the precision around it.

    Where no gradient is asked for, the rows of the result begin at whole cache lines: on a CPU that
    is the same numbers in 0.7 of the time wherever C is odd, as with one background beside 20,000.
    """
    # At τ = 0.01 a bfloat16 cosine would move a logit by 0.4.
    with torch.autocast(rows.device.type, enabled=False):
        rows, columns = rows.float(), columns.float()
        if torch.is_grad_enabled() and (rows.requires_grad or columns.requires_grad):
            return rows @ columns.T
        width = -(-len(columns) // _CACHE_LINE) * _CACHE_LINE
        aligned = rows.new_empty(len(rows), width)[:, : len(columns)]
        return torch.mm(rows, columns.T, out=aligned)


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


def seesaw_loss(
    logits: Tensor,
    objectness: Tensor,
    labels: Tensor,
    is_base: Tensor,
    objects: Tensor,
    *,
    mitigation: float = SEESAW_MITIGATION,
    compensation: float = SEESAW_COMPENSATION,
) -> LossParts:
    """Seesaw loss of the objects, and cross-entropy of object or background, mean over all regions.

    The softmax of an object of category i weighs another category j by
    min(1, N_j / N_i)^p · max(1, σ_j / σ_i)^q: what is rare is punished less for the mistakes of
    what is frequent, and more where it is taken for it (Wang et al., CVPR 2021).

    Args:
        logits: [M, C].
        objectness: [M, 2], background first.
        labels: [M]; 0 is background, category column c is c + 1.
        is_base: [C] bool; the others are left out of the softmax.
        objects: [C] N, how many of each category training shows; below 1 counts as 1.
        mitigation: p; compensation: q.
    """
    is_object = labels > 0
    binary = F.cross_entropy(objectness, is_object.long(), reduction="none")
    logits, own = logits[is_object].masked_fill(~is_base, float("-inf")), labels[is_object] - 1
    counts = objects.clamp(min=1)
    fewer = (counts[None] / counts[own, None]).clamp(max=1)
    shares = logits.detach().softmax(-1)
    of_own = shares.gather(1, own[:, None]).clamp(min=_LEAST_SHARE)
    surer = (shares / of_own).clamp(min=1)
    weights = mitigation * fewer.log() + compensation * surer.log()
    weights = weights.scatter(1, own[:, None], 0.0)
    classes = F.cross_entropy(logits + weights, own, reduction="none")
    count = binary.new_tensor([len(labels)], dtype=torch.float32)
    return LossParts((binary.sum() + classes.sum())[None], count)


def distillation_loss(
    embeddings: Tensor,
    targets: Tensor,
    valid: Tensor,
    kind: Literal["l1", "l2"] = "l1",
    weights: Tensor | None = None,
) -> LossParts:
    """Mean over the valid regions of the distance to the teacher's embedding (ViLD eq. 4).

    Args:
        embeddings: [V, D] unit norm, the student's.
        targets: [V, D] the teacher's; re-normalised here, so stored ones need not be.
        valid: [V] bool; zero-area and padding regions are False.
        kind: `l1` is the sum over D of |difference|; `l2` the sum of its square.
        weights: [V] of `region_weights`; None counts all alike.
    """
    difference = embeddings - F.normalize(targets.float(), dim=-1)
    distance = difference.abs().sum(-1) if kind == "l1" else difference.square().sum(-1)
    counted = valid if weights is None else valid * weights
    return LossParts((distance * counted).sum()[None], valid.sum()[None].float())


def region_weights(weights: Tensor | None, valid: Tensor) -> Tensor:
    """What each region of one image counts, [V], mean 1 over the valid ones (EZSD).

    Args:
        weights: [V] in 0-1, such as the teacher's confidence; None: all alike.
        valid: [V] bool.
    """
    if weights is None:
        return valid.float()
    kept = weights.float() * valid
    return kept * valid.sum() / kept.sum().clamp(min=torch.finfo(torch.float32).tiny)


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
