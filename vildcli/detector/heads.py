"""Second-stage heads on pooled regions: embeddings, class-agnostic boxes, class-agnostic masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from vildcli.detector.architecture import Architecture
from vildcli.detector.backbone import batch_norm, conv_norm_relu
from vildcli.detector.normalisation import RowNorm

BOX_POOL, MASK_POOL = 7, 14  # cells a side


class RegionPooler(nn.Module):
    """RoIAlign of each region from the pyramid level of its size.

    Forward: pyramid, finest first, and boxes [R, 4] of each image, canvas pixels, to
    [M, channels, size, size], all images' regions in order.
    """

    def __init__(self, architecture: Architecture, size: int) -> None:
        super().__init__()
        self.architecture, self.size = architecture, size

    def forward(self, pyramid: list[Tensor], boxes: list[Tensor]) -> Tensor:
        a = self.architecture
        images = [torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)]
        rois = torch.cat([torch.cat(images), torch.cat(boxes)], 1)
        levels = region_levels(rois[:, 1:], a)
        found = pyramid[0].new_zeros(len(rois), pyramid[0].shape[1], self.size, self.size)
        for level, features in zip(a.levels, pyramid, strict=True):
            if level in a.pooled:
                rows = torch.where(levels == level)[0]
                pooled = roi_align(
                    features, rois[rows], self.size, 2.0**-level, a.roi_samples, a.roi_aligned
                )
                found[rows] = pooled.to(found.dtype)  # under autocast levels may differ
        return found


def region_levels(boxes: Tensor, architecture: Architecture) -> Tensor:
    """Level floor(log2(sqrt(area) / 224)) + 4 of boxes [M, 4], among the pooled ones."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    if architecture.roi_aligned:  # the same rule, rounded as the code that aligns it does
        levels = 2 + torch.floor(torch.log2(sides / 56 + 1e-6))
    else:
        levels = torch.floor(4 + torch.log2(sides / 224) + 1e-6)
    return levels.clamp(min(architecture.pooled), max(architecture.pooled))


class RegionHead(nn.Module):
    """Convolutions, fully connected layers and the projection to the text space.

    Forward: roi features [M, channels, 7, 7] to FC features [M, fc_width], which boxes are made of,
    and unit-norm embeddings [M, D]. Where there is no embedding width, as in a closed set, the
    embedding is [feature; 1].
    """

    def __init__(
        self, architecture: Architecture, embedding_width: int | None, *, with_boxes: bool = True
    ) -> None:
        """Build with random weights.

        Args:
            with_boxes: False where no boxes are made of the features.
        """
        super().__init__()
        self.convs = _box_convs(architecture, architecture.box_convs)
        self.fcs = nn.Sequential(*_fc_layers(architecture))
        self.own_convs: nn.Sequential | None = None
        self.box_branch: nn.Sequential | None = None
        if architecture.separate_convs:
            self.own_convs = _box_convs(architecture, architecture.separate_convs)
        if architecture.separate_convs and with_boxes:
            convs = _box_convs(architecture, architecture.separate_convs)
            self.box_branch = nn.Sequential(*convs, nn.Flatten(), *_fc_layers(architecture))
        self.project = (
            nn.Linear(architecture.fc_width, embedding_width) if embedding_width else None
        )

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.convs(roi_features)
        own = self.fcs((self.own_convs(shared) if self.own_convs else shared).flatten(1))
        features = own if self.box_branch is None else self.box_branch(shared)
        if self.project is None:
            return features, F.pad(own.float(), (0, 1), value=1.0)
        return features, F.normalize(self.project(own).float(), dim=-1)


def _box_convs(architecture: Architecture, count: int) -> nn.Sequential:
    width = architecture.channels
    return nn.Sequential(
        *(
            conv_norm_relu(width, width, architecture)
            if architecture.output_norms
            else _conv_relu(width)
            for _ in range(count)
        )
    )


def _fc_layers(architecture: Architecture) -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = architecture.channels * BOX_POOL**2
    for _ in range(architecture.box_fcs):
        width, is_normed = architecture.fc_width, "fc" in architecture.norms
        layers.append(nn.Linear(inputs, width, bias=not is_normed))
        if is_normed:
            layers.append(
                RowNorm(width, eps=architecture.norm_eps, momentum=architecture.norm_momentum)
            )
        layers.append(nn.ReLU(inplace=True))
        inputs = width
    return layers


def box_regression(architecture: Architecture) -> nn.Linear:
    """FC features [M, fc_width] to class-agnostic box codes [M, 4]."""
    layer = nn.Linear(architecture.fc_width, 4)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


def word_box_regression(embedding_width: int) -> nn.Linear:
    """Text embeddings [M, D] to what they add to box codes [M, 4] (EZSD).

    Beside `box_regression` it is the linear layer over [feature; text] that was published: the
    layer's columns of the feature, and those of the text.
    """
    layer = nn.Linear(embedding_width, 4, bias=False)
    nn.init.normal_(layer.weight, std=0.001)
    return layer


def class_regression(architecture: Architecture, classes: int) -> nn.Linear:
    """FC features [M, fc_width] to logits [M, 1 + C] of a closed set, background first."""
    layer = nn.Linear(architecture.fc_width, 1 + classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def _conv_relu(width: int) -> nn.Sequential:
    convolution = nn.Conv2d(width, width, 3, 1, 1)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.ReLU(inplace=True))


class MaskHead(nn.Module):
    """Roi features [M, channels, 14, 14] to class-agnostic mask logits [M, 28, 28]."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.channels
        is_normed = "mask" in architecture.norms
        self.convs = nn.Sequential(
            *(
                conv_norm_relu(width, width, architecture) if is_normed else _conv_relu(width)
                for _ in range(architecture.mask_convs)
            )
        )
        self.upsample = nn.ConvTranspose2d(width, width, 2, 2)
        self.norm = batch_norm(width, architecture) if is_normed else nn.Identity()
        self.logits = nn.Conv2d(width, 1, 1)

    def forward(self, roi_features: Tensor) -> Tensor:
        x = F.relu(self.norm(self.upsample(self.convs(roi_features))))
        logits: Tensor = self.logits(x)
        return logits[:, 0].float()
