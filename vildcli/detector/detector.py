"""The student: a two-stage detector that sees classes only as an argument.

    images ─backbone─▶ pyramid ─proposal head─▶ proposals, objectness
    pyramid, proposals ─pool─▶ roi features ─head(s)─▶ region embeddings, boxes
    pyramid, boxes ─pool─▶ roi features ─mask head─▶ masks

`forward` returns losses (what data-parallel training hooks into), `regions` the image's `Regions`:
neither knows a vocabulary beyond the text embeddings it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.ops import roi_align

from vildcli.detector.architecture import Architecture
from vildcli.detector.backbone import Backbone
from vildcli.detector.boxes import BOX_CODE_WEIGHTS, decode_boxes, encode_boxes
from vildcli.detector.canvas import Canvas, content_size, make_canvas, normalise
from vildcli.detector.heads import (
    BOX_POOL,
    MASK_POOL,
    MaskHead,
    RegionHead,
    RegionPooler,
    box_regression,
    class_regression,
)
from vildcli.detector.losses import (
    LossParts,
    box_loss,
    class_logits,
    classifier_logits,
    distillation_loss,
    mask_loss,
    text_loss,
)
from vildcli.detector.proposals import ProposalHead, proposal_losses, select_proposals
from vildcli.detector.sampling import SampledRegions, sample_regions
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.systems import System
from vildcli.types import MASK_SIZE, Distillation, Regions, Target


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """What the losses need beside the batch.

    Attributes:
        text_embeddings: [C, D] unit norm, frozen.
        is_base: [C] bool.
        temperature: τ of the text encoder.
        regions: sampled regions an image.
        proposals: proposals an image kept for sampling.
        mask_regions: foreground regions an image that train the mask head.
        novel_logits: `zero` or `masked`, see `text_loss`.
        distillation: `l1` or `l2`, see `distillation_loss`.
    """

    text_embeddings: Tensor
    is_base: Tensor
    temperature: float
    regions: int = 512
    proposals: int = 1000
    mask_regions: int = 128
    novel_logits: Literal["zero", "masked"] = "zero"
    distillation: Literal["l1", "l2"] = "l1"


class Detector(nn.Module):
    """One shape for every trained row of the systems table; the row says which parts exist."""

    def __init__(
        self, architecture: Architecture, system: System, embedding_width: int, classes: int = 0
    ) -> None:
        """Build with random weights.

        Args:
            embedding_width: D of the text embeddings; meaningless in a closed set.
            classes: trained categories, of a closed set only.
        """
        super().__init__()
        self.architecture, self.system = architecture, system
        self.backbone = Backbone(architecture)
        self.proposal_head = ProposalHead(architecture)
        self.box_pool = RegionPooler(architecture, BOX_POOL)
        self.mask_pool = RegionPooler(architecture, MASK_POOL)
        closed = system.text_side == "classifier"
        self.head = RegionHead(architecture, None if closed else embedding_width)
        self.boxes = box_regression(architecture)
        self.mask_head = MaskHead(architecture)
        self.background: nn.Parameter | None = None
        if system.text_side == "student":
            self.background = nn.Parameter(torch.randn(embedding_width) * 0.01)
        self.classifier = class_regression(architecture, classes) if closed else None
        # Where the text embeddings themselves are being fine-tuned, [C, D]; else the context's.
        self.learned_words: nn.Parameter | None = None
        self.image_head: RegionHead | None = None
        if system.text_side and system.image_side == "student":
            self.image_head = RegionHead(architecture, embedding_width)
        # Measured on CPU: a training step a third faster, the masks' transposed convolution 8x.
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target],
        context: TrainingContext,
        distillation: Sequence[Distillation] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> dict[str, LossParts]:
        """Losses of a batch, unweighted.

        Args:
            images: [B, 3, S, S] uint8, all of one canvas size.
            targets: ground truth of base categories, canvas pixels.
            generators: one an image, so that what is sampled in it does not depend on its batch.
        """
        drawn: Sequence[torch.Generator | None] = generators or [None] * len(images)
        pyramid = self.backbone(self._normalise(images))
        predictions = self.proposal_head(pyramid)
        truths = [target.boxes for target in targets]
        objectness_loss, proposal_box_loss = proposal_losses(predictions, truths, drawn)
        sizes = [(images.shape[-2], images.shape[-1])] * len(images)
        proposals = select_proposals(
            predictions, sizes, per_level=2 * context.proposals, total=context.proposals
        )
        sampled = [
            sample_regions(boxes, target, count=context.regions, generator=generator)
            for (boxes, _), target, generator in zip(proposals, targets, drawn, strict=True)
        ]
        losses = {"objectness": objectness_loss, "proposal_box": proposal_box_loss}
        losses |= self._region_losses(pyramid, sampled, targets, context, distillation)
        losses["mask"] = self._mask_loss(pyramid, sampled, targets, context.mask_regions)
        return losses

    def _region_losses(
        self,
        pyramid: list[Tensor],
        sampled: list[SampledRegions],
        targets: Sequence[Target],
        context: TrainingContext,
        distillation: Sequence[Distillation] | None,
    ) -> dict[str, LossParts]:
        boxes = [s.boxes for s in sampled]
        distilled = [d.boxes for d in distillation] if distillation else []
        through_one_head = bool(distilled) and self.image_head is None
        if through_one_head:  # so that batch norm sees both kinds, as published
            boxes = [torch.cat(pair) for pair in zip(boxes, distilled, strict=True)]
        features, embeddings = self.head(self.box_pool(pyramid, boxes))
        student = embeddings[:0]
        if through_one_head:
            is_distilled = _marks([len(s.boxes) for s in sampled], [len(d) for d in distilled])
            student = embeddings[is_distilled]
            features, embeddings = features[~is_distilled], embeddings[~is_distilled]
        elif distilled and self.image_head is not None:
            _, student = self.image_head(self.box_pool(pyramid, distilled))
        losses = {"box": self._box_loss(features, sampled, targets)}
        if self.system.text_side:
            labels = torch.cat([s.labels for s in sampled])
            logits = self._class_logits(embeddings, context)
            losses["text"] = text_loss(logits, labels, context.is_base, context.novel_logits)
        if distillation:
            wanted = torch.cat([d.embeddings for d in distillation])
            valid = torch.cat([d.valid for d in distillation])
            losses["distillation"] = distillation_loss(student, wanted, valid, context.distillation)
        return losses

    def _class_logits(self, embeddings: Tensor, context: TrainingContext) -> Tensor:
        if self.classifier is not None:
            return classifier_logits(embeddings, self.classifier_rows())
        assert self.background is not None, "a text side is trained with background"
        words = context.text_embeddings
        if self.learned_words is not None:
            words = normalize(self.learned_words, dim=-1)
        return class_logits(embeddings, words, self.background, context.temperature)

    def classifier_rows(self) -> Tensor:
        """The closed set's weights [1 + C, fc_width + 1], background first, bias last."""
        assert self.classifier is not None, "only a closed set has a classifier"
        return torch.cat([self.classifier.weight, self.classifier.bias[:, None]], 1)

    def scoring_head(self, temperature: float) -> ScoringHead:
        """What scores this detector's regions, on the CPU. τ is 1 in a closed set."""
        background = self.background if self.classifier is None else self.classifier_rows()[0]
        kept = None if background is None else background.detach().cpu()
        return ScoringHead(kept, temperature, temperature, Fusion(self.system.fusion))

    @property
    def device(self) -> torch.device:
        return self.boxes.weight.device

    def _box_loss(
        self, features: Tensor, sampled: list[SampledRegions], targets: Sequence[Target]
    ) -> LossParts:
        foreground = torch.cat([s.foreground for s in sampled])
        wanted = [
            encode_boxes(t.boxes[s.truth[s.foreground]], s.boxes[s.foreground], BOX_CODE_WEIGHTS)
            for s, t in zip(sampled, targets, strict=True)
        ]
        return box_loss(self.boxes(features[foreground]).float(), torch.cat(wanted))

    def _mask_loss(
        self,
        pyramid: list[Tensor],
        sampled: list[SampledRegions],
        targets: Sequence[Target],
        count: int,
    ) -> LossParts:
        boxes = [s.boxes[s.foreground][:count] for s in sampled]
        wanted = [
            mask_targets(t.masks, s.truth[s.foreground][:count], b)
            for s, t, b in zip(sampled, targets, boxes, strict=True)
        ]
        if not any(len(b) for b in boxes):
            # Batch norm cannot train on nothing, and processes that train together expect a
            # gradient of every weight.
            nothing = torch.stack([p.sum() for p in self.mask_head.parameters()]).sum() * 0
            return LossParts(nothing[None], nothing.new_zeros(1))
        logits = self.mask_head(self.mask_pool(pyramid, boxes))
        return mask_loss(logits, torch.cat(wanted))

    @torch.inference_mode()
    def regions(self, images: Sequence[Tensor], *, count: int = 300) -> list[Regions]:
        """Regions of each image, at most `count`, by objectness.

        Args:
            images: [3, H, W] uint8 RGB, upright.

        Returns:
            One `Regions` an image, original image frame, on the CPU, embeddings rounded to float16.
        """
        canvases = [self._canvas(image) for image in images]
        found: dict[int, Regions] = {}
        for rows in _by_shape(canvases):
            batch = [canvases[i] for i in rows]
            found.update(zip(rows, self._regions_of_canvases(batch, count), strict=True))
        return [found[i] for i in range(len(images))]

    @torch.inference_mode()
    def proposals(self, image: Tensor, *, count: int) -> Tensor:
        """The first stage alone: proposals [R, 4] of an image, at most `count`, by objectness.

        Args:
            image: [3, H, W] uint8 RGB, upright.

        Returns:
            Boxes in the original image frame, on the CPU.
        """
        canvas = self._canvas(image)
        predictions = self.proposal_head(self.backbone(canvas.pixels[None]))
        [(boxes, _)] = select_proposals(
            predictions, [canvas.content], per_level=max(1000, count), total=count
        )
        return canvas.to_original(boxes).cpu()

    def canvas_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the padded frame that an image of this size is seen in."""
        a = self.architecture
        content = content_size(
            height, width, size=a.image_size, short_side=a.short_side, resize=a.resize
        )
        return content[0] + (-content[0]) % a.stride, content[1] + (-content[1]) % a.stride

    def _canvas(self, image: Tensor) -> Canvas:
        a = self.architecture
        return make_canvas(
            image.to(self.device),
            size=a.image_size,
            stride=a.stride,
            mean=a.pixel_mean,
            std=a.pixel_std,
            short_side=a.short_side,
            resize=a.resize,
        )

    def _regions_of_canvases(self, canvases: list[Canvas], count: int) -> list[Regions]:
        pyramid = self.backbone(torch.stack([c.pixels for c in canvases]))
        contents = [c.content for c in canvases]
        proposals = select_proposals(
            self.proposal_head(pyramid), contents, per_level=max(1000, count), total=count
        )
        boxes = [b for b, _ in proposals]
        counts = [len(b) for b in boxes]
        roi_features = self.box_pool(pyramid, boxes)
        features, embeddings = self.head(roi_features)
        image_embeddings = self.image_head(roi_features)[1] if self.image_head else None
        codes = self.boxes(features).float()
        final = [
            _clip(self._decode(code, of_image), canvas.content)
            for code, of_image, canvas in zip(codes.split(counts), boxes, canvases, strict=True)
        ]
        # Image by image: the masks of a whole batch at once would be most of the peak memory.
        masks = [
            self._masks([level[i : i + 1] for level in pyramid], of_image)
            for i, of_image in enumerate(final)
        ]
        text_side = embeddings if self.system.text_side else None
        image_side = image_embeddings if self.system.text_side else embeddings
        return [
            _regions_of_image(*of_image)
            for of_image in zip(
                canvases,
                proposals,
                final,
                masks,
                _split(text_side, counts),
                _split(image_side, counts),
                strict=True,
            )
        ]

    def _decode(self, codes: Tensor, references: Tensor) -> Tensor:
        clamp = self.architecture.clamp_shrinking
        return decode_boxes(codes, references, BOX_CODE_WEIGHTS, clamp_shrinking=clamp)

    def _masks(self, pyramid: list[Tensor], boxes: Tensor) -> Tensor:
        """Mask probabilities [R, 28, 28] of one image's boxes [R, 4], canvas pixels."""
        logits: Tensor = self.mask_head(self.mask_pool(pyramid, [boxes]))
        return logits.sigmoid()

    def _normalise(self, images: Tensor) -> Tensor:
        return normalise(images, self.architecture.pixel_mean, self.architecture.pixel_std)


def mask_targets(masks: Tensor, truth: Tensor, boxes: Tensor) -> Tensor:
    """Ground-truth masks [N, H, W] cut to boxes [P, 4] and resampled to [P, 28, 28] in {0, 1}.

    Args:
        truth: [P] row of `masks` for each box.
    """
    rois = torch.cat([truth[:, None].to(boxes), boxes], 1)
    cut: Tensor = roi_align(masks[:, None].float(), rois, MASK_SIZE, sampling_ratio=2, aligned=True)
    return (cut[:, 0] >= 0.5).float()


def _marks(first: list[int], second: list[int]) -> Tensor:
    """False x first[0], True x second[0], False x first[1], …"""
    parts = [
        torch.tensor([False] * a + [True] * b, dtype=torch.bool)
        for a, b in zip(first, second, strict=True)
    ]
    return torch.cat(parts)


def _by_shape(canvases: Sequence[Canvas]) -> list[list[int]]:
    groups: dict[torch.Size, list[int]] = {}
    for i, canvas in enumerate(canvases):
        groups.setdefault(canvas.pixels.shape, []).append(i)
    return list(groups.values())


def _clip(boxes: Tensor, content: tuple[int, int]) -> Tensor:
    limit = boxes.new_tensor([content[1], content[0]] * 2)
    return boxes.clamp(min=0).minimum(limit)


def _split(side: Tensor | None, counts: list[int]) -> list[Tensor | None]:
    return [None] * len(counts) if side is None else list(torch.split(side, counts))


def _regions_of_image(
    canvas: Canvas,
    proposals: tuple[Tensor, Tensor],
    boxes: Tensor,
    masks: Tensor,
    text_side: Tensor | None,
    image_side: Tensor | None,
) -> Regions:
    solid = (boxes[:, 2:] - boxes[:, :2]).min(1).values > 0
    sides = [s[solid].half().cpu() if s is not None else None for s in (text_side, image_side)]
    return Regions(
        boxes=canvas.to_original(boxes[solid]).cpu(),
        proposals=canvas.to_original(proposals[0][solid]).cpu(),
        objectness=proposals[1][solid].cpu(),
        masks=(masks[solid] * 255).round().to(torch.uint8).cpu(),
        text_side=sides[0],
        image_side=sides[1],
    )
