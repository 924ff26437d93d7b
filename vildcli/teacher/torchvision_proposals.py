"""Proposals of torchvision's COCO-trained Mask R-CNN: box and mask of the best foreground class.

The class name is discarded, the objectness is the RPN's. The weights have seen boxes of COCO's 80
categories, so nothing found with them is zero-shot on COCO.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises, even of weights only
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import clip_boxes_to_image, nms

from vildcli.errors import ModelError
from vildcli.teacher.clip_on_crops import NMS_IOU
from vildcli.types import Regions

WEIGHTS_FILE = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"  # torchvision's own name for it
CLASSES = 91


class TorchvisionProposer:
    """Callable: images [3, H, W] uint8 to `Regions` without embeddings, best objectness first.

    At most `count` regions an image, after class-agnostic NMS: a mask costs more than all else.
    """

    def __init__(self, weights: Path, device: torch.device, *, count: int) -> None:
        self.count = count
        self.model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state)
        except (OSError, RuntimeError, UnpicklingError, EOFError, TypeError) as error:
            raise ModelError(
                f"{weights} does not hold torchvision's maskrcnn_resnet50_fpn: "
                f"{str(error).splitlines()[0]}",
                hint=f"Put the file {WEIGHTS_FILE} there, as torchvision publishes it.",
            ) from error
        self.model.eval().to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> list[Regions]:
        # One by one: torchvision pads a batch to its largest image, and padding reaches into
        # features.
        return [self._regions(image) for image in images]

    @torch.inference_mode()
    def proposals(self, image: Tensor) -> Tensor:
        """The first stage alone: proposals [R, 4] of an image, at most `count`, by objectness.

        torchvision's own first stage ends with 1,000.

        Args:
            image: [3, H, W] uint8 RGB, upright.

        Returns:
            Boxes in the original image frame, on the CPU.
        """
        _, size, proposals, _ = self._first_stage(image)
        original = (image.shape[-2], image.shape[-1])
        boxes: Tensor = resize_boxes(proposals[: self.count], size, original).cpu()
        return boxes

    def _first_stage(self, image: Tensor) -> tuple[Any, tuple[int, int], Tensor, Tensor]:
        """Features, size of the resized image, proposals in its frame, their objectness."""
        model: Any = self.model
        batch, _ = model.transform([image.to(self.device).float() / 255])
        features = model.backbone(batch.tensors)
        return features, batch.image_sizes[0], *self._propose(batch, features)

    def _regions(self, image: Tensor) -> Regions:
        model: Any = self.model
        features, size, proposals, objectness = self._first_stage(image)
        roi_features = model.roi_heads.box_roi_pool(features, [proposals], [size])
        logits, codes = model.roi_heads.box_predictor(model.roi_heads.box_head(roi_features))
        classes = logits[:, 1:].argmax(1) + 1
        of_class = model.roi_heads.box_coder.decode(codes, [proposals])
        boxes = clip_boxes_to_image(of_class[torch.arange(len(classes)), classes], size)
        kept = torch.where((boxes[:, 2:] - boxes[:, :2]).min(1).values > 0)[0]
        kept = kept[nms(boxes[kept], objectness[kept], NMS_IOU)[: self.count]]
        boxes, proposals, classes = boxes[kept], proposals[kept], classes[kept]
        original = (image.shape[-2], image.shape[-1])
        return Regions(
            boxes=resize_boxes(boxes, size, original).cpu(),
            proposals=resize_boxes(proposals, size, original).cpu(),
            objectness=objectness[kept].cpu(),
            masks=self._masks(features, boxes, classes, size),
            text_side=None,
            image_side=None,
        )

    def _propose(self, batch: Any, features: Any) -> tuple[Tensor, Tensor]:
        """What torchvision's own RPN forward does, keeping the scores that it throws away."""
        rpn: Any = self.model.rpn
        levels = list(features.values())
        logits, codes = rpn.head(levels)
        anchors = rpn.anchor_generator(batch, levels)
        counts = [level[0].numel() for level in logits]
        flat = [
            torch.cat(
                [
                    x.reshape(1, -1, d, *x.shape[-2:]).permute(0, 3, 4, 1, 2).reshape(-1, d)
                    for x in group
                ]
            )
            for group, d in ((logits, 1), (codes, 4))
        ]
        decoded = rpn.box_coder.decode(flat[1], anchors).view(1, -1, 4)
        boxes, scores = rpn.filter_proposals(decoded, flat[0], batch.image_sizes, counts)
        order = scores[0].argsort(descending=True, stable=True)
        return boxes[0][order], scores[0][order]

    def _masks(
        self, features: Any, boxes: Tensor, classes: Tensor, size: tuple[int, int]
    ) -> Tensor:
        heads: Any = self.model.roi_heads
        pooled = heads.mask_roi_pool(features, [boxes], [size])
        logits = heads.mask_predictor(heads.mask_head(pooled))
        chosen = logits[torch.arange(len(classes)), classes].sigmoid()
        masks: Tensor = (chosen * 255).round().to(torch.uint8).cpu()
        return masks
