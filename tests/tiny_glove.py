"""Small files of GloVe's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

VECTORS = {
    "apple": (0.6, -0.2, 0.1, 0.5),
    "pear": (-0.4, 0.8, 0.3, 0.2),
    "anjou": (-0.1, 0.7, -0.9, 0.4),
    "red": (0.3, 0.3, 1.2, -0.7),
    "t-shirt": (1.5, 0.1, -0.4, 0.9),
    "doll": (-0.8, -0.5, 0.2, 0.6),
    "house": (0.2, -1.1, 0.7, 0.1),
    "of": (9.0, 9.0, 9.0, 9.0),
    "the": (-9.0, 9.0, -9.0, 9.0),
}


def write_glove(path: Path, vectors: Mapping[str, Sequence[float]] = VECTORS) -> Path:
    """Write what GloVe's own program writes: five significant digits, a space between."""
    lines = [" ".join([word, *(f"{x:.5g}" for x in row)]) for word, row in vectors.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def wide(width: int) -> dict[str, list[float]]:
    """The same words with vectors of another width."""
    rows = np.random.default_rng(0).standard_normal((len(VECTORS), width))
    return dict(zip(VECTORS, rows.tolist(), strict=True))
