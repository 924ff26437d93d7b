"""Region and text embeddings to scores: softmaxes, and the fusion of two sides (ViLD §3.4). Pure.

Where names have a say in boxes (EZSD), to boxes too. Shapes: R regions, C categories, D embedding
width. All softmaxes run in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vildcli.detector.boxes import BOX_CODE_WEIGHTS, decode_boxes
from vildcli.detector.losses import (
    class_logits,
    classifier_logits,
    float32_product,
    objectness_logits,
    word_logits,
)
from vildcli.types import Regions

# Exponent of the text side for base categories; novel ones get 1 minus it.
BASE_TEXT_WEIGHT = 2.0 / 3.0


@dataclass(frozen=True, slots=True)
class Fusion:
    """How the two sides become one score.

    Attributes:
        kind: `text` or `image` is that side alone, `classifier` a closed set's; `ensemble` is
            text^w · image^(1 - w) with w = base_weight for base categories and 1 - base_weight for
            novel ones; `uniform` uses base_weight for all.
        objectness_weight: the score is then taken to 1 minus it, times the objectness to it; 0 in
            ViLD, ½ for CLIP on crops, whose score says little about how a box lies.
    """

    kind: Literal["text", "image", "ensemble", "uniform", "classifier"]
    base_weight: float = BASE_TEXT_WEIGHT
    objectness_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores in 0-1.

    Attributes:
        fused: [R, C]; not renormalised, rows need not add up to 1.
        text: [R, C] softmax with background, background dropped; None where there is no text side.
        image: [R, C] softmax without background; None where there is no image side.
        best: [R] column that the text side finds likeliest, -1 where that is the background; None
            where there is no text side.
    """

    fused: Tensor
    text: Tensor | None
    image: Tensor | None
    best: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ScoringHead:
    """What scoring needs of a model besides the region embeddings.

    Attributes:
        background: [D] learned embedding, or a closed set's weights of it; [2, D] the weights of
            background and object, where Seesaw loss told them apart; None for systems without a
            text side.
        temperature: τ of the text side: logits are cosine / τ.
        image_temperature: τ of the image side.
        free_background: whether the length of the background embedding counts.
        word_boxes: [4, D] what a text embedding adds to a region's box code; None where names have
            no say in boxes.
    """

    background: Tensor | None
    temperature: float
    image_temperature: float
    fusion: Fusion
    free_background: bool = False
    word_boxes: Tensor | None = None


def score_regions(
    text_side: Tensor | None,
    image_side: Tensor | None,
    text_embeddings: Tensor,
    is_base: Tensor,
    head: ScoringHead,
    objectness: Tensor | None = None,
) -> Scores:
    """Score every region against every category.

    Args:
        text_side: [R, D] unit norm, or None; of a closed set [feature; 1].
        image_side: [R, D] unit norm, or None.
        text_embeddings: [C, D] unit norm: everything that takes part in the softmax; of a closed
            set its weights.
        is_base: [C] bool.
        objectness: [R] in 0-1; needed where the fusion gives it weight.
    """
    text = image = best = None
    if text_side is not None and head.fusion.kind != "image":
        shares = _text_shares(text_side, text_embeddings, head)
        text, best = shares[:, 1:], shares.argmax(-1) - 1
    if image_side is not None and head.fusion.kind != "text":
        cosines = float32_product(image_side, text_embeddings)
        image = (cosines / head.image_temperature).softmax(-1)
    fused = fuse(text, image, is_base, head.fusion)
    if weight := head.fusion.objectness_weight:
        assert objectness is not None, "this fusion asks for objectness"
        fused = fused ** (1 - weight) * objectness[:, None] ** weight
    return Scores(fused, text, image, best)


def named_boxes(
    regions: Regions, scores: Scores, text_embeddings: Tensor, head: ScoringHead
) -> Tensor:
    """Final boxes [R, 4] of regions whose names are known, original image frame.

    The box of a region follows the name that its text side finds likeliest among all that were
    scored (EZSD: one box a region, whatever its labels), and is the regions' own where that is the
    background, or where names have no say in boxes.
    """
    if head.word_boxes is None or regions.box_codes is None:
        return regions.boxes
    assert scores.best is not None, "names move boxes by the text side"
    assert regions.size is not None, "box codes go with the size of the image"
    if not len(text_embeddings):
        return regions.boxes
    words = text_embeddings[scores.best.clamp(min=0)]
    codes = regions.box_codes + words @ head.word_boxes.T
    boxes = decode_boxes(codes, regions.proposals, BOX_CODE_WEIGHTS, clamp_shrinking=True)
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([*regions.size] * 2))
    return torch.where(scores.best[:, None] < 0, regions.boxes, boxes)


def free_side(
    text_side: Tensor | None, image_side: Tensor | None, head: ScoringHead
) -> tuple[Tensor, float]:
    """The side that words other than categories are compared with, [R, D], and its τ.

    The image side where there is one: the text side was trained to tell categories apart and has
    no reason to keep what their objects' colours are.
    """
    if image_side is not None:
        return image_side, head.image_temperature
    assert text_side is not None, "neither side is there"
    return text_side, head.temperature


def attribute_scores(side: Tensor, values: Tensor, temperature: float) -> Tensor:
    """Pr(a | e) of one attribute set, [R, A]: a softmax over its values alone, no background.

    With `score_regions` it gives Pr(v, a | e) = Pr(v | e) · Pr(a | e), ViLD's expansion of a
    vocabulary, for C + A text embeddings and scores where C · A names would be needed.

    Args:
        side: [R, D] unit norm, of `free_side`.
        values: [A, D] unit norm.
        temperature: τ of that side.
    """
    return (side.float() @ values.T / temperature).softmax(-1)


def _text_shares(text_side: Tensor, text_embeddings: Tensor, head: ScoringHead) -> Tensor:
    """[R, 1 + C], background first."""
    assert head.background is not None, "a text side is scored with background"
    background, side = head.background.float(), text_side.float()
    if head.fusion.kind == "classifier":
        logits = classifier_logits(side, torch.cat([background[None], text_embeddings]))
    elif background.ndim == 2:
        shares = objectness_logits(side, background).softmax(-1)
        of_objects = word_logits(side, text_embeddings, head.temperature).softmax(-1)
        return torch.cat([shares[:, :1], shares[:, 1:] * of_objects], 1)
    else:
        logits = class_logits(
            side,
            text_embeddings,
            background,
            head.temperature,
            free_background=head.free_background,
        )
    return logits.softmax(-1)


def fuse(text: Tensor | None, image: Tensor | None, is_base: Tensor, fusion: Fusion) -> Tensor:
    """Fuse two sides [R, C] into one score [R, C]; a side that is missing leaves the other."""
    if text is None or image is None:
        only = image if text is None else text
        assert only is not None, "neither side is there"
        return only
    novel_weight = fusion.base_weight if fusion.kind == "uniform" else 1 - fusion.base_weight
    weight = torch.where(is_base, fusion.base_weight, novel_weight).to(text)
    # In logarithms: a float32 softmax underflows to 0, and 0 to a power has no gradient; the floor
    # keeps order.
    tiny = torch.finfo(torch.float32).tiny
    # In place, for each [R, C] that is made anew costs as much as what is computed into it.
    of_text = text.clamp(min=tiny).log_().mul_(weight)
    of_image = image.clamp(min=tiny).log_().mul_(1 - weight)
    return of_text.add_(of_image).exp_()
