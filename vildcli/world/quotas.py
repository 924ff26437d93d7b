"""How often every category appears, and in which images: long-tailed for training, else uniform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vildcli.world.sprites import Sprite, SpriteKind

# Instances in an image that shows the category, both ends included; LVIS's rare ones have 3.6.
TRAIN_INSTANCES = {"r": (2, 5), "c": (1, 2), "f": (1, 1)}
ONE_EACH = {"r": (1, 1), "c": (1, 1), "f": (1, 1)}
OBJECTS = (2, 10)  # of an image, both ends included
CAPTION_OBJECTS = (9, 12)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many images a world has and which share of them shows a category.

    Attributes:
        images, val_images, caption_images: where nobody says otherwise.
        train: from the most to the least seen category of a frequency.
        val, captions: every category alike.
    """

    images: int
    val_images: int
    caption_images: int
    train: Mapping[str, tuple[float, float]]
    val: float
    captions: float

    @property
    def total(self) -> int:
        """Images of all parts."""
        return self.images + self.val_images + self.caption_images


# LVIS calls a category rare up to 10 images, common up to 100, frequent beyond.
PLANS: dict[SpriteKind, Plan] = {
    "shapes": Plan(
        images=600,
        val_images=300,
        caption_images=400,
        train={"r": (10 / 600, 3 / 600), "c": (80 / 600, 14 / 600), "f": (116 / 600, 102 / 600)},
        val=32 / 300,
        captions=62 / 360,
    ),
    "emoji": Plan(
        images=2400,
        val_images=1200,
        caption_images=1200,
        train={
            "r": (10 / 2400, 2 / 2400),
            "c": (90 / 2400, 12 / 2400),
            "f": (120 / 2400, 102 / 2400),
        },
        val=33 / 1200,
        captions=46 / 1080,
    ),
}


def train_quotas(
    sprites: Sequence[Sprite], images: int, shares: Mapping[str, tuple[float, float]]
) -> dict[int, int]:
    """How many of the training images show each category id, at least one."""
    quotas: dict[int, int] = {}
    for frequency, (most, least) in shares.items():
        members = [s.id for s in sprites if s.frequency == frequency]
        counts = np.rint(images * np.geomspace(most, least, len(members))).astype(int)
        quotas |= {id_: max(1, int(count)) for id_, count in zip(members, counts, strict=True)}
    return quotas


def uniform_quotas(sprites: Sequence[Sprite], images: int, share: float) -> dict[int, int]:
    """The same number of images for every category id, at least one."""
    return {sprite.id: max(1, round(images * share)) for sprite in sprites}


def fill_images(
    sprites: Sequence[Sprite],
    images: int,
    quotas: Mapping[int, int],
    instances: Mapping[str, tuple[int, int]],
    rng: np.random.Generator,
    *,
    objects: tuple[int, int] = OBJECTS,
) -> list[list[Sprite]]:
    """Choose what every image shows: each category in its quota of images, where there is room.

    Every image has a size it strives for; those furthest from it come first, with some chance.
    One that ends below the fewest objects gets frequent ones.

    Args:
        sprites: all categories.
        images: how many to fill.
        quotas: images that show a category, by id.
        instances: fewest and most of it in such an image, by frequency.
        rng: source of chance.
        objects: fewest and most objects of an image.
    """
    shown: list[list[Sprite]] = [[] for _ in range(images)]
    sizes = rng.integers(objects[0] + 1, objects[1] + 1, images)
    for i in rng.permutation(len(sprites)):
        sprite = sprites[i]
        fullness = ([len(names) for names in shown] + rng.random(images)) / sizes
        roomy = [k for k in np.argsort(fullness, kind="stable") if len(shown[k]) < objects[1]]
        low, high = instances[sprite.frequency]
        for k in roomy[: quotas[sprite.id]]:
            count = int(rng.integers(low, high + 1))
            shown[k] += [sprite] * min(count, objects[1] - len(shown[k]))
    frequent = [s for s in sprites if s.frequency == "f"]
    for names in shown:
        missing = max(0, objects[0] - len(names))
        names += [frequent[j] for j in rng.integers(len(frequent), size=missing)]
    return shown
