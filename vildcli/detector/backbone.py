"""Backbones with a feature pyramid: P2-P6, batch norm after every level and no ReLU."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import efficientnet_b7, resnet50, resnet152
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


def _resnet_body(architecture: Architecture) -> tuple[nn.Module, dict[int, int]]:
    build = {"resnet50": resnet50, "resnet50_caffe": resnet50, "resnet152": resnet152}
    body = build[architecture.backbone](
        norm_layer=lambda channels: batch_norm(channels, architecture)
    )
    outputs = {f"layer{level - 1}": str(level) for level in (2, 3, 4, 5)}
    return IntermediateLayerGetter(body, outputs), {2: 256, 3: 512, 4: 1024, 5: 2048}


def _resnet_caffe_body(architecture: Architecture) -> tuple[nn.Module, dict[int, int]]:
    """A bottleneck's stride is in its first, 1x1 convolution; names and shapes stay the same."""
    body, widths = _resnet_body(architecture)
    for stage in ("layer2", "layer3", "layer4"):
        block = body[stage][0]  # type: ignore[index]  # a ModuleDict
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return body, widths


def _efficientnet_b7_body(architecture: Architecture) -> tuple[nn.Module, dict[int, int]]:
    """The last stage of each stride; stage 8, for classification, is left out."""
    features = efficientnet_b7().features
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = architecture.norm_eps, architecture.norm_momentum
    stages = {2: 2, 3: 3, 4: 5, 5: 7}  # of each level
    widths = {level: features[stage][-1].out_channels for level, stage in stages.items()}
    outputs = {str(stage): str(level) for level, stage in stages.items()}
    return IntermediateLayerGetter(features, outputs), widths


BODIES: dict[str, Callable[[Architecture], tuple[nn.Module, dict[int, int]]]] = {
    "small": _small_body,
    "resnet50": _resnet_body,
    "resnet50_caffe": _resnet_caffe_body,
    "resnet152": _resnet_body,
    "efficientnet_b7": _efficientnet_b7_body,
}


class Backbone(nn.Module):
    """Images to a feature pyramid.

    Levels above the body's last come from the level below: by a stride-2 convolution before its
    norm, or as every second cell after it.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        if architecture.backbone not in BODIES:
            raise ModelError(
                f"There is no backbone '{architecture.backbone}'.",
                hint=f"Backbones: {', '.join(BODIES)}.",
            )
        self.body, widths = BODIES[architecture.backbone](architecture)
        channels, bias = architecture.channels, "lateral" not in architecture.norms
        self.levels = architecture.levels
        laterals = [level for level in self.levels if level in widths]
        subsampled = architecture.extra_levels == "subsample"
        self.convolved = laterals if subsampled else list(self.levels)
        self.lateral = nn.ModuleDict(
            {str(k): nn.Conv2d(widths[k], channels, 1, bias=bias) for k in laterals}
        )
        self.post = nn.ModuleDict(
            {
                str(k): nn.Conv2d(channels, channels, 3, 1 if k in widths else 2, 1, bias=bias)
                for k in self.convolved
            }
        )
        self.norm = nn.ModuleDict(
            {
                str(k): batch_norm(channels, architecture)
                if architecture.output_norms
                else nn.Identity()
                for k in self.convolved
            }
        )
        self.lateral_norm = nn.ModuleDict(
            {
                str(k): nn.Identity() if bias else batch_norm(channels, architecture)
                for k in laterals
            }
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W] to [B, channels, H / 2**l, W / 2**l], finest first."""
        bottom_up = self.body(images)
        merged: dict[int, Tensor] = {}
        above: Tensor | None = None
        for level in sorted((int(k) for k in self.lateral), reverse=True):
            name = str(level)
            lateral = self.lateral_norm[name](self.lateral[name](bottom_up[name]))
            if above is not None:
                lateral = lateral + F.interpolate(above, size=lateral.shape[-2:], mode="nearest")
            merged[level] = above = lateral
        pyramid: dict[int, Tensor] = {}
        for level in self.convolved:
            source = merged[level] if level in merged else pyramid[level - 1]
            pyramid[level] = self.post[str(level)](source)
        found = [self.norm[str(level)](pyramid[level]) for level in self.convolved]
        for _ in self.levels[len(found) :]:
            found.append(found[-1][..., ::2, ::2])
        return found
