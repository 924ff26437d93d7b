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
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

BATCH = 256  # crops an encoder call


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


def cut_crop(image: Tensor, box: Sequence[float], factor: float, recipe: CropRecipe) -> Tensor:
    """One crop [3, size, size] uint8 of an image [3, H, W] uint8."""
    left, top, right, bottom = scale_box(box, factor, *image.shape[-2:])
    return fit_crop(image[:, top:bottom, left:right], recipe)


def fit_crop(crop: Tensor, recipe: CropRecipe) -> Tensor:
    """Bring a crop [3, h, w] uint8 to [3, size, size] by the recipe's rule."""
    size = recipe.size
    if recipe.fit == "pad":
        height, width = crop.shape[-2:]
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        crop = F.pad(crop, (left, side - width - left, top, side - height - top))
    target = [size, size] if recipe.fit != "crop" else [size]
    crop = TF.resize(crop, target, interpolation=InterpolationMode.BICUBIC, antialias=True)
    cropped: Tensor = TF.center_crop(crop, [size, size])
    return cropped


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
        crops = [cut_crop(image, box, factor, recipe) for box in boxes.tolist()]
        embeddings = encode_crops(crops, encoder)
        summed = embeddings if summed is None else summed + embeddings
    assert summed is not None, "a crop recipe has at least one factor"
    return F.normalize(summed, dim=-1)


@torch.inference_mode()
def encode_crops(crops: Sequence[Tensor], encoder: ImageEncoder) -> Tensor:
    """Encode crops [3, size, size] uint8; returns [M, D] un-normalised float32 on the CPU."""
    recipe = encoder.recipe
    mean = torch.tensor(recipe.mean, device=encoder.device).view(3, 1, 1)
    std = torch.tensor(recipe.std, device=encoder.device).view(3, 1, 1)
    batches = [
        encoder.encode((torch.stack(list(crops[i : i + BATCH])).float() / 255 - mean) / std)
        for i in range(0, len(crops), BATCH)
    ]
    if not batches:
        none = torch.zeros(1, 3, recipe.size, recipe.size, device=encoder.device)
        batches = [encoder.encode(none)[:0]]
    return torch.cat(batches).float().cpu()
