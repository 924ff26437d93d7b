"""What region embeddings are stored as: they are rounded to it *before* they are scored.

So stored regions give the same labels again. float16 keeps ten bits of each number; int8 keeps
seven of each relative to the largest of its vector, in half the space. The length of a vector is
not stored as int8: it was 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.types import Regions

RegionType = Literal["float16", "int8"]
_LARGEST = 127


def as_stored(regions: Regions, kind: RegionType) -> Regions:
    """The regions with the embeddings that will be read back."""
    if kind == "float16":
        return regions
    return replace(
        regions,
        text_side=_as_int8(regions.text_side),
        image_side=_as_int8(regions.image_side),
    )


def _as_int8(side: Tensor | None) -> Tensor | None:
    return None if side is None else from_int8(to_int8(side))


def to_int8(side: Tensor) -> Tensor:
    """Unit-norm embeddings [R, D] as int8, the largest number of each at 127 or -127."""
    side = side.float()
    scale = _LARGEST / side.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (side * scale).round().to(torch.int8)


def from_int8(codes: Tensor) -> Tensor:
    """The unit-norm float32 embeddings [R, D] that int8 ones stand for."""
    return normalize(codes.float(), dim=1)
