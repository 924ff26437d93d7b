from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from vildcli.teacher import resample as module
from vildcli.teacher.resample import axis_weights, resample

CPU = torch.device("cpu")
HEIGHT, WIDTH = 90, 120


def noise(seed: int = 0) -> Tensor:
    """Black and white: nothing overshoots more."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (3, HEIGHT, WIDTH), generator=generator).to(torch.uint8) * 255


def windows(count: int, seed: int = 0) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(seed)
    corners = [
        np.sort(rng.choice(extent + 1, 2, replace=False)) for extent in [WIDTH, HEIGHT] * count
    ]
    return [
        (int(x[0]), int(y[0]), int(x[1]), int(y[1]))
        for x, y in zip(corners[::2], corners[1::2], strict=True)
    ]


def slowly(image: Tensor, window: tuple[int, ...], fitted: tuple[int, int]) -> Tensor:
    """Torch's own resize, axis by axis, rounded between as in 8 bits."""
    x1, y1, x2, y2 = window
    crop = image[:, y1:y2, x1:x2].float()
    for size in ((y2 - y1, fitted[1]), fitted):
        resized = interpolate(crop[None], size, mode="bicubic", antialias=True)[0]
        crop = resized.round().clamp(0, 255)
    return crop


def test_windows_of_all_sizes_at_once() -> None:
    image, some = noise(), windows(30)
    found = resample(image, some, [(32, 32)] * 30, 32)
    assert found.dtype == torch.uint8
    for crop, window in zip(found, some, strict=True):
        assert (crop.float() - slowly(image, window, (32, 32))).abs().max() <= 1


@pytest.mark.parametrize("fitted", [(32, 75), (76, 32), (33, 33), (32, 7), (8, 32), (20, 41)])
def test_the_centre_is_taken_and_what_lacks_is_black(fitted: tuple[int, int]) -> None:
    from torchvision.transforms.v2.functional import center_crop

    image, some = noise(), windows(5)
    for crop, window in zip(resample(image, some, [fitted] * 5, 32), some, strict=True):
        expected = center_crop(slowly(image, window, fitted), [32, 32])
        assert (crop.float() - expected).abs().max() <= 1


def test_a_window_sees_nothing_beyond_its_border() -> None:
    image = noise()
    inside = image[:, 30:50, 40:70]
    image[:, :30], image[:, 50:], image[:, :, :40], image[:, :, 70:] = 0, 255, 0, 255
    window, alone = (40, 30, 70, 50), (0, 0, 30, 20)
    found = resample(image, [window], [(32, 48)], 32)
    assert torch.equal(found, resample(inside, [alone], [(32, 48)], 32))


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    some, fitted = windows(7), [(32 + i, 40 - i) for i in range(7)]
    together = resample(noise(), some, fitted, 32)
    monkeypatch.setattr(module, "_ELEMENTS", 2 * 32 * 3 * HEIGHT)
    assert torch.equal(resample(noise(), some, fitted, 32), together)


def test_no_windows() -> None:
    assert resample(noise(), [], [], 32).shape == (0, 3, 32, 32)


def test_axis_weights__sum_to_one_and_to_none_in_padding() -> None:
    axis = torch.tensor([[5, 40, 10], [0, 1, 16], [3, 20, 60], [0, 50, 16]])
    sums = axis_weights(axis, 50, 16, CPU).sum(-1)
    expected = torch.ones(4, 16)
    expected[0, :3], expected[0, 13:] = 0, 0
    torch.testing.assert_close(sums, expected)


class Count(TorchDispatchMode):
    """How many operations are started."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def test_as_many_operations_for_forty_windows_as_for_two() -> None:
    counts = []
    for count in (2, 40):
        with Count() as counting:
            resample(noise(), windows(count), [(32, 32)] * count, 32)
        counts.append(counting.operations)
    assert counts[0] == counts[1] > 0
