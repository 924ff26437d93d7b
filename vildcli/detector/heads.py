"""Second-stage heads on pooled regions: embeddings, class-agnostic boxes, class-agnostic masks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from vildcli.detector.architecture import Architecture
from vildcli.detector.backbone import conv_norm_relu

BOX_POOL, MASK_POOL = 7, 14  # cells a side


def region_pooler(architecture: Architecture, size: int) -> MultiScaleRoIAlign:
    """RoIAlign on level floor(log2(sqrt(area) / 224)) + 4, clipped to the pyramid (P6 included)."""
    names = [str(level) for level in architecture.levels]
    samples = architecture.roi_samples
    return MultiScaleRoIAlign(names, size, samples, canonical_scale=224, canonical_level=4)


class RegionHead(nn.Module):
    """Convolutions, fully connected layers and the projection to the text space.

    Forward: roi features [M, channels, 7, 7] to FC features [M, fc_width] and unit-norm embeddings
    [M, D].
    """

    def __init__(self, architecture: Architecture, embedding_width: int) -> None:
        super().__init__()
        width = architecture.channels
        self.convs = nn.Sequential(
            *(conv_norm_relu(width, width, architecture) for _ in range(architecture.box_convs))
        )
        self.fcs = nn.Sequential(*_fc_layers(architecture))
        self.project = nn.Linear(architecture.fc_width, embedding_width)

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        features = self.fcs(self.convs(roi_features).flatten(1))
        return features, F.normalize(self.project(features).float(), dim=-1)


def _fc_layers(architecture: Architecture) -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = architecture.channels * BOX_POOL**2
    for _ in range(architecture.box_fcs):
        norm = nn.BatchNorm1d(
            architecture.fc_width, eps=architecture.norm_eps, momentum=architecture.norm_momentum
        )
        layers += [
            nn.Linear(inputs, architecture.fc_width, bias=False),
            norm,
            nn.ReLU(inplace=True),
        ]
        inputs = architecture.fc_width
    return layers


def box_regression(architecture: Architecture) -> nn.Linear:
    """FC features [M, fc_width] to class-agnostic box codes [M, 4]."""
    layer = nn.Linear(architecture.fc_width, 4)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


class MaskHead(nn.Module):
    """Roi features [M, channels, 14, 14] to class-agnostic mask logits [M, 28, 28]."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.channels
        self.convs = nn.Sequential(
            *(conv_norm_relu(width, width, architecture) for _ in range(architecture.mask_convs))
        )
        self.upsample = nn.ConvTranspose2d(width, width, 2, 2)
        self.norm = nn.BatchNorm2d(
            width, eps=architecture.norm_eps, momentum=architecture.norm_momentum
        )
        self.logits = nn.Conv2d(width, 1, 1)

    def forward(self, roi_features: Tensor) -> Tensor:
        x = F.relu(self.norm(self.upsample(self.convs(roi_features))))
        logits: Tensor = self.logits(x)
        return logits[:, 0].float()
