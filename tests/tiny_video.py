"""Draws videos whose frames tell their own number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

LEVEL = 10  # grey levels between two frames: more than a codec loses


def draw_video(
    path: Path,
    *,
    frames: int = 20,
    rate: int = 10,
    start: int = 0,
    rotation: int = 0,
    size: tuple[int, int] = (48, 32),
) -> Path:
    """Frame i is grey LEVEL * i, with a red square at the top left; `start` frames of nothing."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"g": "7"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(frames):
            pixels = np.full((size[1], size[0], 3), LEVEL * i, np.uint8)
            pixels[:8, :8] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = start + i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number_of(pixels: np.ndarray) -> int:
    """The number of a frame, read from its middle."""
    height, width = pixels.shape[:2]
    middle = pixels[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4]
    return round(float(middle.mean()) / LEVEL)
