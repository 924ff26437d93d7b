"""Backbones with a feature pyramid: P2-P6, batch norm after every level and no ReLU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter

from vildcli.detector.architecture import Architecture
from vildcli.errors import ModelError


def batch_norm(channels: int, architecture: Architecture) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=architecture.norm_eps, momentum=architecture.norm_momentum)


def conv_norm_relu(
    inputs: int, outputs: int, architecture: Architecture, stride: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, batch_norm(outputs, architecture), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, architecture: Architecture, stride: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(inputs, outputs, architecture, stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), batch_norm(outputs, architecture)
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), batch_norm(outputs, architecture)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def _small_body(architecture: Architecture) -> tuple[nn.Module, dict[int, int]]:
    """Four stages; C2, C3, C4 with 64, 96, 128 channels. Small enough to train on a laptop."""
    widths = {2: 64, 3: 96, 4: 128}
    stages = nn.Sequential()
    stages.add_module("stem", conv_norm_relu(3, 32, architecture, stride=2))
    inputs = 32
    for level, width in widths.items():
        stages.add_module(f"c{level}", _Residual(inputs, width, architecture, stride=2))
        inputs = width
    outputs = {f"c{level}": str(level) for level in widths}
    return IntermediateLayerGetter(stages, outputs), widths


def _resnet50_body(architecture: Architecture) -> tuple[nn.Module, dict[int, int]]:
    body = resnet50(norm_layer=lambda channels: batch_norm(channels, architecture))
    outputs = {f"layer{level - 1}": str(level) for level in (2, 3, 4, 5)}
    return IntermediateLayerGetter(body, outputs), {2: 256, 3: 512, 4: 1024, 5: 2048}


BODIES = {"small": _small_body, "resnet50": _resnet50_body}


class Backbone(nn.Module):
    """Images to a feature pyramid.

    Levels above the body's last come from stride-2 convolutions on the level below.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        if architecture.backbone not in BODIES:
            raise ModelError(
                f"There is no backbone '{architecture.backbone}'.",
                hint=f"Backbones: {', '.join(BODIES)}.",
            )
        self.body, widths = BODIES[architecture.backbone](architecture)
        channels = architecture.channels
        self.levels = architecture.levels
        self.lateral = nn.ModuleDict(
            {str(k): nn.Conv2d(widths[k], channels, 1) for k in self.levels if k in widths}
        )
        self.post = nn.ModuleDict(
            {
                str(k): nn.Conv2d(channels, channels, 3, 1 if k in widths else 2, 1)
                for k in self.levels
            }
        )
        self.norm = nn.ModuleDict({str(k): batch_norm(channels, architecture) for k in self.levels})

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W] to [B, channels, H / 2**l, W / 2**l], finest first."""
        bottom_up = self.body(images)
        merged: dict[int, Tensor] = {}
        above: Tensor | None = None
        for level in sorted((int(k) for k in self.lateral), reverse=True):
            lateral = self.lateral[str(level)](bottom_up[str(level)])
            if above is not None:
                lateral = lateral + F.interpolate(above, size=lateral.shape[-2:], mode="nearest")
            merged[level] = above = lateral
        pyramid: dict[int, Tensor] = {}
        for level in self.levels:
            source = merged[level] if level in merged else pyramid[level - 1]
            pyramid[level] = self.post[str(level)](source)
        return [self.norm[str(level)](pyramid[level]) for level in self.levels]
