"""A text encoder without weights: every sentence has its own fixed direction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class StubTextEncoder:
    identity = "stub"
    temperature = 0.05
    width = 64

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def encode(self, prompts: Sequence[str]) -> Tensor:
        self.sentences += prompts
        return torch.stack([_direction(prompt, self.width) for prompt in prompts])


def _direction(prompt: str, width: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(width)
    return torch.from_numpy(3 * vector).float()  # not normalised, as a real encoder's
