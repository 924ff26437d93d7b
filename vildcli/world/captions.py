"""Captioned crops: the small world's teacher learns from them, as CLIP did from the web."""

from __future__ import annotations

from typing import Any

import numpy as np

from vildcli.text.templates import Prompts, fill, load_prompts
from vildcli.world.scenes import Scene

CAPTION_PROMPTS = "vild-63"
COLOUR_SHARE = 0.5  # of the crops of objects say their colour
BACKGROUND_CROPS = 9  # of a scene without objects
BACKGROUND_SIDES = (24, 97)  # pixels, the second excluded


def caption_objects(scene: Scene, file_name: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One captioned crop for every object of a scene."""
    prompts = load_prompts(CAPTION_PROMPTS)
    crops = []
    for found in scene.objects:
        x0, y0, x1, y1 = found.box
        says_colour = rng.random() < COLOUR_SHARE
        said = f"{found.colour} {found.sprite.name}" if says_colour else found.sprite.name
        crops.append(
            {
                "file_name": file_name,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "name": found.sprite.name,
                "colour": found.colour,
                "caption": _caption(said, prompts, rng),
            }
        )
    return crops


def caption_background(
    scene: Scene, file_name: str, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Captioned crops of a scene that shows nothing but its background."""
    prompts = load_prompts(CAPTION_PROMPTS)
    height, width = scene.pixels.shape[:2]
    crops = []
    for _ in range(BACKGROUND_CROPS):
        w, h = (int(side) for side in rng.integers(*BACKGROUND_SIDES, size=2))
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        crops.append(
            {
                "file_name": file_name,
                "bbox": [x, y, w, h],
                "name": scene.background,
                "colour": None,
                "caption": _caption(scene.background, prompts, rng, countable=False),
            }
        )
    return crops


def _caption(
    said: str, prompts: Prompts, rng: np.random.Generator, *, countable: bool = True
) -> str:
    template = prompts.templates[int(rng.integers(len(prompts.templates)))]
    if not countable:  # "a photo of grass", not "a photo of a grass"
        template = template.replace("{article} ", "")
    return fill(template, said, this_is=prompts.this_is)
