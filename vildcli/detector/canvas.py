"""Images to the frame that the network sees, and boxes back to the original image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Canvas:
    """An image fitted into image_size, padded at the right and bottom with zeros: the mean colour.

    Attributes:
        pixels: [3, h, w] normalised float32; h and w are multiples of the coarsest stride.
        content: (height, width) of the resized image on it.
        original: (height, width) of the image before resizing.
    """

    pixels: Tensor
    content: tuple[int, int]
    original: tuple[int, int]

    def to_original(self, boxes: Tensor) -> Tensor:
        """Boxes [R, 4] from canvas pixels to the original image frame, clipped to it."""
        height, width = self.original
        scale = boxes.new_tensor([width / self.content[1], height / self.content[0]] * 2)
        limit = boxes.new_tensor([width, height] * 2)
        return (boxes * scale).clamp(min=0).minimum(limit)

    def from_original(self, boxes: Tensor) -> Tensor:
        """Boxes [R, 4] from the original image frame to canvas pixels."""
        height, width = self.original
        return boxes * boxes.new_tensor([self.content[1] / width, self.content[0] / height] * 2)


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Uint8 RGB [..., 3, H, W] to normalised float32."""
    shape = (3, 1, 1)
    offset = torch.tensor(mean, device=pixels.device).view(shape)
    scale = torch.tensor(std, device=pixels.device).view(shape)
    return (pixels.float() / 255 - offset) / scale


def make_canvas(
    image: Tensor,
    *,
    size: int,
    stride: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    short_side: int | None = None,
    resize: Literal["antialias", "opencv"] = "antialias",
) -> Canvas:
    """Fit an image [3, H, W] uint8 into size x size.

    The canvas depends on this image alone, never on its neighbours in a batch: padding reaches into
    features.

    Args:
        short_side, resize: see `Architecture`.
    """
    height, width = image.shape[-2:]
    content = content_size(height, width, size=size, short_side=short_side, resize=resize)
    if resize == "opencv":
        image = resize_bytes(image, content)
    pixels = normalise(image, mean, std)
    if pixels.shape[-2:] != content:
        pixels = F.interpolate(
            pixels[None], size=content, mode="bilinear", antialias=True, align_corners=False
        )[0]
    bottom, right = (-content[0]) % stride, (-content[1]) % stride
    return Canvas(F.pad(pixels, (0, right, 0, bottom)), content, (height, width))


def content_size(
    height: int,
    width: int,
    *,
    size: int,
    short_side: int | None = None,
    resize: Literal["antialias", "opencv"] = "antialias",
) -> tuple[int, int]:
    """Height and width that an image is resized to; arguments as `make_canvas`."""
    scale = size / max(height, width)
    if short_side is not None:
        scale = min(scale, short_side / min(height, width))
    rounded = _half_up if resize == "opencv" else round
    return max(1, rounded(height * scale)), max(1, rounded(width * scale))


def resize_bytes(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [3, H, W] uint8 bilinearly, without antialiasing, to bytes: OpenCV's INTER_LINEAR."""
    floats = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)
    return (floats[0] + 0.5).to(torch.uint8)  # half up


def _half_up(value: float) -> int:
    return int(value + 0.5)
