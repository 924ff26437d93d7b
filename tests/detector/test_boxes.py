from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vildcli.detector.boxes import (
    BOX_CODE_WEIGHTS,
    RPN_CODE_WEIGHTS,
    decode_boxes,
    encode_boxes,
    match_boxes,
)

sides = st.floats(1, 500)
corners = st.floats(-50, 800)
boxes = st.builds(lambda x, y, w, h: [x, y, x + w, y + h], corners, corners, sides, sides)


@given(boxes, boxes, st.sampled_from([RPN_CODE_WEIGHTS, BOX_CODE_WEIGHTS]))
def test_decode_undoes_encode(
    box: list[float], reference: list[float], weights: tuple[float, ...]
) -> None:
    # A box that grows more than 62.5 times is cut, so that exp cannot overflow.
    wanted, references = torch.tensor([box]), torch.tensor([reference])
    grown = (wanted[:, 2:] - wanted[:, :2]) / (references[:, 2:] - references[:, :2])
    found = decode_boxes(encode_boxes(wanted, references, weights), references, weights)
    if grown.max() < 62:
        torch.testing.assert_close(found, wanted, atol=0.05, rtol=1e-4)


def test_encode__by_hand() -> None:
    wanted, reference = torch.tensor([[10.0, 0, 30, 40]]), torch.tensor([[0.0, 0, 20, 20]])
    log2 = torch.log(torch.tensor(2.0)).item()
    expected = torch.tensor([[10 * 0.5, 10 * 0.5, 0.0, 5 * log2]])
    torch.testing.assert_close(encode_boxes(wanted, reference, BOX_CODE_WEIGHTS), expected)


def test_decode__huge_codes_stay_finite() -> None:
    found = decode_boxes(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 8, 8]]), RPN_CODE_WEIGHTS)
    assert torch.isfinite(found).all()
    assert (found[0, 2] - found[0, 0]).item() == pytest.approx(8 * 62.5)


@pytest.mark.parametrize("clamp", [False, True])
def test_decode__shrinking_is_bounded_where_asked(clamp: bool) -> None:
    codes, reference = torch.tensor([[0.0, 0, -9, -50]]), torch.tensor([[0.0, 0, 1000, 1000]])
    found = decode_boxes(codes, reference, (1.0, 1.0, 1.0, 2.0), clamp_shrinking=clamp)
    sides = (found[:, 2:] - found[:, :2]).tolist()[0]
    assert sides == pytest.approx([16, 16] if clamp else [0.1234, 0], abs=1e-3)


@pytest.mark.parametrize("truth", [torch.zeros(0, 4), torch.tensor([[0.0, 0, 10, 10]])])
def test_match_boxes(truth: Tensor) -> None:
    iou, rows = match_boxes(torch.tensor([[0.0, 0, 10, 5], [20, 20, 30, 30]]), truth)
    assert iou.tolist() == [0.5 if len(truth) else 0.0, 0.0]
    assert rows.tolist() == [0, 0]
