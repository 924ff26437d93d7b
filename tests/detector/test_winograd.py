from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from vildcli.detector.winograd import (
    MapConvolution,
    RegionConvolutions,
    line_transforms,
    transforms,
)


def convolution(inputs: int, outputs: int, *, bias: bool = True, seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    made = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made.requires_grad_(False)


def exactly(layer: nn.Conv2d, pixels: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.double()
    return conv2d(pixels.double(), layer.weight.double(), bias, padding=1)


def error(found: Tensor, wanted: Tensor) -> float:
    """Root of the mean square, in typical outputs."""
    return float((found - wanted).square().mean().sqrt() / wanted.abs().mean())


@pytest.mark.parametrize("count", [3, 4])
def test_transforms__filter_a_row(count: int) -> None:
    outputs, filters, inputs = transforms(count)
    row, taps = torch.randn(count + 2).double(), torch.randn(3).double()
    made = outputs @ ((filters @ taps) * (inputs @ row))
    wanted = torch.stack([row[i : i + 3] @ taps for i in range(count)])
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "products"), [(3, 5), (4, 6), (7, 11), (8, 12)])
def test_line_transforms__filter_a_line_between_zeros(length: int, products: int) -> None:
    outputs, filters, inputs = line_transforms(length)
    assert (len(filters), inputs.shape) == (products, (products, length))
    line, taps = torch.randn(length).double(), torch.randn(3).double()
    padded = torch.cat([torch.zeros(1), line, torch.zeros(1)])
    wanted = torch.stack([padded[i : i + 3] @ taps for i in range(length)])
    made = outputs @ ((filters @ taps) * (inputs @ line))
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 12), (1, 1), (5, 31), (40, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_map_convolution__is_the_convolution(size: tuple[int, int], bias: bool) -> None:
    layer = convolution(24, 40, bias=bias)
    pixels = torch.randn(2, 24, *size).relu()
    found, wanted = MapConvolution(layer)(pixels), exactly(layer, pixels)
    assert found.shape == wanted.shape
    assert found.stride(1) == 1  # channels last
    assert error(found, wanted) < 2e-6


def test_map_convolution__bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, pixels = convolution(8, 8), torch.randn(1, 8, 37, 22)
    whole = MapConvolution(layer)(pixels)
    monkeypatch.setattr("vildcli.detector.winograd._TILES", 6)
    torch.testing.assert_close(MapConvolution(layer)(pixels), whole)


@pytest.mark.parametrize("regions", [0, 1, 7])
def test_region_convolutions__are_the_convolutions(
    regions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vildcli.detector.winograd._REGIONS", 3)
    layers = [convolution(32, 32, seed=i) for i in range(3)]
    pixels = torch.randn(regions, 32, 7, 7)
    wanted = pixels
    for layer in layers:
        wanted = exactly(layer, wanted).relu()
    found = RegionConvolutions(layers, 7)(pixels)
    assert found.shape == wanted.shape
    assert not regions or error(found, wanted) < 3e-6


def test_errors_are_those_of_float32() -> None:
    """At the detector's width: no more than ten times what direct sums are off."""
    layer, pixels = convolution(256, 256), torch.randn(1, 256, 12, 12).relu()
    wanted = exactly(layer, pixels)
    direct = error(layer(pixels), wanted)
    assert error(MapConvolution(layer)(pixels), wanted) < 10 * direct
    regions = torch.randn(4, 256, 7, 7).relu()
    wanted = exactly(layer, regions).relu()
    assert error(RegionConvolutions([layer], 7)(regions), wanted) < 10 * direct
