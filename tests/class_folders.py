"""Pictures in class folders, and an encoder that tells their colours apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vildcli.teacher.crops import CropRecipe, ImageEncoder

COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}


def draw(folder: Path, count: int, seed: int, classes: bool = True) -> Path:
    """Noisy pictures of three colours, `count` of each."""
    generator = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        for i in range(count):
            file = folder / name / f"{i}.png" if classes else folder / f"{name}{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(generator.normal(colour, 60, (12, 9, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(file)
    return folder


def stub(calls: list[int] | None = None) -> ImageEncoder:
    """Embeds a picture by its mean colour."""

    def encode(pixels: Tensor) -> Tensor:
        if calls is not None:
            calls.append(len(pixels))
        return torch.cat([pixels.mean((2, 3)), torch.ones(len(pixels), 1)], 1)

    recipe = CropRecipe(8, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    return ImageEncoder(encode, recipe, 0.1, "stub", torch.device("cpu"))
