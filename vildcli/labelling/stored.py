"""What region embeddings are stored as: they are rounded to it *before* they are scored.

So stored regions give the same labels again. float16 keeps ten bits of each number; int8 keeps
seven of each relative to the largest of its vector, in half the space. CLIP's vectors have a number
or two that dwarf the others, which would leave these few steps: they are rotated first, so that no
number is large. The length of a vector is not stored as int8: it was 1.
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
    """Unit-norm embeddings [R, D] as int8, rotated, the largest number of each at 127 or -127."""
    side = _rotated(side.float())
    scale = _LARGEST / side.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (side * scale).round().to(torch.int8)


def from_int8(codes: Tensor) -> Tensor:
    """The unit-norm float32 embeddings [R, D] that int8 ones stand for."""
    return _rotated(normalize(codes.float(), dim=1))


def _rotated(rows: Tensor) -> Tensor:
    """Every number of a row [R, D] spread over the others; what is rotated twice is itself again.

    The Walsh-Hadamard transform of blocks as long as D's largest power of two: sums and differences
    alone, so that it comes out the same on every machine and whatever the other rows are.
    """
    width = rows.shape[1]
    block = width & -width
    mixed, half = rows, 1
    while half < block:
        pairs = mixed.reshape(len(rows), width // (2 * half), 2, half)
        one, other = pairs[:, :, 0], pairs[:, :, 1]
        mixed = torch.stack([one + other, one - other], 2).reshape(rows.shape)
        half *= 2
    rotated: Tensor = mixed / block**0.5
    return rotated
