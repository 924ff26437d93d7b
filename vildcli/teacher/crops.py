"""Crops of regions, as the teacher sees them (ViLD §3.3).

A region's embedding is normalise(v₁ + v₁.₅): the 1x and the 1.5x crop, each un-normalised in the
sum. The 1.5x crop scales both sides about the centre and is clipped to the image. Crops are resized
as the encoder's own preprocessing does: short side to the input size (bicubic, antialiased), centre
cropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from vildcli.teacher.resample import SUPPORT, resample

BATCH = 256  # crops an encoder call
_LONG = 8  # times the input size, above which resizing all of a crop is a waste


@dataclass(frozen=True, slots=True)
class CropRecipe:
    """How a box becomes the teacher's input; part of every cache key.

    Attributes:
        size: side of the encoder's input, pixels.
        mean, std: of RGB in 0-1.
        factors: the crops whose embeddings are summed.
        fit: `crop` resizes the short side and crops the centre, `squash` ignores the aspect, `pad`
            adds black.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    factors: tuple[float, ...] = (1.0, 1.5)
    fit: Literal["crop", "squash", "pad"] = "crop"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ImageEncoder:
    """The teacher's image tower.

    Attributes:
        encode: crops [M, 3, size, size] normalised float32 to embeddings [M, D], un-normalised.
        temperature: τ = 1 / logit scale.
        identity: what the weights are; part of every cache key.
    """

    encode: Callable[[Tensor], Tensor]
    recipe: CropRecipe
    temperature: float
    identity: str
    device: torch.device


def scale_box(box: Sequence[float], factor: float, height: int, width: int) -> tuple[int, ...]:
    """Scale a box about its centre, clip it to the image, round it outwards: whole pixels."""
    x1, y1, x2, y2 = box
    half_width, half_height = (x2 - x1) * factor / 2, (y2 - y1) * factor / 2
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    left = min(max(0, math.floor(centre_x - half_width)), width - 1)
    top = min(max(0, math.floor(centre_y - half_height)), height - 1)
    right = max(left + 1, min(width, math.ceil(centre_x + half_width)))
    bottom = max(top + 1, min(height, math.ceil(centre_y + half_height)))
    return left, top, right, bottom


def cut_crops(image: Tensor, boxes: Tensor, factor: float, recipe: CropRecipe) -> Tensor:
    """Crops [R, 3, size, size] uint8 of an image [3, H, W] uint8, on the image's device.

    Args:
        boxes: [R, 4] original image frame.
    """
    if not len(boxes):
        return image.new_zeros(0, 3, recipe.size, recipe.size)
    if image.device.type == "cpu":  # one by one: its 8-bit kernels are faster than products
        return torch.stack([cut_crop(image, box, factor, recipe) for box in boxes.tolist()])
    windows = [scale_box(box, factor, *image.shape[-2:]) for box in boxes.tolist()]
    return _resample(image, windows, recipe)


def cut_crop(image: Tensor, box: Sequence[float], factor: float, recipe: CropRecipe) -> Tensor:
    """One crop [3, size, size] uint8 of an image [3, H, W] uint8."""
    left, top, right, bottom = scale_box(box, factor, *image.shape[-2:])
    crop = image[:, top:bottom, left:right]
    height, width = crop.shape[-2:]
    fitted = fitted_size(height, width, recipe)
    if max(fitted) > _LONG * recipe.size:  # a sliver: nearly all of it would be cut off again
        (y1, y2), (x1, x2) = map(_seen, (height, width), fitted, (recipe.size, recipe.size))
        return _resample(crop[:, y1:y2, x1:x2], [(-x1, -y1, width - x1, height - y1)], recipe)[0]
    crop = TF.resize(crop, list(fitted), interpolation=InterpolationMode.BICUBIC, antialias=True)
    centre: Tensor = TF.center_crop(crop, [recipe.size, recipe.size])
    return centre


def _seen(length: int, fitted: int, size: int) -> tuple[int, int]:
    """First pixel of a side, and the one after the last, that its centre is made of once fitted."""
    scale, cut = length / fitted, max(0, fitted - size) / 2
    reach = SUPPORT * max(1, scale) + scale + 1  # cut may be rounded by half a pixel
    first, last = math.floor(cut * scale - reach), math.ceil((fitted - cut) * scale + reach)
    return max(0, first), min(length, last)


def fitted_size(height: int, width: int, recipe: CropRecipe) -> tuple[int, int]:
    """Height and width that a crop is resized to; its centre, or all of it padded, is the input.

    Rounded as torchvision does for `crop` and open_clip for `pad`.
    """
    size = recipe.size
    if recipe.fit == "squash":
        return size, size
    if recipe.fit == "pad":
        ratio = max(height, width) / size
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    short, long = min(height, width), max(height, width)
    stretched = int(size * long / short)
    return (size, stretched) if height <= width else (stretched, size)


def _resample(image: Tensor, windows: Sequence[tuple[int, ...]], recipe: CropRecipe) -> Tensor:
    fitted = [fitted_size(y2 - y1, x2 - x1, recipe) for x1, y1, x2, y2 in windows]
    return resample(image, windows, fitted, recipe.size)


@torch.inference_mode()
def embed_regions(image: Tensor, boxes: Tensor, encoder: ImageEncoder) -> Tensor:
    """The teacher's embedding of each region.

    Args:
        image: [3, H, W] uint8, upright.
        boxes: [R, 4] original image frame.

    Returns:
        [R, D] unit norm, float32, on the CPU.
    """
    recipe = encoder.recipe
    image = image.to(encoder.device)
    summed: Tensor | None = None
    for factor in recipe.factors:
        embeddings = encode_crops(cut_crops(image, boxes, factor, recipe), encoder)
        summed = embeddings if summed is None else summed + embeddings
    assert summed is not None, "a crop recipe has at least one factor"
    return normalize(summed, dim=-1)


@torch.inference_mode()
def encode_crops(crops: Tensor, encoder: ImageEncoder) -> Tensor:
    """Encode crops [M, 3, size, size] uint8; returns [M, D] un-normalised float32 on the CPU."""
    some = crops if len(crops) else crops.new_zeros(1, *crops.shape[1:])  # to know the width
    batches = [
        encoder.encode(normalise(batch, encoder.recipe)) for batch in torch.split(some, BATCH)
    ]
    return torch.cat(batches)[: len(crops)].float().cpu()


def normalise(crops: Tensor, recipe: CropRecipe) -> Tensor:
    """Crops [M, 3, size, size] uint8 as the encoder takes them, float32, on the same device."""
    mean = torch.tensor(recipe.mean, device=crops.device).view(3, 1, 1)
    std = torch.tensor(recipe.std, device=crops.device).view(3, 1, 1)
    return crops.float().div_(255).sub_(mean).div_(std)  # in place: they are large
