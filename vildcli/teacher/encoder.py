"""The teacher's image tower as an `ImageEncoder`: any open_clip model, its own preprocessing."""

from __future__ import annotations

from typing import Any, Literal

import torch

from vildcli.errors import ModelError
from vildcli.teacher.crops import CropRecipe, ImageEncoder
from vildcli.text.open_clip_models import LoadedClip

_FITS: dict[str, Literal["crop", "squash", "pad"]] = {
    "shortest": "crop",
    "squash": "squash",
    "longest": "pad",
}


def image_encoder_of(clip: LoadedClip, device: torch.device) -> ImageEncoder:
    """The image side of a loaded model, on a device.

    Raises:
        ModelError: its input is not square, or resized in a way that crops are not.
    """
    settings = clip.preprocessing
    height, width = settings.image_size
    if height != width or settings.interpolation != "bicubic":
        raise ModelError(
            f"{clip.reference} wants {height}x{width} {settings.interpolation} input; "
            "crops are square and bicubic.",
            hint="Use a CLIP whose input is square and bicubic, such as ViT-B-32:openai.",
        )
    recipe = CropRecipe(height, settings.mean, settings.std, fit=_FITS[settings.resize_mode])
    model: Any = clip.model.to(memory_format=torch.channels_last).to(device)  # faster on CPU
    return ImageEncoder(
        encode=model.encode_image,
        recipe=recipe,
        temperature=clip.temperature,
        identity=clip.identity,
        device=device,
    )
