"""A detector that only looks: the same regions in less time, from the same weights.

Batch norms that only scale are folded into the convolutions before them; on a CPU in float32, wide
3 x 3 convolutions are computed by Winograd's filtering. Both round elsewhere than the detector that
was trained, by float noise.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vildcli.detector.backbone import Backbone
from vildcli.detector.detector import Detector
from vildcli.detector.heads import BOX_POOL, RegionHead
from vildcli.detector.winograd import MapConvolution, RegionConvolutions

_WIDE = 128  # channels from which Winograd's transforms cost less than they spare


def for_inference(detector: Detector, *, exact_convolutions: bool = False) -> Detector:
    """A copy that finds the same regions faster; it can neither be trained nor saved.

    Args:
        exact_convolutions: compute all convolutions directly, as in bfloat16, where transforms
            would round too much.
    """
    quick = deepcopy(detector).eval().requires_grad_(False)
    for module in list(quick.modules()):
        _fold_children(module)
    _fold_pyramid(quick.backbone)
    if detector.device.type == "cpu" and not exact_convolutions:
        for head in (quick.head, quick.image_head):
            if head is not None:
                _use_region_convolutions(head)
        for part in (quick.backbone, quick.proposal_head):
            _use_map_convolutions(part)
    return quick.to(memory_format=torch.channels_last)


def _fold_children(module: nn.Module) -> None:
    """Fold norms that follow a convolution among a module's parts: there they are its output's."""
    for (name, before), (after, norm) in pairwise(list(module.named_children())):
        if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(before, norm))
            setattr(module, after, nn.Identity())


def _fold_pyramid(backbone: Backbone) -> None:
    def fold(convolutions: nn.ModuleDict, norms: nn.ModuleDict, name: str) -> None:
        convolution, norm = convolutions[name], norms[name]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            convolutions[name], norms[name] = fuse_conv_bn_eval(convolution, norm), nn.Identity()

    for name in backbone.lateral:
        fold(backbone.lateral, backbone.lateral_norm, name)
    for level in backbone.convolved:
        above = str(level + 1)
        if above not in backbone.post or above in backbone.lateral:  # else made before the norm
            fold(backbone.post, backbone.norm, str(level))


def _is_wide(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.groups == 1
        and min(module.in_channels, module.out_channels) >= _WIDE
    )


def _use_map_convolutions(part: nn.Module) -> None:
    for module in list(part.modules()):
        for name, child in list(module.named_children()):
            if _is_wide(child):
                setattr(module, name, MapConvolution(child))  # type: ignore[arg-type]


def _use_region_convolutions(head: RegionHead) -> None:
    convolutions = [m for m in head.convs.modules() if isinstance(m, nn.Conv2d)]
    if convolutions and all(_is_wide(c) and c.bias is not None for c in convolutions):
        head.convs = RegionConvolutions(convolutions, BOX_POOL)  # type: ignore[assignment]
