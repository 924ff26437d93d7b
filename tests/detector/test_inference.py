from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_detector import TINY, TRAINED, WIDTH, tiny_images
from torch import nn

from vildcli.detector.architecture import ARCHITECTURES, Architecture
from vildcli.detector.detector import Detector
from vildcli.detector.inference import for_inference
from vildcli.detector.winograd import MapConvolution, RegionConvolutions
from vildcli.systems import SYSTEMS

WIDE = replace(TINY, channels=128, fc_width=16)
DETPRO = replace(ARCHITECTURES["detpro"], image_size=64, short_side=64, channels=8, fc_width=16)


def seasoned(architecture: Architecture, system: str = "vild") -> Detector:
    """A detector whose norms have statistics of their own, as after training."""
    torch.manual_seed(0)
    detector = Detector(architecture, SYSTEMS[system], WIDTH, classes=2)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return detector.eval()


def norms(detector: Detector) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in detector.modules())


@torch.inference_mode()
def assert_same(detector: Detector, quick: Detector) -> None:
    """Part by part, each given the same: what NMS keeps may hang on a last bit."""
    images = tiny_images().float().sub(128).div(64)
    pyramid = detector.backbone(images)
    for level, found in zip(pyramid, quick.backbone(images), strict=True):
        torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-4)
    wanted, found = detector.proposal_head(pyramid), quick.proposal_head(pyramid)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.deltas, wanted.deltas, rtol=1e-4, atol=1e-4)
    regions = torch.randn(5, pyramid[0].shape[1], 7, 7)
    for name in ("head", "image_head"):
        head, other = getattr(detector, name), getattr(quick, name)
        assert (head is None) == (other is None)
        if head is not None:
            for a, b in zip(head(regions), other(regions), strict=True):
                torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
    masks = torch.randn(3, pyramid[0].shape[1], 14, 14)
    torch.testing.assert_close(
        quick.mask_head(masks), detector.mask_head(masks), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("system", TRAINED)
def test_every_system_computes_the_same(system: str) -> None:
    detector = seasoned(TINY, system)
    assert_same(detector, for_inference(detector))


@pytest.mark.parametrize("architecture", [WIDE, DETPRO], ids=["wide", "detpro"])
def test_every_shape_computes_the_same(architecture: Architecture) -> None:
    detector = seasoned(architecture, "vild-ensemble")
    quick = for_inference(detector)
    assert_same(detector, quick)
    assert norms(quick) < norms(detector) / 2
    kinds = {type(module) for module in quick.modules()}
    assert {MapConvolution, RegionConvolutions} <= kinds or architecture is DETPRO


def test_a_level_that_others_are_made_of_before_its_norm_keeps_it() -> None:
    quick = for_inference(seasoned(TINY))  # levels 2 to 5; the body ends at 4
    kept = {name for name, norm in quick.backbone.norm.items() if isinstance(norm, nn.BatchNorm2d)}
    assert kept == {"4"}


def test_the_detector_itself_stays() -> None:
    detector = seasoned(WIDE)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    for_inference(detector)
    after = detector.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in detector.parameters())


def test_exact_convolutions__norms_alone_are_folded() -> None:
    detector = seasoned(WIDE)
    quick = for_inference(detector, exact_convolutions=True)
    assert not any(isinstance(m, MapConvolution | RegionConvolutions) for m in quick.modules())
    assert norms(quick) < norms(detector) / 2
    assert_same(detector, quick)


def test_regions_are_the_same() -> None:
    detector = seasoned(TINY)
    wanted, found = (
        d.regions(list(tiny_images()), count=10) for d in (detector, for_inference(detector))
    )
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(b.boxes, a.boxes, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(b.objectness, a.objectness, rtol=1e-4, atol=1e-4)
