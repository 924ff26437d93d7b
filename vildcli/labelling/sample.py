"""A random choice of images that stays itself: the same on every machine, and when more is asked.

Each image has a place of its own, by the hash of the seed and of its path; the first N are taken.
So a larger sample holds the smaller one, and images that turn up later displace few. No torch.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

from vildcli.labelling.sources import FoundImage, Key


def draw_sample(images: Iterable[FoundImage], count: int, seed: int = 0) -> frozenset[Key]:
    """The keys of `count` images, or of all where there are fewer."""

    def place(image: FoundImage) -> bytes:
        return hashlib.sha256(f"{seed}\0{image.source}\0{image.path}".encode()).digest()

    return frozenset(image.key for image in heapq.nsmallest(count, images, key=place))
