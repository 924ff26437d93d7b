from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vildcli.teacher.anchors import RATIOS, SIDES, STRIDE, certainty, frame_scale, make_anchors


def test_the_published_grid_has_15750_anchors() -> None:
    assert len(make_anchors(800, 1333)) == 42 * 25 * 15 == 15_750


def test_anchors__one_of_each_side_and_ratio_about_a_cell() -> None:
    anchors = make_anchors(800, 1333)
    middle = (12 * 42 + 20) * 15
    boxes = anchors[middle : middle + 15]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(centres[:9], torch.tensor([[20.5, 12.5]] * 9) * STRIDE)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    expected = [(s / math.sqrt(r), s * math.sqrt(r)) for s in SIDES for r in RATIOS]
    found = torch.stack([width, height], 1)[:13]  # the last two are cut off by the image
    torch.testing.assert_close(found, torch.tensor(expected)[:13], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(50, 60), (2000, 700), (1, 5000), (801, 801)])
def test_anchors__lie_in_any_image(height: int, width: int) -> None:
    anchors = make_anchors(height, width)
    x1, y1, x2, y2 = anchors.T
    assert (x1 >= 0).all()
    assert (y1 >= 0).all()
    assert (x2 <= width).all()
    assert (y2 <= height).all()
    assert ((x2 > x1) & (y2 > y1)).all()
    assert len(anchors) > 0


def test_anchors__a_photograph_at_half_its_size_has_the_same_ones() -> None:
    whole, half = make_anchors(800, 1200), make_anchors(400, 600)
    torch.testing.assert_close(whole / 2, half, rtol=0, atol=1e-3)


def test_frame_scale__the_side_that_binds() -> None:
    assert frame_scale(400, 500) == 2
    assert frame_scale(500, 2666) == 0.5


def test_certainty__against_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    regions = normalize(torch.randn(7, 5, generator=generator), dim=-1)
    texts = normalize(torch.randn(4, 5, generator=generator), dim=-1)
    found = certainty(regions, texts, 0.1)
    logits = regions.numpy() @ texts.numpy().T / 0.1
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found.objectness, np.log(4) + (p * np.log(p)).sum(1), atol=1e-5)
    np.testing.assert_allclose(found.confidence, p.max(1), atol=1e-5)
    assert found.best.tolist() == p.argmax(1).tolist()


def test_certainty__its_limits() -> None:
    texts = torch.eye(3)
    found = certainty(torch.cat([torch.eye(3)[:1], torch.full((1, 3), 3**-0.5)]), texts, 0.001)
    torch.testing.assert_close(found.objectness, torch.tensor([math.log(3), 0.0]))
    assert (found.objectness >= 0).all()
