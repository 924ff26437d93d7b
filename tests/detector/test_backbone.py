from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50

from vildcli.detector.architecture import ARCHITECTURES, Architecture
from vildcli.detector.backbone import BODIES, Backbone

WIDTHS = {
    "small": (64, 96, 128),
    "resnet50": (256, 512, 1024, 2048),
    "resnet50_caffe": (256, 512, 1024, 2048),
    "resnet152": (256, 512, 1024, 2048),
    "efficientnet_b7": (48, 80, 224, 640),
}


@pytest.mark.parametrize("name", BODIES)
def test_every_body__strides_and_widths(name: str) -> None:
    with torch.device("meta"):  # shapes alone: no weights, no arithmetic
        backbone = Backbone(replace(ARCHITECTURES["resnet50"], backbone=name))
        found = backbone.body(torch.zeros(2, 3, 128, 192))
        pyramid = backbone(torch.zeros(2, 3, 128, 192))
    strides = [(2, w, 128 >> k, 192 >> k) for k, w in enumerate(WIDTHS[name], start=2)]
    assert [tuple(x.shape) for x in found.values()] == strides
    assert [tuple(x.shape) for x in pyramid] == [(2, 256, 128 >> k, 192 >> k) for k in range(2, 7)]


@pytest.mark.parametrize("name", BODIES)
def test_every_body__norms_are_the_architectures(name: str) -> None:
    with torch.device("meta"):
        backbone = Backbone(replace(ARCHITECTURES["resnet50"], backbone=name))
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 10
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-4, 0.003)}


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet50", (3, 4, 6, 3)), ("resnet152", (3, 8, 36, 3)), ("resnet50_caffe", (3, 4, 6, 3))],
)
def test_resnets__blocks_and_where_the_stride_is(name: str, blocks: tuple[int, ...]) -> None:
    with torch.device("meta"):
        body = Backbone(replace(ARCHITECTURES["resnet50"], backbone=name)).body
    assert tuple(len(body[f"layer{k}"]) for k in (1, 2, 3, 4)) == blocks
    first = [body[f"layer{k}"][0] for k in (1, 2, 3, 4)]
    strides = [(block.conv1.stride[0], block.conv2.stride[0]) for block in first]
    later = (2, 1) if name.endswith("caffe") else (1, 2)
    assert strides == [(1, 1), later, later, later]


def test_caffe_body__has_torchvisions_names_and_shapes() -> None:
    with torch.device("meta"):
        body = Backbone(ARCHITECTURES["detpro"]).body
        published = resnet50()
    theirs = {k: v.shape for k, v in published.state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in body.state_dict().items()} == theirs


@pytest.mark.parametrize("name", ["resnet152", "efficientnet_b7"])
def test_large_bodies__run_forward_and_backward(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(replace(ARCHITECTURES[name], channels=8))
    pyramid = backbone(torch.rand(2, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in pyramid] == [(8, 64 >> k, 64 >> k) for k in range(2, 7)]
    assert all(torch.isfinite(x).all() for x in pyramid)
    torch.stack([x.square().mean() for x in pyramid]).sum().backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert not without


def normed(x: Tensor, state: dict[str, Tensor], name: str, eps: float) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (var + eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]


@pytest.mark.parametrize("ported", [False, True])
def test_pyramid__is_what_the_two_codes_build(ported: bool) -> None:
    """Published: norm after every output, P6 convolved. DetPro: norms also before the addition."""
    detail = {"norms": ("lateral", "output"), "extra_levels": "subsample"} if ported else {}
    torch.manual_seed(0)
    architecture = Architecture("small", channels=8, levels=(2, 3, 4, 5), **detail)  # type: ignore[arg-type]
    backbone = Backbone(architecture).eval()
    state = backbone.state_dict()
    for key, value in state.items():
        if "norm" in key and value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.5)
    images = torch.rand(1, 3, 72, 104)
    with torch.inference_mode():
        found = backbone(images)
        c2, c3, c4 = backbone.body(images).values()
    eps = architecture.norm_eps

    def lateral(x: Tensor, level: int) -> Tensor:
        y = F.conv2d(x, state[f"lateral.{level}.weight"], state.get(f"lateral.{level}.bias"))
        return normed(y, state, f"lateral_norm.{level}", eps) if ported else y

    def output(x: Tensor, level: int, stride: int = 1) -> Tensor:
        weight, bias = state[f"post.{level}.weight"], state.get(f"post.{level}.bias")
        return F.conv2d(x, weight, bias, stride, 1)

    m4 = lateral(c4, 4)
    m3 = lateral(c3, 3) + F.interpolate(m4, size=c3.shape[-2:])
    m2 = lateral(c2, 2) + F.interpolate(m3, size=c2.shape[-2:])
    raw = [output(m, level) for m, level in ((m2, 2), (m3, 3), (m4, 4))]
    wanted = [
        normed(x, state, f"norm.{level}", eps) for x, level in zip(raw, (2, 3, 4), strict=True)
    ]
    if ported:
        assert not [k for k in state if k.startswith(("post", "lateral.")) and k.endswith("bias")]
        assert "post.5.weight" not in state
        wanted.append(F.max_pool2d(wanted[-1], 1, stride=2))
    else:
        wanted.append(normed(output(raw[-1], 5, 2), state, "norm.5", eps))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
