"""Region proposals: class-agnostic anchors, objectness, boxes.

pyramid ─head─▶ objectness logits, deltas of every anchor ─select─▶ proposals [R, 4], objectness [R]
                                                          └─losses (training)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from vildcli.detector.architecture import Architecture
from vildcli.detector.backbone import batch_norm
from vildcli.detector.boxes import RPN_CODE_WEIGHTS, decode_boxes, encode_boxes, match_boxes
from vildcli.detector.losses import LossParts

POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3
NMS_IOU = 0.7
SAMPLED_ANCHORS, POSITIVE_SHARE = 256, 0.5
HUBER_DELTA = 1.0 / 9


@dataclass(frozen=True, slots=True)
class AnchorPredictions:
    """What the head says of every anchor of a batch, levels concatenated, finest first.

    Attributes:
        logits: [B, A] objectness logits.
        deltas: [B, A, 4] box codes relative to `anchors`.
        anchors: [A, 4] in pixels of the canvas.
        level_sizes: anchors of each level; they add up to A.
        clamp_shrinking, min_side: how codes become proposals, see `Architecture`.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    level_sizes: tuple[int, ...]
    clamp_shrinking: bool = False
    min_side: float = 0.0


class ProposalHead(nn.Module):
    """Convolutions shared by the levels, their batch norms not (one per level and convolution)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, depth = architecture.channels, architecture.rpn_convs
        ratios = len(architecture.anchor_ratios)
        self.architecture = architecture
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(depth))
        is_normed = "rpn" in architecture.norms
        self.norms = nn.ModuleList(
            nn.ModuleList(
                batch_norm(width, architecture) if is_normed else nn.Identity()
                for _ in range(depth)
            )
            for _ in architecture.levels
        )
        self.objectness = nn.Conv2d(width, ratios, 1)
        self.deltas = nn.Conv2d(width, ratios * 4, 1)
        for convolution in (*self.convs, self.objectness, self.deltas):
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)

    def forward(self, pyramid: list[Tensor]) -> AnchorPredictions:
        logits, deltas, anchors = [], [], []
        for level, norms, features in zip(
            self.architecture.levels, self.norms, pyramid, strict=True
        ):
            x = features
            for convolution, norm in zip(self.convs, norms, strict=True):  # type: ignore[call-overload]  # a ModuleList
                x = F.relu(norm(convolution(x)))
            batch = len(x)
            logits.append(self.objectness(x).permute(0, 2, 3, 1).reshape(batch, -1))
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(batch, -1, 4))
            anchors.append(level_anchors(self.architecture, level, x))
        sizes = tuple(len(a) for a in anchors)
        return AnchorPredictions(
            torch.cat(logits, 1).float(),
            torch.cat(deltas, 1).float(),
            torch.cat(anchors),
            sizes,
            self.architecture.clamp_shrinking,
            self.architecture.min_proposal_side,
        )


def level_anchors(architecture: Architecture, level: int, features: Tensor) -> Tensor:
    """Anchors of one level [h * w * ratios, 4], one place in each cell, in pixels of the canvas."""
    stride = 2**level
    rows, columns = features.shape[-2:]
    ratios = features.new_tensor(architecture.anchor_ratios, dtype=torch.float32)
    side = architecture.anchor_scale * stride
    half = torch.stack([side / ratios.sqrt(), side * ratios.sqrt()], -1) / 2
    place, device = architecture.anchor_offset, features.device
    ys = (torch.arange(rows, device=device, dtype=torch.float32) + place) * stride
    xs = (torch.arange(columns, device=device, dtype=torch.float32) + place) * stride
    centres = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1).reshape(-1, 1, 2)
    return torch.cat([centres - half, centres + half], -1).reshape(-1, 4)


@torch.no_grad()
def select_proposals(
    predictions: AnchorPredictions,
    sizes: list[tuple[int, int]],
    *,
    per_level: int,
    total: int,
) -> list[tuple[Tensor, Tensor]]:
    """The best proposals of each image: `per_level` of a level, NMS 0.7, `total` of all levels.

    Args:
        sizes: (height, width) of each image's content on its canvas; proposals are clipped to it.

    Returns:
        For each image proposals [R, 4] in canvas pixels and objectness [R] in 0-1, descending.
    """
    chosen = []
    levels = torch.repeat_interleave(
        torch.arange(len(predictions.level_sizes)), torch.tensor(predictions.level_sizes)
    ).to(predictions.logits.device)
    for logits, deltas, size in zip(predictions.logits, predictions.deltas, sizes, strict=True):
        kept = _top_per_level(logits, predictions.level_sizes, per_level)
        boxes = decode_boxes(
            deltas[kept],
            predictions.anchors[kept],
            RPN_CODE_WEIGHTS,
            clamp_shrinking=predictions.clamp_shrinking,
        )
        boxes = clip_boxes_to_image(boxes, size)
        scores = logits[kept].sigmoid()
        sides = (boxes[:, 2:] - boxes[:, :2]).min(1).values
        solid = (sides > 0) & (sides >= predictions.min_side)
        boxes, scores, level = boxes[solid], scores[solid], levels[kept][solid]
        best = batched_nms(boxes, scores, level, NMS_IOU)[:total]
        chosen.append((boxes[best], scores[best]))
    return chosen


def _top_per_level(logits: Tensor, level_sizes: tuple[int, ...], count: int) -> Tensor:
    rows, start = [], 0
    for size in level_sizes:
        rows.append(start + logits[start : start + size].topk(min(count, size)).indices)
        start += size
    return torch.cat(rows)


def proposal_losses(
    predictions: AnchorPredictions,
    truths: list[Tensor],
    generators: Sequence[torch.Generator | None],
) -> tuple[LossParts, LossParts]:
    """Objectness and box losses with the published reductions.

    Objectness: sigmoid cross-entropy summed over the sampled anchors / (B x 256). Boxes: Huber
    (delta 1/9), mean over the target coordinates of each level's positives, levels summed.

    Args:
        truths: ground-truth boxes [N, 4] of each image, canvas pixels.
        generators: of each image's sampling.
    """
    anchors = predictions.anchors
    scores, positives, targets = [], [], []
    for logits, truth, generator in zip(predictions.logits, truths, generators, strict=True):
        positive, negative, matched = sample_anchors(anchors, truth, generator)
        rows = torch.cat([positive, negative])
        wanted = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).float()
        scores.append(F.binary_cross_entropy_with_logits(logits[rows], wanted, reduction="sum"))
        positives.append(positive)
        targets.append(encode_boxes(truth[matched], anchors[positive], RPN_CODE_WEIGHTS))
    summed = torch.stack(scores).sum()[None]
    divisor = summed.new_tensor([len(truths) * SAMPLED_ANCHORS])
    return LossParts(summed, divisor), _box_loss(predictions, positives, targets)


def _box_loss(
    predictions: AnchorPredictions, positives: list[Tensor], targets: list[Tensor]
) -> LossParts:
    """One part a level."""
    found = torch.cat([d[p] for d, p in zip(predictions.deltas, positives, strict=True)])
    distances = F.huber_loss(found, torch.cat(targets), delta=HUBER_DELTA, reduction="none")
    levels = torch.arange(len(predictions.level_sizes), device=found.device)
    of_anchor = torch.repeat_interleave(
        levels, torch.tensor(predictions.level_sizes, device=found.device)
    )
    of_level = (of_anchor[torch.cat(positives)] == levels[:, None]).float()
    return LossParts(of_level @ distances.sum(-1), 4 * of_level.sum(-1))


@torch.no_grad()
def sample_anchors(
    anchors: Tensor, truth: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw 256 anchors of an image, up to half of them positive.

    Positive: IoU >= 0.7, or the best anchor of a ground-truth box. Negative: IoU < 0.3.

    Returns:
        Rows of positives, rows of negatives, and the ground-truth row of each positive.
    """
    iou, matched = match_boxes(anchors, truth)
    is_positive = iou >= POSITIVE_IOU
    if len(truth):
        ious = box_iou(truth, anchors)
        best = ious.max(1, keepdim=True).values.clamp(min=1e-6)
        which, anchor = torch.where(ious == best)
        is_positive[anchor] = True
        matched[anchor] = which
    positive = draw(torch.where(is_positive)[0], int(SAMPLED_ANCHORS * POSITIVE_SHARE), generator)
    negative = torch.where((iou < NEGATIVE_IOU) & ~is_positive)[0]
    negative = draw(negative, SAMPLED_ANCHORS - len(positive), generator)
    return positive, negative, matched[positive]


def draw(rows: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """At most `count` of `rows`, uniformly, without replacement."""
    if len(rows) <= count:
        return rows
    order = torch.randperm(len(rows), generator=generator)[:count].to(rows.device)
    return rows[order]
