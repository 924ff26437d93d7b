"""The loss of one image by a detector's last layers: what ISAL takes the gradient of.

    image ─backbone, proposals─▶ all regions ─last layers─▶ L = L_rpn + L_class + L_box

Boxes are pseudo boxes, or true ones of the reference set. Every region counts, none is drawn; the
class loss is over background and the whole vocabulary, novel names too, since it is theirs that
reviewing is for. No mask loss, no distillation. All normalisers are this image's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vildcli.detector.boxes import (
    BOX_CODE_WEIGHTS,
    RPN_CODE_WEIGHTS,
    encode_boxes,
    match_boxes,
)
from vildcli.detector.detector import Detector
from vildcli.detector.losses import box_loss, class_logits, classifier_logits
from vildcli.detector.proposals import (
    HUBER_DELTA,
    SAMPLED_ANCHORS,
    AnchorPredictions,
    proposal_losses,
    sample_anchors,
    select_proposals,
)
from vildcli.detector.sampling import FOREGROUND_IOU
from vildcli.errors import ModelError
from vildcli.selection.last_layers import HeadPass, LayerPass, cut_at

PROPOSALS = 1000  # of a level, before suppression, as in detect


@dataclass(frozen=True, slots=True)
class KnownBoxes:
    """What is taken for true in one image.

    Attributes:
        boxes: [N, 4] x1 y1 x2 y2, pixels of the upright original image.
        columns: [N] category columns 0..C-1 of the text embeddings, int64.
    """

    boxes: Tensor
    columns: Tensor


@dataclass(frozen=True, slots=True)
class DetectorLoss:
    """A detector, its words, and how many regions of an image count.

    Attributes:
        text_embeddings: [C, D] unit norm, of the run's vocabulary; of a closed set its weights, all
            of them.
        temperature: τ, learned or the text encoder's; 1 in a closed set.
    """

    detector: Detector
    text_embeddings: Tensor
    temperature: float
    regions: int

    def __post_init__(self) -> None:
        self.detector.eval().requires_grad_(False)  # no graph but that of the last layers

    def __call__(self, image: Tensor, known: KnownBoxes, seed: int) -> HeadPass:
        """One image through the detector.

        Args:
            image: [3, H, W] uint8 RGB, upright.
            seed: of the anchors that the proposal loss draws.
        """
        detector = self.detector
        canvas = detector.canvas(image)
        boxes = canvas.from_original(known.boxes.to(detector.device))
        columns = known.columns.to(detector.device)
        with cut_at(last_layers(detector)) as passes:
            pyramid = detector.backbone(canvas.pixels[None])
            predictions = detector.proposal_head(pyramid)
            [(proposals, _)] = select_proposals(
                predictions,
                [canvas.content],
                per_level=max(PROPOSALS, self.regions),
                total=self.regions,
            )
            regions = _Regions.matched(torch.cat([proposals, boxes]), boxes, columns)
            pooled = detector.box_pool(pyramid, [regions.boxes])
            features, embeddings = detector.head(pooled)
            codes = detector.boxes(features[regions.foreground])
            if detector.word_boxes is not None:  # of the category that is taken for true
                words = self.text_embeddings.to(detector.device)
                named = regions.labels[regions.foreground] - 1
                codes = codes + detector.word_boxes(words[named])
        logits = self._logits(embeddings, passes)
        first = proposal_losses(predictions, [boxes], [_generator(seed)])
        wanted = encode_boxes(
            regions.truth[regions.foreground],
            regions.boxes[regions.foreground],
            BOX_CODE_WEIGHTS,
        )
        loss = (
            sum(part.mean() for part in first)
            + F.cross_entropy(logits, regions.labels)
            + box_loss(codes.float(), wanted).mean()
        )

        def draw(generator: torch.Generator) -> Tensor:
            return (
                _draw_proposals(predictions, boxes, seed, generator)
                + draw_classes(logits, generator)
                + draw_codes(codes.float(), wanted, wanted.numel(), 1.0, generator)
            )

        return HeadPass(passes, loss, draw)

    def _logits(self, embeddings: Tensor, passes: list[LayerPass]) -> Tensor:
        """[M, 1 + C], background first."""
        detector, words = self.detector, self.text_embeddings.to(self.detector.device)
        if detector.classifier is None:
            assert detector.background is not None, "refused by refuse_unknown"
            return class_logits(
                embeddings,
                words,
                detector.background,
                self.temperature,
                free_background=detector.system.free_background,
            )
        rows = torch.cat([detector.classifier_rows()[:1], words])
        logits = classifier_logits(embeddings, rows).detach().requires_grad_()
        passes.append(LayerPass("classifier", embeddings.detach(), logits))
        return logits


@dataclass(frozen=True, slots=True)
class _Regions:
    """All regions of an image with what they are, canvas pixels.

    Attributes:
        labels: [M]; 0 is background, category column c is c + 1.
        truth: [M, 4] the matched box; meaningless for background.
    """

    boxes: Tensor
    labels: Tensor
    truth: Tensor

    @staticmethod
    def matched(candidates: Tensor, boxes: Tensor, columns: Tensor) -> _Regions:
        iou, row = match_boxes(candidates, boxes)
        if not len(boxes):
            return _Regions(candidates, torch.zeros_like(row), candidates)
        labels = torch.where(iou > FOREGROUND_IOU, columns[row] + 1, 0)
        return _Regions(candidates, labels, boxes[row])

    @property
    def foreground(self) -> Tensor:
        return self.labels > 0


def last_layers(detector: Detector) -> dict[str, nn.Module]:
    """The layers that influence is measured at, by name.

    A closed set's classifier is one more: its features are its embeddings.
    """
    layers: dict[str, nn.Module] = {
        "objectness": detector.proposal_head.objectness,
        "deltas": detector.proposal_head.deltas,
        "boxes": detector.boxes,
    }
    if detector.word_boxes is not None:
        layers["word boxes"] = detector.word_boxes
    if detector.head.project is not None:
        layers["projection"] = detector.head.project
    return layers


def refuse_unknown(detector: Any) -> None:
    """Refuse what has no last layers to differentiate.

    Raises:
        ModelError: no trained detector, or one whose regions are never told from background.
    """
    if not isinstance(detector, Detector):
        raise ModelError(
            "isal needs a trained detector: clip-on-crops has no layer that review would train.",
            hint="Choose --strategy hybrid, entropy or coreset.",
        )
    if not detector.system.text_side:
        raise ModelError(
            f"isal needs a class loss, and {detector.system.name} has none: it is only distilled.",
            hint="Choose --strategy hybrid, entropy or coreset, or train a vild-text model.",
        )
    if detector.system.class_loss != "softmax":
        raise ModelError(
            f"isal knows softmax cross-entropy, and this model has a {detector.system.class_loss} "
            "loss.",
            hint="Choose --strategy hybrid, entropy or coreset.",
        )


def _draw_proposals(
    predictions: AnchorPredictions, boxes: Tensor, seed: int, generator: torch.Generator
) -> Tensor:
    positive, negative, matched = sample_anchors(predictions.anchors, boxes, _generator(seed))
    logits = predictions.logits[0][torch.cat([positive, negative])]
    chance = torch.rand(logits.shape, generator=generator).to(logits.device)
    drawn = (chance < logits.detach().sigmoid()).float()
    total: Tensor = F.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")
    total = total / math.sqrt(SAMPLED_ANCHORS)
    wanted = encode_boxes(boxes[matched], predictions.anchors[positive], RPN_CODE_WEIGHTS)
    sizes = torch.tensor(predictions.level_sizes, device=positive.device)
    level = torch.bucketize(positive, sizes.cumsum(0), right=True)
    counts = 4 * torch.bincount(level, minlength=len(sizes))[level][:, None]
    codes = predictions.deltas[0][positive]
    return total + draw_codes(codes, wanted, counts, HUBER_DELTA, generator)


def draw_classes(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy of logits [M, 1 + C] with labels of the model's own softmax, for `draw`."""
    chances = logits.detach().softmax(-1).cpu()
    labels = torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)
    total: Tensor = F.cross_entropy(logits, labels, reduction="sum")
    return total / math.sqrt(len(logits))


def draw_codes(
    codes: Tensor, wanted: Tensor, count: Tensor | int, delta: float, generator: torch.Generator
) -> Tensor:
    """Box codes [P, 4] for `draw`: a Huber loss bends by 1 / count below its delta, else not."""
    signs = 2.0 * torch.randint(0, 2, codes.shape, generator=generator) - 1
    bends = (codes.detach() - wanted).abs() < delta
    shrunk = torch.as_tensor(count).clamp(min=1).sqrt()
    total: Tensor = (signs.to(codes.device) * bends / shrunk * codes).sum()
    return total


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_known(boxes: Sequence[Sequence[float]], columns: Sequence[int]) -> KnownBoxes:
    """Boxes and columns of one image as tensors; none of either is fine."""
    return KnownBoxes(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(columns, dtype=torch.int64),
    )
