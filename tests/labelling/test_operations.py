from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d

from vildcli.labelling.operations import Operations, Rates, limit_of, measure_rates


def test_operations__count_a_product_as_by_hand() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    with Operations() as asked, torch.inference_mode():
        c = a @ b
        assert (asked.flops, asked.bytes) == (2 * 3 * 4 * 5, 4 * (12 + 20 + 15))
        c.relu_()
    assert asked.flops == 2 * 3 * 4 * 5
    assert asked.bytes == 4 * (12 + 20 + 15) + 2 * 4 * 15  # read and written


def test_operations__a_view_moves_nothing() -> None:
    a = torch.ones(6, 4)
    with Operations() as asked:
        assert a.view(4, 6)[1:].T.shape == (6, 3)
    assert asked.bytes == 0


def test_operations__count_a_convolution() -> None:
    with Operations() as asked:
        conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3), padding=1)
    assert asked.flops == 2 * 8 * 8 * 4 * 3 * 3 * 3


@pytest.mark.parametrize(
    ("seconds", "flops", "size", "bound", "at_best", "times"),
    [
        (3.0, 200, 10, "FLOPs", 2.0, 1.5),
        (3.0, 100, 30, "bytes", 3.0, 1.0),
        (20.0, 100, 30, "neither", 3.0, 20 / 3),
        (1.0, 0, 0, "neither", 0.0, float("inf")),
    ],
)
def test_limit__is_the_longer_of_both(
    seconds: float, flops: float, size: float, bound: str, at_best: float, times: float
) -> None:
    limit = limit_of(seconds, flops, size, Rates(flops=100, bytes=10))
    assert (limit.bound, limit.seconds) == (bound, at_best)
    assert limit.times == pytest.approx(times)


@pytest.mark.slow
def test_rates__are_those_of_some_machine() -> None:
    rates = measure_rates(torch.device("cpu"), torch.float32)
    assert 1e9 < rates.flops < 1e14
    assert 1e8 < rates.bytes < 1e12
