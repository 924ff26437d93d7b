"""The student: a two-stage detector that sees classes only as an argument.

    images ─backbone─▶ pyramid ─proposal head─▶ proposals, objectness
    pyramid, proposals ─pool─▶ roi features ─head(s)─▶ region embeddings, boxes
    pyramid, boxes ─pool─▶ roi features ─mask head─▶ masks

`forward` returns losses (what data-parallel training hooks into), `regions` the image's `Regions`:
neither knows a vocabulary beyond the text embeddings it is handed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    word_box_regression,
)
from vildcli.detector.losses import (
    LossParts,
    box_loss,
    class_logits,
    classifier_logits,
    distillation_loss,
    mask_loss,
    objectness_logits,
    region_weights,
    seesaw_loss,
    text_loss,
    word_logits,
)
from vildcli.detector.proposals import ProposalHead, proposal_losses, select_proposals
from vildcli.detector.sampling import SampledRegions, sample_regions
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.systems import System
from vildcli.types import MASK_SIZE, Distillation, LaterMasks, Regions, Target, made


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
        objects: [C] how many of each category an epoch shows, for Seesaw loss alone.
    """

    text_embeddings: Tensor
    is_base: Tensor
    temperature: float
    regions: int = 512
    proposals: int = 1000
    mask_regions: int = 128
    novel_logits: Literal["zero", "masked"] = "zero"
    distillation: Literal["l1", "l2"] = "l1"
    objects: Tensor | None = None


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
            shape = (2, embedding_width) if system.class_loss == "seesaw" else (embedding_width,)
            self.background = nn.Parameter(torch.randn(shape) * 0.01)
        self.classifier = class_regression(architecture, classes) if closed else None
        # Where the text embeddings themselves are being fine-tuned, [C, D]; else the context's.
        self.learned_words: nn.Parameter | None = None
        self.image_head: RegionHead | None = None
        if system.text_side and system.image_side == "student":
            self.image_head = RegionHead(architecture, embedding_width, with_boxes=False)
        self.word_boxes: nn.Linear | None = None
        if system.semantic_boxes:
            self.word_boxes = word_box_regression(embedding_width)
        # log 1/τ; None where τ is the text encoder's.
        self.logit_scale: nn.Parameter | None = None
        if system.learned_temperature:
            self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))
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
        losses = {"box": self._box_loss(features, sampled, targets, context)}
        if self.system.text_side:
            labels = torch.cat([s.labels for s in sampled])
            losses["text"] = self._class_loss(embeddings, labels, context)
        if distillation:
            losses["distillation"] = _distillation_loss(student, distillation, context)
        return losses

    def _class_loss(
        self, embeddings: Tensor, labels: Tensor, context: TrainingContext
    ) -> LossParts:
        if self.classifier is not None:
            logits = classifier_logits(embeddings, self.classifier_rows())
            return text_loss(logits, labels, context.is_base, context.novel_logits)
        assert self.background is not None, "a text side is trained with background"
        words = context.text_embeddings
        temperature: float | Tensor = context.temperature
        if self.logit_scale is not None:
            temperature = (-self.logit_scale).exp()
        if self.learned_words is not None:
            words = normalize(self.learned_words, dim=-1)
        if self.system.class_loss == "seesaw":
            assert context.objects is not None, "Seesaw loss weighs by the number of objects"
            logits = word_logits(embeddings, words, temperature)
            objectness = objectness_logits(embeddings, self.background)
            return seesaw_loss(logits, objectness, labels, context.is_base, context.objects)
        free = self.system.free_background
        logits = class_logits(embeddings, words, self.background, temperature, free_background=free)
        return text_loss(logits, labels, context.is_base, context.novel_logits)

    def start_at(self, temperature: float) -> None:
        """Start a learned τ at that of the text encoder."""
        if self.logit_scale is not None:
            nn.init.constant_(self.logit_scale, -math.log(temperature))

    def classifier_rows(self) -> Tensor:
        """The closed set's weights [1 + C, fc_width + 1], background first, bias last."""
        assert self.classifier is not None, "only a closed set has a classifier"
        return torch.cat([self.classifier.weight, self.classifier.bias[:, None]], 1)

    def scoring_head(self, temperature: float) -> ScoringHead:
        """What scores this detector's regions, on the CPU.

        Args:
            temperature: τ of the text encoder, 1 in a closed set; unused where τ was learned.
        """
        background = self.background if self.classifier is None else self.classifier_rows()[0]
        if self.logit_scale is not None:
            temperature = math.exp(-self.logit_scale.item())
        return ScoringHead(
            None if background is None else background.detach().cpu(),
            temperature,
            temperature,
            Fusion(self.system.fusion),
            free_background=self.system.free_background,
            word_boxes=None if self.word_boxes is None else self.word_boxes.weight.detach().cpu(),
        )

    @property
    def device(self) -> torch.device:
        return self.boxes.weight.device

    def _box_loss(
        self,
        features: Tensor,
        sampled: list[SampledRegions],
        targets: Sequence[Target],
        context: TrainingContext,
    ) -> LossParts:
        foreground = torch.cat([s.foreground for s in sampled])
        wanted = [
            encode_boxes(t.boxes[s.truth[s.foreground]], s.boxes[s.foreground], BOX_CODE_WEIGHTS)
            for s, t in zip(sampled, targets, strict=True)
        ]
        codes = self.boxes(features[foreground])
        if self.word_boxes is not None:  # of the true category; the background has no box
            labels = torch.cat([s.labels for s in sampled])[foreground]
            codes = codes + self.word_boxes(context.text_embeddings[labels - 1])
        return box_loss(codes.float(), torch.cat(wanted))

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
    def regions(
        self, images: Sequence[Tensor], *, count: int = 300, later_masks: bool = False
    ) -> list[Regions]:
        """Regions of each image, at most `count`, by objectness.

        Args:
            images: [3, H, W] uint8 RGB, upright.
            later_masks: make masks when they are asked for, in the precision of this call.

        Returns:
            One `Regions` an image, original image frame, on the CPU, embeddings rounded to float16.
        """
        canvases = [self.canvas(image) for image in images]
        found: dict[int, Regions] = {}
        for rows in _by_shape(canvases):
            batch = self._regions_of_canvases([canvases[i] for i in rows], count, later_masks)
            found.update(zip(rows, batch, strict=True))
        return [found[i] for i in range(len(images))]

    @torch.inference_mode()
    def proposals(self, image: Tensor, *, count: int) -> Tensor:
        """The first stage alone: proposals [R, 4] of an image, at most `count`, by objectness.

        Args:
            image: [3, H, W] uint8 RGB, upright.

        Returns:
            Boxes in the original image frame, on the CPU.
        """
        canvas = self.canvas(image)
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

    def canvas(self, image: Tensor) -> Canvas:
        """An image [3, H, W] uint8 RGB, upright, as the network sees it, on the model's device."""
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

    def _regions_of_canvases(
        self, canvases: list[Canvas], count: int, later_masks: bool
    ) -> list[Regions]:
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
        masks = [
            self._later_masks([level[i : i + 1] for level in pyramid], of_image)
            for i, of_image in enumerate(final)
        ]
        text_side = embeddings if self.system.text_side else None
        image_side = image_embeddings if self.system.text_side else embeddings
        kept_codes = codes if self.word_boxes is not None else None
        found = [
            _regions_of_image(*of_image)
            for of_image in zip(
                canvases,
                proposals,
                final,
                masks,
                _split(text_side, counts),
                _split(image_side, counts),
                _split(kept_codes, counts),
                strict=True,
            )
        ]
        # Image by image: the masks of a whole batch at once would be most of the peak memory.
        return found if later_masks else [replace(r, masks=made(r.masks)) for r in found]

    def _decode(self, codes: Tensor, references: Tensor) -> Tensor:
        clamp = self.architecture.clamp_shrinking or self.word_boxes is not None
        return decode_boxes(codes, references, BOX_CODE_WEIGHTS, clamp_shrinking=clamp)

    def _later_masks(self, pyramid: list[Tensor], boxes: Tensor) -> LaterMasks:
        """Masks of one image's boxes [R, 4], canvas pixels."""
        kind = self.device.type
        dtype, is_enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

        def make(rows: Tensor) -> Tensor:
            with torch.inference_mode(), torch.autocast(kind, dtype, enabled=is_enabled):
                logits = self.mask_head(self.mask_pool(pyramid, [boxes[rows.to(boxes.device)]]))
            masks: Tensor = (logits.sigmoid() * 255).round().to(torch.uint8).cpu()
            return masks

        return LaterMasks(make, torch.arange(len(boxes)))

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


def _distillation_loss(
    student: Tensor, distillation: Sequence[Distillation], context: TrainingContext
) -> LossParts:
    """Of the student's embeddings of all images' regions, in order."""
    wanted = torch.cat([d.embeddings for d in distillation])
    valid = torch.cat([d.valid for d in distillation])
    weights = None
    if any(d.weights is not None for d in distillation):
        weights = torch.cat([region_weights(d.weights, d.valid) for d in distillation])
    return distillation_loss(student, wanted, valid, context.distillation, weights)


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
    masks: LaterMasks,
    text_side: Tensor | None,
    image_side: Tensor | None,
    codes: Tensor | None,
) -> Regions:
    solid = (boxes[:, 2:] - boxes[:, :2]).min(1).values > 0
    sides = [s[solid].half().cpu() if s is not None else None for s in (text_side, image_side)]
    height, width = canvas.original
    return Regions(
        boxes=canvas.to_original(boxes[solid]).cpu(),
        proposals=canvas.to_original(proposals[0][solid]).cpu(),
        objectness=proposals[1][solid].cpu(),
        masks=masks[solid.cpu()],
        text_side=sides[0],
        image_side=sides[1],
        box_codes=None if codes is None else codes[solid].cpu(),
        size=None if codes is None else (width, height),
    )
