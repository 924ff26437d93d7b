"""Crops of an image by matrix products: all windows of a batch at once, however different in size.

    crop = rows [S, H] · image [H, W] · columnsᵀ [W, S]

The weights are those of Pillow's antialiased bicubic filter (a = -0.5, widened where it shrinks,
cut off and normalised at the window's border), and values are rounded to 8 bits after the first
product as they are there. Resizing, centre crop and padding are all in the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CUBIC = -0.5
SUPPORT = 2.0  # pixels of the coarser grid that the filter reaches on either side
_ELEMENTS = 1 << 26  # of a batch's greatest tensor: 256 MiB


def resample(
    image: Tensor,
    windows: Sequence[Sequence[int]],
    fitted: Sequence[tuple[int, int]],
    size: int,
) -> Tensor:
    """Resize windows of an image and take the centres.

    Args:
        image: [3, H, W] uint8, on any device.
        windows: x1 y1 x2 y2 in whole pixels, within the image; R of them. They may reach beyond an
            image that is all of them that is seen.
        fitted: height and width that each is resized to. Where they exceed `size` the centre is
            taken, where they fall short black is added, as torchvision's centre crop does.

    Returns:
        [R, 3, size, size] uint8, on the image's device.
    """
    height, width = image.shape[-2:]
    pixels = image.to(torch.float32).reshape(3 * height, width)
    pairs = list(zip(windows, fitted, strict=True))
    rows = torch.tensor([(y1, y2 - y1, h) for (_, y1, _, y2), (h, _) in pairs])
    columns = torch.tensor([(x1, x2 - x1, w) for (x1, _, x2, _), (_, w) in pairs])
    step = max(1, _ELEMENTS // (size * max(3 * height, width)))
    crops = [torch.zeros(0, 3, size, size, dtype=torch.uint8, device=image.device)]
    for start in range(0, len(windows), step):
        across = axis_weights(columns[start : start + step], width, size, image.device)
        down = axis_weights(rows[start : start + step], height, size, image.device)
        narrow = _round(across.reshape(-1, width) @ pixels.T).reshape(-1, size * 3, height)
        crop = _round(narrow @ down.transpose(1, 2)).reshape(-1, size, 3, size)  # x, channel, y
        crops.append(crop.permute(0, 2, 3, 1).to(torch.uint8))
    return torch.cat(crops)


def axis_weights(axis: Tensor, extent: int, size: int, device: torch.device) -> Tensor:
    """Weights of one axis.

    Args:
        axis: [M, 3] of each window its start and length in the image, and the length that it is
            resized to.
        extent: pixels of the image on this axis, E.

    Returns:
        [M, size, E] float32; a row sums to 1, or to 0 in padding.
    """
    # [M, 1] and [M, size], in float64, which not every accelerator has.
    start, length, fitted = axis.unsqueeze(-1).unbind(1)
    surplus = fitted - size
    # Half of an odd surplus goes to the even side, half of an odd shortage to the end.
    offset = torch.where(surplus >= 0, (surplus / 2).round().long(), -(-surplus // 2))
    out = torch.arange(size) + offset  # places in the resized window
    is_padding = (out < 0) | (out >= fitted)
    scale = length.double() / fitted
    centre = (out + 0.5) * scale
    reach = SUPPORT * scale.clamp(min=1)
    first = (centre - reach + 0.5).long().clamp(min=0)
    last = torch.minimum((centre + reach + 0.5).long(), length).masked_fill(is_padding, 0)
    whole = centre.floor().long()  # apart from the fraction, so that float32 is exact enough
    fraction = (centre - whole - 0.5).float()
    sharpness = (1 / scale.clamp(min=1)).float()
    # [M, size, E], on the device.
    place = torch.arange(extent, device=device) - start.to(device)[..., None]  # in the window
    distance = (place - whole.to(device)[..., None]).float() - fraction.to(device)[..., None]
    weights = _cubic(distance * sharpness.to(device)[..., None])
    inside = (place >= first.to(device)[..., None]) & (place < last.to(device)[..., None])
    weights = weights * inside
    padding = is_padding.to(device)[..., None]
    return weights / weights.sum(-1, keepdim=True).masked_fill(padding, 1)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution."""
    x, a = x.abs(), _CUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _round(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255)
