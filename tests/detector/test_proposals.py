from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from vildcli.detector.architecture import ARCHITECTURES, Architecture
from vildcli.detector.boxes import RPN_CODE_WEIGHTS, encode_boxes
from vildcli.detector.proposals import (
    AnchorPredictions,
    ProposalHead,
    draw,
    level_anchors,
    proposal_losses,
    sample_anchors,
    select_proposals,
)

SMALL = ARCHITECTURES["small"]


def grid(side: int, stride: int) -> Tensor:
    """Square anchors of `side` that tile 96 x 96 pixels without overlap."""
    starts = torch.arange(0, 96, stride).float()
    corners = torch.cartesian_prod(starts, starts)
    return torch.cat([corners, corners + side], 1)


ANCHORS = torch.cat([grid(8, 8), grid(32, 32)])  # 144 + 9
SIZES = (144, 9)


def predictions(batch: int = 1, seed: int = 0) -> AnchorPredictions:
    generator = torch.Generator().manual_seed(seed)
    return AnchorPredictions(
        torch.randn(batch, len(ANCHORS), generator=generator),
        torch.randn(batch, len(ANCHORS), 4, generator=generator) * 0.3,
        ANCHORS,
        SIZES,
    )


def test_anchors__eight_strides_on_every_cell() -> None:
    anchors = level_anchors(Architecture(), 3, torch.zeros(1, 1, 2, 3))
    assert anchors.shape == (2 * 3 * 3, 4)
    sizes = (anchors[:, 2:] - anchors[:, :2]).view(6, 3, 2)
    torch.testing.assert_close(sizes.prod(-1), torch.full((6, 3), 64.0**2))
    # Ratios are height / width: square, tall, wide.
    torch.testing.assert_close(sizes[0, :, 1] / sizes[0, :, 0], torch.tensor([1.0, 2.0, 0.5]))
    centres = ((anchors[:, 2:] + anchors[:, :2]) / 2).view(6, 3, 2)[:, 0]
    assert centres.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_anchors__detpros_are_centred_on_corners_and_wide_first() -> None:
    anchors = level_anchors(ARCHITECTURES["detpro"], 2, torch.zeros(1, 1, 2, 3)).view(6, 3, 4)
    wide = [22.62742, 11.31371]
    wanted = torch.tensor([wide, [16.0, 16.0], wide[::-1]])  # half sides, not rounded
    torch.testing.assert_close(anchors[0], torch.cat([-wanted, wanted], 1), atol=1e-4, rtol=0)
    centres = (anchors[:, 0, 2:] + anchors[:, 0, :2]) / 2
    assert centres.tolist() == [[0, 0], [4, 0], [8, 0], [0, 4], [4, 4], [8, 4]]


def test_head__detpros_has_one_convolution_and_no_norm() -> None:
    head = ProposalHead(replace(ARCHITECTURES["detpro"], channels=4))
    assert sorted(head.state_dict()) == sorted(
        f"{layer}.{kind}"
        for layer in ("convs.0", "deltas", "objectness")
        for kind in ("weight", "bias")
    )
    found = head([torch.rand(1, 4, s, s) for s in (25, 13, 7, 4, 2)])
    assert found.level_sizes == (1875, 507, 147, 48, 12)
    assert (found.clamp_shrinking, found.min_side) == (True, 1e-3)


@pytest.mark.parametrize(
    ("least", "sides"), [(0.0, [20, 10, 0.5]), (0.5, [20, 10, 0.5]), (0.6, [20, 10])]
)
def test_select__narrow_proposals_are_dropped(least: float, sides: list[float]) -> None:
    anchors = torch.tensor([[0.0, 0, 20, 20], [30, 30, 40, 40], [50, 50, 50.5, 90], [60, 0, 60, 9]])
    logits = torch.tensor([[4.0, 3, 2, 1]])
    found = AnchorPredictions(logits, torch.zeros(1, 4, 4), anchors, (4,), min_side=least)
    [(boxes, _)] = select_proposals(found, [(96, 96)], per_level=9, total=9)
    assert (boxes[:, 2] - boxes[:, 0]).tolist() == sides


def test_select__shrinking_is_bounded_where_asked() -> None:
    deltas = torch.tensor([[[0.0, 0, -9, -9]]])
    found = AnchorPredictions(
        torch.ones(1, 1), deltas, torch.tensor([[0.0, 0, 1000, 1000]]), (1,), clamp_shrinking=True
    )
    [(boxes, _)] = select_proposals(found, [(2000, 2000)], per_level=9, total=9)
    torch.testing.assert_close(boxes[0], torch.tensor([492.0, 492, 508, 508]))


def test_head__one_norm_per_level_and_convolution_and_shared_convolutions() -> None:
    head = ProposalHead(Architecture(channels=16))
    assert len(head.convs) == 2
    assert [len(norms) for norms in head.norms] == [2] * 5  # type: ignore[arg-type]
    pyramid = [torch.rand(2, 16, 32 // 2**i, 32 // 2**i) for i in range(5)]
    out = head(pyramid)
    assert out.level_sizes == (3072, 768, 192, 48, 12)
    assert out.logits.shape == (2, 4092)
    assert out.deltas.shape == (2, 4092, 4)
    assert out.anchors.shape == (4092, 4)


def test_select__sorted_clipped_and_capped() -> None:
    found = predictions(2)
    chosen = select_proposals(found, [(90, 70), (96, 96)], per_level=20, total=25)
    for (boxes, scores), (height, width) in zip(chosen, [(90, 70), (96, 96)], strict=True):
        assert len(boxes) == len(scores) <= 25
        assert (scores[:-1] >= scores[1:]).all()
        assert (boxes >= 0).all()
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()


def test_select__the_cap_holds_per_level() -> None:
    found = AnchorPredictions(
        torch.cat([torch.full((1, 144), 2.0), torch.full((1, 9), 1.0)], 1),
        torch.zeros(1, 153, 4),
        ANCHORS,
        SIZES,
    )
    boxes, scores = select_proposals(found, [(96, 96)], per_level=5, total=100)[0]
    sides = boxes[:, 2] - boxes[:, 0]
    assert sides.tolist() == [8.0] * 5 + [32.0] * 5
    torch.testing.assert_close(scores[[0, 5]], torch.tensor([2.0, 1.0]).sigmoid())


def test_select__overlapping_proposals_of_a_level_are_one() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    found = AnchorPredictions(
        torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 3, 4), anchors, (2, 1)
    )
    boxes, _ = select_proposals(found, [(20, 20)], per_level=10, total=10)[0]
    assert boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 9]]  # one of each level


def test_sample__positives_are_overlaps_and_each_truths_best() -> None:
    # The first equals an anchor; the second overlaps none by 0.3, yet its best anchor is positive.
    truth = torch.tensor([[8.0, 8, 16, 16], [64, 64, 70, 68]])
    positive, negative, matched = sample_anchors(ANCHORS, truth, None)
    assert {tuple(ANCHORS[p].tolist()) for p in positive} == {(8, 8, 16, 16), (64, 64, 72, 72)}
    assert truth[matched].tolist() == [truth[m].tolist() for m in matched]
    assert not set(positive.tolist()) & set(negative.tolist())
    assert len(positive) + len(negative) <= len(ANCHORS)


def test_sample__at_most_half_of_256_are_positive() -> None:
    anchors = torch.cat([ANCHORS, *[ANCHORS[:1]] * 200, *[ANCHORS[5:6]] * 200])
    positive, negative, _ = sample_anchors(anchors, ANCHORS[:1], torch.Generator().manual_seed(0))
    assert (len(positive), len(negative)) == (128, 128)
    positive, negative, _ = sample_anchors(anchors, torch.zeros(0, 4), None)
    assert (len(positive), len(negative)) == (0, 256)


def test_draw__uniform_without_replacement() -> None:
    rows = torch.arange(10, 20)
    assert draw(rows, 10, None).tolist() == rows.tolist()
    drawn = draw(rows, 4, torch.Generator().manual_seed(1)).tolist()
    assert len(set(drawn)) == 4
    assert drawn == draw(rows, 4, torch.Generator().manual_seed(1)).tolist()
    counts = np.zeros(20)
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        counts[draw(rows, 4, generator).numpy()] += 1
    assert counts[10:].min() > 150
    assert counts[10:].max() < 250


def test_losses__published_reductions() -> None:
    found = predictions(2)
    truths = [
        torch.tensor([[8.0, 8, 16, 16], [33, 33, 62, 64]]),
        torch.tensor([[0.0, 64, 8, 72]]),
    ]
    parts = proposal_losses(found, truths, [None, None])  # fewer than 256: all are sampled
    score_loss, box_loss = (part.mean() for part in parts)
    expected_score, by_level = 0.0, {0: [], 1: []}
    for b, truth in enumerate(truths):
        positive, negative, matched = sample_anchors(ANCHORS, truth, None)
        p = 1 / (1 + np.exp(-found.logits[b].double().numpy()))
        expected_score -= np.log(p[positive]).sum() + np.log(1 - p[negative]).sum()
        codes = encode_boxes(truth[matched], ANCHORS[positive], RPN_CODE_WEIGHTS)
        for row, wanted in zip(positive.tolist(), codes.double().numpy(), strict=True):
            d = np.abs(found.deltas[b, row].double().numpy() - wanted)
            huber = np.where(d <= 1 / 9, d**2 / 2, (d - 1 / 18) / 9)
            by_level[int(row >= SIZES[0])].append(huber)  # type: ignore[attr-defined]
    assert score_loss.item() == pytest.approx(expected_score / (2 * 256), rel=1e-5)
    assert all(by_level.values())
    expected = sum(np.mean(level) for level in by_level.values())
    assert box_loss.item() == pytest.approx(expected, rel=1e-5)


def test_losses__no_truth_is_finite() -> None:
    parts = proposal_losses(predictions(), [torch.zeros(0, 4)], [None])
    score_loss, box_loss = (part.mean() for part in parts)
    assert torch.isfinite(score_loss)
    assert score_loss > 0
    assert box_loss == 0


def test_small_architecture_levels_are_consecutive() -> None:
    assert all(b == a + 1 for a, b in pairwise(SMALL.levels))
