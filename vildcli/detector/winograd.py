"""3 x 3 convolutions by Winograd's minimal filtering, on a CPU and for inference alone.

Outputs in a row are made of fewer products: 4 of 6 inputs by 6 instead of 12, and so in both
directions by 36 instead of 144 (Lavin and Gray, "Fast algorithms for convolutional neural
networks", 2016). Inputs and filters are transformed, multiplied channel by channel, and what comes
out is transformed back: y = A [(G g) * (B d)]. The sums are those of the convolution, rounded
elsewhere: to some 1e-6 of a typical output, where direct float32 sums come to 2e-7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Where the polynomials are evaluated, besides infinity: by number of outputs, for small errors.
_POINTS = {3: (0.0, 1.0, -1.0, 0.5), 4: (0.0, 0.625, -0.625, 1.5, -1.5)}
_SIDE = 4  # outputs of a tile of a feature map, each way
_TILES, _REGIONS = 128, 128  # computed at a time, so that they stay in the cache


def transforms(outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """A [m, m + 2], G [m + 2, 3] and B [m + 2, m + 2] of m outputs in a row, float64."""
    points = torch.tensor(_POINTS[outputs], dtype=torch.float64)

    def powers(count: int) -> Tensor:
        finite = points[:, None] ** torch.arange(count)
        return torch.cat([finite, torch.eye(count, dtype=torch.float64)[-1:]])

    inputs = torch.linalg.inv(powers(outputs + 2)).T
    scale = inputs.abs().amax(1, keepdim=True)  # what is done to filters is done once
    return powers(outputs).T, powers(3) * scale, inputs / scale


def line_transforms(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a whole line of pixels between zeros, cut into pieces of 4 and 3 outputs."""
    pieces = [4] * (length // 4) + [3] * (length % 4 // 3)
    assert sum(pieces) == length, "a line of 3, 4, 7, 8, … pixels"
    parts = [transforms(outputs) for outputs in pieces]
    products = length + 2 * len(pieces)
    outputs = torch.zeros(length, products, dtype=torch.float64)
    inputs = torch.zeros(products, length + 2, dtype=torch.float64)
    pixel = product = 0
    for count, (back, _, forth) in zip(pieces, parts, strict=True):
        own = slice(product, product + count + 2)
        outputs[pixel : pixel + count, own] = back
        inputs[own, pixel : pixel + count + 2] = forth
        pixel, product = pixel + count, own.stop
    return outputs, torch.cat([filters for _, filters, _ in parts]), inputs[:, 1:-1]


def _transformed(weight: Tensor, filters: Tensor) -> Tensor:
    """Filters [O, I, 3, 3] to [Q * Q, I, O]."""
    found = torch.einsum("ai,bj,ocij->abco", filters, filters, weight.double())
    return found.float().flatten(0, 1).contiguous()


class _Scratch:
    """Memory that is used again and again: fresh pages cost a fifth of what is computed in them."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """An empty tensor; what was taken under that name before is lost."""
        count = math.prod(shape)
        if name not in self._flat or len(self._flat[name]) < count:
            self._flat[name] = self._like.new_empty(count)
        return self._flat[name][:count].view(shape)


def _bias(convolution: nn.Conv2d) -> Tensor:
    if convolution.bias is None:
        return convolution.weight.new_zeros(convolution.out_channels)
    return convolution.bias.detach()


class MapConvolution(nn.Module):
    """What a `Conv2d` of 3 x 3 with stride and padding 1 computes of [B, C, H, W]."""

    weight: Tensor
    bias: Tensor
    inputs: Tensor
    outputs: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        outputs, filters, inputs = transforms(_SIDE)
        self.register_buffer("weight", _transformed(convolution.weight.detach(), filters))
        self.register_buffer("bias", _bias(convolution))
        self.register_buffer("inputs", torch.kron(inputs, inputs).float())
        self.register_buffer("outputs", torch.kron(outputs, outputs).float())

    def forward(self, maps: Tensor) -> Tensor:
        batch, _, height, width = maps.shape
        rows, columns = -(-height // _SIDE), -(-width // _SIDE)
        right, bottom = columns * _SIDE + 1 - width, rows * _SIDE + 1 - height
        padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, right, 1, bottom))
        made = maps.new_empty(batch, rows, _SIDE, columns, _SIDE, len(self.bias))
        step, scratch = max(1, _TILES // columns), _Scratch(maps)
        for image, into in zip(padded, made, strict=True):
            for row in range(0, rows, step):
                band = image[row * _SIDE : (row + step) * _SIDE + 2]
                tiles = band.unfold(0, _SIDE + 2, _SIDE).unfold(1, _SIDE + 2, _SIDE)
                found = self._of_tiles(tiles.permute(3, 4, 0, 1, 2), scratch)
                torch.add(found, self.bias, out=into[row : row + step])
        whole = made.view(batch, rows * _SIDE, columns * _SIDE, -1)[:, :height, :width]
        return whole.permute(0, 3, 1, 2)

    def _of_tiles(self, tiles: Tensor, scratch: _Scratch) -> Tensor:
        """[6, 6, rows, columns, C] to [rows, 4, columns, 4, O], without bias."""
        _, _, rows, columns, channels = tiles.shape
        count, size, made = len(self.inputs), rows * columns, len(self.bias)
        pixels = scratch.take("pixels", *tiles.shape).copy_(tiles).view(count, -1)
        inputs = scratch.take("inputs", count, size * channels)
        products = scratch.take("products", count, size, made)
        outputs = scratch.take("outputs", len(self.outputs), size * made)
        torch.mm(self.inputs, pixels, out=inputs)
        torch.bmm(inputs.view(count, size, channels), self.weight, out=products)
        torch.mm(self.outputs, products.flatten(1), out=outputs)
        return outputs.view(_SIDE, _SIDE, rows, columns, made).permute(2, 0, 3, 1, 4)


class RegionConvolutions(nn.Module):
    """`Conv2d`s of 3 x 3 with padding 1, a ReLU after each, of pooled regions [M, C, 7, 7]."""

    inputs: Tensor
    outputs: Tensor

    def __init__(self, convolutions: Sequence[nn.Conv2d], side: int) -> None:
        super().__init__()
        outputs, filters, inputs = line_transforms(side)
        self.register_buffer("inputs", inputs.float().contiguous())
        self.register_buffer("outputs", outputs.float().contiguous())
        for i, convolution in enumerate(convolutions):
            weight = _transformed(convolution.weight.detach(), filters)
            self.register_buffer(f"weight{i}", weight)
            self.register_buffer(f"bias{i}", _bias(convolution))
        self._count = len(convolutions)

    def forward(self, regions: Tensor) -> Tensor:
        made, scratch = torch.empty_like(regions), _Scratch(regions)
        for start in range(0, len(regions), _REGIONS):
            pixels = regions[start : start + _REGIONS].permute(2, 3, 0, 1).contiguous()
            for i in range(self._count):
                pixels = self._layer(pixels, i, scratch)
            made[start : start + _REGIONS] = pixels.permute(2, 3, 0, 1)
        return made

    def _layer(self, pixels: Tensor, layer: int, scratch: _Scratch) -> Tensor:
        """[7, 7, M, C] to the same."""
        weight, bias = self.get_buffer(f"weight{layer}"), self.get_buffer(f"bias{layer}")
        side, _, regions, channels = pixels.shape
        places = len(self.inputs)
        inputs = _both_ways(pixels.flatten(2), self.inputs, scratch)
        products = scratch.take("products", len(weight), regions, len(bias))
        torch.bmm(inputs.view(len(weight), regions, channels), weight, out=products)
        made = _both_ways(products.view(places, places, -1), self.outputs, scratch)
        return made.view(side, side, regions, -1).add_(bias).relu_()


def _both_ways(pixels: Tensor, matrix: Tensor, scratch: _Scratch) -> Tensor:
    """A transform [Q, P] along rows and columns of [P, P, N] to [Q, Q, N]."""
    count, places = matrix.shape
    rows = scratch.take(f"rows {count}", count, places * pixels.shape[2])
    torch.mm(matrix, pixels.flatten(1), out=rows)
    both = scratch.take(f"both {count}", count, count, pixels.shape[2])
    return torch.bmm(matrix.expand(count, -1, -1), rows.view(count, places, -1), out=both)
