"""Label Studio's brush: the run lengths of its `brushlabels`, packed bit by bit.

Its format is that of thi.ng's rle-pack, over the RGBA bytes of the whole image, row by row:

    32 bits the number of bytes · 5 the bits of a value less 1 · 4 x 4 the bits of each size less 1
    then for each run: 1 bit set · 2 the size used · the run's length less 1 · the value
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vildcli.labelling.masks import run_lengths

_CHANNELS = 4
_HEADER_BITS = 32 + 5 + 4 * 4
_VALUE_BITS = 8
_SIZES = (3, 4, 8, 16)  # bits of a run's length, of which each run takes the fewest


def brush_rle(
    crop: NDArray[np.bool_], corner: tuple[int, int], height: int, width: int
) -> list[int]:
    """Encode a pasted crop, bool [h, w], as bytes in 0-255; arguments as for `crop_to_rle`."""
    runs = run_lengths(crop.T, corner[::-1], width, height)
    header = f"{height * width * _CHANNELS:032b}{_VALUE_BITS - 1:05b}"
    sizes = "".join(f"{size - 1:04b}" for size in _SIZES)
    bits = "".join(itertools.chain((header, sizes), _run_bits(runs)))
    count = -(-len(bits) // 8)
    return list(int(bits.ljust(count * 8, "0"), 2).to_bytes(count, "big"))


def _run_bits(runs: list[int]) -> Iterator[str]:
    longest = 2 ** _SIZES[-1]
    for run, value in zip(runs, itertools.cycle((0, 255)), strict=False):
        left = run * _CHANNELS
        while left:
            length = min(left, longest)
            place, size = next((i, s) for i, s in enumerate(_SIZES) if length <= 2**s)
            yield f"1{place:02b}{length - 1:0{size}b}{value:08b}"
            left -= length


def brush_size(rle: bytes) -> tuple[int | None, bool]:
    """How many bytes a brush stands for, None where it breaks off; and whether all are 0."""
    bits = bin(int.from_bytes(b"\x01" + rle, "big"))[3:]  # less 0b1
    if len(bits) < _HEADER_BITS:
        return None, True
    total, word = int(bits[:32], 2), int(bits[32:37], 2) + 1
    sizes = [int(bits[place : place + 4], 2) + 1 for place in range(37, _HEADER_BITS, 4)]
    done, is_empty, place = 0, True, _HEADER_BITS
    while done < total and place + 3 <= len(bits):
        is_run, size = bits[place] == "1", sizes[int(bits[place + 1 : place + 3], 2)]
        place += 3
        length = int(bits[place : place + size] or "0", 2) + 1
        place += size
        end = place + (word if is_run else word * length)
        is_empty = is_empty and "1" not in bits[place:end]
        place, done = end, done + length
    return (done if done == total and place <= len(bits) else None), is_empty
