"""Where the boxes come from that the teacher embeds: a model, torchvision's detector, a JSON.

Training crops proposals, not regressed boxes: what comes from a detector here is its first stage
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from vildcli.checkpoint import load_model
from vildcli.data.lvis import AnnotatedImage, AnnotationSet
from vildcli.errors import ModelError
from vildcli.runs import file_sha256
from vildcli.teacher.box_file import read_boxes
from vildcli.teacher.torchvision_proposals import TorchvisionProposer
from vildcli.weights import find_detector_weights

TORCHVISION = "torchvision"


@dataclass(frozen=True, slots=True)
class Proposals:
    """A source of proposals.

    Attributes:
        propose: image and its pixels [3, H, W] uint8 to boxes [R, 4], original image frame, best
            first.
        identity: what decides the boxes; part of a cache's settings.
        provenance: what the source has seen: one sentence, or what a model file says of itself.
    """

    propose: Callable[[AnnotatedImage, Tensor], Tensor]
    identity: str
    provenance: str | Mapping[str, Any]


def is_box_file(reference: str) -> bool:
    """Whether `--proposals` names a JSON of boxes."""
    return Path(reference).suffix.lower() == ".json"


def open_proposals(
    reference: str,
    data: AnnotationSet,
    device: torch.device,
    *,
    count: int,
    offline: bool = False,
) -> Proposals:
    """Open what `--proposals` names: `torchvision`, a JSON of boxes, or a model.

    Args:
        data: whose images are proposed for.
        count: boxes an image.

    Raises:
        ModelError: no such model, or its weights are missing.
        DataError: the JSON cannot be used, or lacks images of the data.
    """
    if reference == TORCHVISION:
        return _of_torchvision(device, count, offline)
    if is_box_file(reference):
        return _of_file(Path(reference), data, count)
    model = load_model(reference, device)
    card = model.card
    return Proposals(
        lambda image, pixels: model.detector.proposals(pixels, count=count),
        model.identity,
        {
            "model": model.identity,
            "system": card.system,
            "trained_on": [category.name for category in card.base_categories],
            **card.provenance,
        },
    )


def _of_torchvision(device: torch.device, count: int, offline: bool) -> Proposals:
    weights = find_detector_weights(offline=offline)
    proposer = TorchvisionProposer(weights, device, count=count)
    return Proposals(
        lambda image, pixels: proposer.proposals(pixels),
        f"torchvision {weights.name}",
        "The first stage of torchvision's Mask R-CNN, which has seen boxes of all 80 categories "
        "of COCO train2017.",
    )


def _of_file(path: Path, data: AnnotationSet, count: int) -> Proposals:
    if not path.is_file():
        raise ModelError(
            f"There is no JSON of boxes at {path}.",
            hint="Give --proposals torchvision, a model, or a COCO JSON of boxes.",
        )
    boxes = read_boxes(path, data, count=count)

    def propose(image: AnnotatedImage, pixels: Tensor) -> Tensor:
        clipped = clip_boxes_to_image(boxes[image.id], (pixels.shape[-2], pixels.shape[-1]))
        solid = (clipped[:, 2:] > clipped[:, :2]).all(1)
        found: Tensor = clipped[solid]
        return found

    return Proposals(
        propose,
        f"boxes {file_sha256(path)}",
        f"The boxes of {path.name}; what made them is not known.",
    )
