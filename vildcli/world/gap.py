"""A domain gap on purpose: scenes darker, blurred and tinted, as a teacher's pictures are not.

What a teacher learned on clean pictures it then meets changed, so that adaptation has something to
repair. The objects and their boxes stay what they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

DARKEST = 0.65  # share of the light that the widest gap takes
BLUR = 1.6  # pixels, standard deviation of the widest gap
TINT = (0.0, 0.25, 0.6)  # share of red, green and blue that the widest gap takes


def widen_gap(pixels: NDArray[np.uint8], gap: float) -> NDArray[np.uint8]:
    """Render a picture [H, W, 3] RGB as a domain apart shows it.

    Args:
        gap: 0 leaves it as it is, 1 is the widest.
    """
    if gap == 0:
        return pixels
    blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * gap))
    light = (1 - DARKEST * gap) * (1 - gap * np.array(TINT))
    rendered: NDArray[np.uint8] = np.rint(np.asarray(blurred) * light).astype(np.uint8)
    return rendered
