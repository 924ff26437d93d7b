from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import efficientnet_b7, resnet50
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.detector import Detector
from vildcli.detector.initialise import load_backbone, load_torchvision_detector
from vildcli.errors import ModelError
from vildcli.systems import SYSTEMS


def slim_detector(name: str, channels: int = 8) -> Detector:
    """The real body under heads that cost nothing."""
    torch.manual_seed(0)
    slim = replace(ARCHITECTURES[name], channels=channels, fc_width=8, box_convs=1, mask_convs=1)
    return Detector(slim, SYSTEMS["vild-text"], 8).eval()


def with_trained_norms(model: nn.Module) -> nn.Module:
    """Batch norms as training leaves them; small variances, where ε tells."""
    generator = torch.Generator().manual_seed(1)
    limits = {"weight": (0.5, 1.5), "running_mean": (-0.1, 0.1), "running_var": (1e-3, 1.0)}
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            for name, (low, high) in limits.items():
                values = getattr(module, name).data
                values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
    return model.eval()


def assert_same_scale(ours: Tensor, theirs: Tensor) -> None:
    scale = theirs.abs().mean()
    torch.testing.assert_close(ours / scale, theirs / scale, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_resnet50__computes_what_torchvisions_does() -> None:
    torch.manual_seed(1)
    published = with_trained_norms(resnet50())
    detector = slim_detector("resnet50")
    assert load_backbone(detector, published.state_dict()) == ["fc.weight", "fc.bias"]
    images = torch.rand(1, 3, 64, 64)
    found = detector.backbone.body(images)
    x = published.maxpool(published.relu(published.bn1(published.conv1(images))))
    for level in (2, 3, 4, 5):
        x = getattr(published, f"layer{level - 1}")(x)
        assert_same_scale(found[str(level)], x)


@torch.inference_mode()
def test_efficientnet_b7__computes_what_torchvisions_does() -> None:
    torch.manual_seed(1)
    published = with_trained_norms(efficientnet_b7())
    detector = slim_detector("efficientnet_b7")
    unused = load_backbone(detector, published.state_dict())
    assert {name[:10] for name in unused} == {"features.8", "classifier"}
    images = torch.rand(1, 3, 64, 64)
    found = detector.backbone.body(images)
    x = images
    for stage, module in enumerate(published.features[:8]):
        x = module(x)
        if level := {2: "2", 3: "3", 5: "4", 7: "5"}.get(stage):
            assert_same_scale(found[level], x)


def test_files_without_counters_are_as_good() -> None:
    state = {k: v for k, v in resnet50().state_dict().items() if "num_batches" not in k}
    detector = slim_detector("resnet50")
    assert load_backbone(detector, state) == ["fc.weight", "fc.bias"]


def refusal(detector: Detector, state: dict[str, Tensor]) -> ModelError:
    with pytest.raises(ModelError) as error:
        load_backbone(detector, state)
    return error.value


def test_what_is_missing_or_misshapen_is_named() -> None:
    detector = slim_detector("resnet50")
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    state = dict(resnet50().state_dict())
    del state["bn1.bias"]
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    error = refusal(detector, state)
    assert str(error) == (
        "The weights are not those of torchvision's resnet50: 1 missing: bn1.bias; "
        "1 of another shape: conv1.weight (64, 3, 3, 3) for (64, 3, 7, 7)."
    )
    assert error.hint == "Give the file that torchvision publishes for this backbone."
    assert all(torch.equal(before[k], v) for k, v in detector.state_dict().items())


def test_many_misfits_are_counted() -> None:
    assert str(refusal(slim_detector("resnet50"), {"x": torch.zeros(1)})) == (
        "The weights are not those of torchvision's resnet50: 265 missing: conv1.weight, "
        "bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var and 260 more."
    )


@pytest.mark.parametrize("name", ["small", "detpro"])
def test_bodies_that_torchvision_has_no_weights_of(name: str) -> None:
    """The caffe body's names and shapes fit; its strides do not, and it would be silently wrong."""
    detector = slim_detector(name)
    error = refusal(detector, dict(resnet50().state_dict()) if name == "detpro" else {})
    body = detector.architecture.backbone
    assert str(error) == f"There are no weights of torchvision's for the backbone {body}."
    assert error.hint == "Choose another backbone: resnet50, resnet152, efficientnet_b7."
    with pytest.raises(ModelError) as refused:
        load_torchvision_detector(detector, {})
    assert str(refused.value) == f"torchvision's detector does not fit the backbone {body}."


@pytest.fixture(scope="module")
def published() -> nn.Module:
    torch.manual_seed(1)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # as torchvision sets it for its COCO weights
    return with_trained_norms(model)


@pytest.mark.parametrize("spelling", ["new", "released"])
@torch.inference_mode()
def test_detector__body_and_pyramid_are_taken(published: nn.Module, spelling: str) -> None:
    state = published.state_dict()
    if spelling == "released":  # the file's names are older than torchvision's modules
        state = {
            re.sub(r"(blocks\.\d|head\.conv)\.0(?:\.0)?\.", r"\1.", k): v
            for k, v in state.items()
            if "num_batches" not in k
        }
        assert "backbone.fpn.inner_blocks.0.weight" in state
    detector = slim_detector("resnet50", channels=256)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    taken, random, unused = load_torchvision_detector(detector, state)
    own = detector.state_dict()
    names = {k for k in own if "num_batches" not in k}
    assert set(taken) | set(random) == names
    assert not set(taken) & set(random)
    pyramid = {
        f"backbone.{p}.{k}.{w}"
        for p in ("lateral", "post")
        for k in (2, 3, 4, 5)
        for w in ("weight", "bias")
    }
    assert {name for name in taken if not name.startswith("backbone.body.")} == pyramid
    assert not [name for name in random if name.startswith("backbone.body.")]
    assert all(torch.equal(before[name], own[name]) for name in random)
    assert all(name.startswith(("rpn.", "roi_heads.")) for name in unused)
    assert len(unused) == len([k for k in state if k.startswith(("rpn.", "roi_heads."))])
    images = torch.rand(1, 3, 64, 64)
    theirs = published.backbone(images)  # type: ignore[operator]
    pyramid_before_norm = _outputs(detector, images)
    for ours, name in zip(pyramid_before_norm, ("0", "1", "2", "3"), strict=True):
        assert_same_scale(ours, theirs[name])


def _outputs(detector: Detector, images: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    for level in ("2", "3", "4", "5"):
        detector.backbone.norm[level].register_forward_pre_hook(
            lambda _, args: found.append(args[0])
        )
    detector.backbone(images)
    return found
