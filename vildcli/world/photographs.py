"""Backgrounds cut from somebody's photographs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from vildcli.data.images import read_image
from vildcli.labelling.sources import find_images
from vildcli.runs import file_sha256, fingerprint
from vildcli.world.textures import Pixels

LEAST_SHARE = 0.5  # of the largest crop that fits
KEPT_SIDE = 640  # pixels of the shorter side that are kept in memory


class Photographs:
    """The images of a folder, in the order of their paths.

    Raises:
        NothingToDoError: the folder is absent or holds no image.
    """

    def __init__(self, folder: Path) -> None:
        found = find_images([str(folder)])
        self.paths = [found.roots[image.source] / image.path for image in found.images]
        contents = {i.path: file_sha256(p) for i, p in zip(found.images, self.paths, strict=True)}
        self.fingerprint = fingerprint(contents)

    def crop(self, height: int, width: int, rng: np.random.Generator) -> Pixels:
        """A random part of a random photograph, resized to [H, W, 3], RGB in 0-255.

        Raises:
            DataError: it cannot be decoded.
        """
        photograph = _open(self.paths[rng.integers(len(self.paths))])
        scale = min(photograph.width / width, photograph.height / height)
        scale *= float(rng.uniform(LEAST_SHARE, 1))
        w, h = width * scale, height * scale
        x, y = rng.uniform(0, photograph.width - w), rng.uniform(0, photograph.height - h)
        box = (x, y, x + w, y + h)
        part = photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.array(part, dtype=np.float32)


@lru_cache(maxsize=64)
def _open(path: Path) -> Image.Image:
    photograph = Image.fromarray(read_image(path).pixels)
    scale = KEPT_SIDE / min(photograph.size)
    if scale >= 1:
        return photograph
    size = (round(photograph.width * scale), round(photograph.height * scale))
    return photograph.resize(size, Image.Resampling.BICUBIC)
