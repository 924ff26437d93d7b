from __future__ import annotations

import pytest
import torch
from tiny_detector import TINY, tiny_context, tiny_detector, tiny_images, tiny_target
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vildcli.detector.detector import Detector
from vildcli.detector.heads import RegionHead
from vildcli.detector.normalisation import RowNorm, freeze_norms, synchronise_norms


def statistics(detector: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in detector.named_buffers() if "running" in k}


def step(detector: Detector) -> None:
    losses = detector(tiny_images(), [tiny_target(), tiny_target(1)], tiny_context("vild-text"))
    torch.cat([part.mean().flatten() for part in losses.values()]).sum().backward()


@pytest.mark.parametrize("which", ["none", "backbone", "all"])
def test_freeze__chosen_statistics_stay_and_every_weight_trains(which: str) -> None:
    detector = tiny_detector("vild-text").train()
    freeze_norms(detector, which)  # type: ignore[arg-type]
    before = statistics(detector)
    step(detector)
    moved = {name for name, value in statistics(detector).items() if (value != before[name]).any()}
    body = {name for name in before if name.startswith("backbone.body.")}
    assert body
    expected = {"none": set(before), "backbone": set(before) - body, "all": set()}[which]
    assert moved == expected
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm)]
    assert all(m.weight.grad is not None and m.bias.grad is not None for m in norms)
    assert detector.training
    detector.train()
    assert all(m.training for m in norms)  # hence: freeze after train()


def test_synchronise__every_norm_and_the_same_weights() -> None:
    detector = tiny_detector("vild-text").eval()
    before = dict(detector.state_dict())
    with torch.no_grad():
        features = torch.rand(3, TINY.channels, 7, 7)
        wanted = detector.head(features)[1]
    synchronise_norms(detector)
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert {(m.eps, m.momentum) for m in norms} == {(TINY.norm_eps, TINY.norm_momentum)}
    after = detector.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)
    with torch.no_grad():
        assert torch.equal(detector.head(features)[1], wanted)


def test_row_norm__is_batch_norm_of_two_rows_and_more() -> None:
    torch.manual_seed(0)
    ours, theirs = RowNorm(4), nn.BatchNorm1d(4)
    for rows in (2, 5):
        x = torch.rand(rows, 4)
        assert torch.equal(ours.train()(x), theirs.train()(x))
        assert torch.equal(ours.eval()(x[:1]), theirs.eval()(x[:1]))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))


def test_row_norm__is_what_normalises_the_box_heads_rows() -> None:
    assert isinstance(RegionHead(TINY, 8).fcs[1], RowNorm)
