"""Checkpoints of the form of DetPro's released ones, from their tables of keys and shapes.

And a detector that computes from such a state dict alone, in plain functions: what ours is held to.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms, roi_align

State = dict[str, Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the detector but batch norm's counters."""
    return {
        **_norm("backbone.bn1", 64),
        **_backbone(),
        **_neck(),
        **_layer("rpn_head.rpn_conv", 256, 256, 3, 3),
        **_layer("rpn_head.rpn_cls", 3, 256, 1, 1),
        **_layer("rpn_head.rpn_reg", 12, 256, 1, 1),
        **_box_head(""),
        **_box_head("_for_image"),
        **_layer("roi_head.bbox_head.fc_reg", 4, 1024),
        **_layer("roi_head.bg_embedding", 512, 1),
        **_layer("roi_head.mask_head.convs.0.conv", 256, 256, 3, 3),
        **_layer("roi_head.mask_head.convs.1.conv", 256, 256, 3, 3),
        **_layer("roi_head.mask_head.convs.2.conv", 256, 256, 3, 3),
        **_layer("roi_head.mask_head.convs.3.conv", 256, 256, 3, 3),
        **_layer("roi_head.mask_head.upsample", 256, 256, 2, 2),
        **_layer("roi_head.mask_head.conv_logits", 1, 256, 1, 1),
    }


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (width,) for part in parts}


def _layer(name: str, *weight: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": (weight[0],)}


def _backbone() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"backbone.conv1.weight": (64, 3, 7, 7)}
    inputs = 64
    for stage, (planes, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
        for block in range(blocks):
            name = f"backbone.layer{stage}.{block}"
            found[f"{name}.conv1.weight"] = (planes, inputs, 1, 1)
            found[f"{name}.conv2.weight"] = (planes, planes, 3, 3)
            found[f"{name}.conv3.weight"] = (4 * planes, planes, 1, 1)
            found |= _norm(f"{name}.bn1", planes) | _norm(f"{name}.bn2", planes)
            found |= _norm(f"{name}.bn3", 4 * planes)
            if block == 0:
                found[f"{name}.downsample.0.weight"] = (4 * planes, inputs, 1, 1)
                found |= _norm(f"{name}.downsample.1", 4 * planes)
            inputs = 4 * planes
    return found


def _neck() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for i, width in enumerate((256, 512, 1024, 2048)):
        found[f"neck.lateral_convs.{i}.conv.weight"] = (256, width, 1, 1)
        found[f"neck.fpn_convs.{i}.conv.weight"] = (256, 256, 3, 3)
        found |= _norm(f"neck.lateral_convs.{i}.bn", 256) | _norm(f"neck.fpn_convs.{i}.bn", 256)
    return found


def _box_head(suffix: str) -> dict[str, tuple[int, ...]]:
    found = _layer(f"roi_head.bbox_head.shared_fcs{suffix}.0", 1024, 12544)
    found |= _layer(f"roi_head.projection{suffix}", 512, 1024)
    for i in range(4):
        name = f"roi_head.bbox_head.shared_convs{suffix}.{i}"
        found |= {f"{name}.conv.weight": (256, 256, 3, 3), **_norm(f"{name}.bn", 256)}
    return found


def make_state(seed: int = 0) -> State:
    """Random weights that keep activations of order one; 375 tensors, counters and some of CLIP."""
    generator = torch.Generator().manual_seed(seed)
    gains = {"lateral": 0.03, "rpn_cls": 3.0, "rpn_reg": 0.3, "fc_reg": 1.0}
    state: State = OrderedDict()
    for name, shape in shapes().items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = values.abs() * 0.3 + 0.5
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(9)
        elif len(shape) == 1 and name.endswith(
            "weight"
        ):  # of batch norm; small where a sum follows
            state[name] = (values * 0.1 + 1) * (0.3 if ".bn3." in name else 1)
        elif len(shape) == 1:
            state[name] = values * 0.1
        else:
            gain = next((g for part, g in gains.items() if part in name), 1.4)
            state[name] = values * (gain / math.sqrt(math.prod(shape[1:])))
    state["rpn_head.rpn_reg.bias"][3] = -6.0  # heights of wide anchors shrink beyond the bound
    clip = "roi_head.clip_model"
    state[f"{clip}.logit_scale"] = torch.tensor(4.6052)
    state[f"{clip}.visual.conv1.weight"] = torch.zeros(8, 3, 4, 4).half()
    state[f"{clip}.ln_final.weight"] = torch.ones(512)
    return state


def small_state() -> State:
    """The same names and shapes, each tensor one number of its own: a file of some kilobytes."""
    state = {n: torch.tensor(float(i)).expand(s) for i, (n, s) in enumerate(shapes().items())}
    for name in list(state):
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(9)
    state["roi_head.clip_model.logit_scale"] = torch.tensor(4.6052)
    state["roi_head.clip_model.visual.conv1.weight"] = torch.zeros(8, 3, 4, 4).half()
    return state


def make_checkpoint(state: State, *, optimizer: bool = True) -> dict[str, Any]:
    """What mmcv's checkpoint hook writes: plain values, and SGD's momentum where it is kept."""
    meta = {
        "epoch": 20, "iter": 123, "mmcv_version": "1.2.5", "time": "Tue Mar  8 00:00:00 2022",
        "CLASSES": ("aerosol_can", "air_conditioner"), "config": "model = dict()", "seed": None,
        "hook_msgs": {"last_ckpt": "epoch_20.pth"},
    }  # fmt: skip
    checkpoint: dict[str, Any] = {"meta": meta, "state_dict": state}
    if optimizer:
        momenta = {0: {"momentum_buffer": torch.zeros(64, 3, 7, 7)}}
        groups = [{"lr": 0.02, "momentum": 0.9, "params": [0]}]
        checkpoint["optimizer"] = {"state": momenta, "param_groups": groups}
    return checkpoint


def write_checkpoint(path: Path, state: State, **options: bool) -> Path:
    torch.save(make_checkpoint(state, **options), path)
    return path


class PlainDetector:
    """DetPro's inference stage by stage, from its own names, of one image at one scale."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, self.state[f"{name}.weight"], bias, stride, padding)

    def norm(self, x: Tensor, name: str) -> Tensor:
        s = self.state
        mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, s[f"{name}.weight"], s[f"{name}.bias"], eps=1e-5)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def bottleneck(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = F.relu(self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
        y = F.relu(self.norm(self.conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2"))
        y = self.norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return F.relu(x + y)

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        """P2 to P6 of normalised, padded pixels [1, 3, H, W]."""
        x = F.relu(self.norm(self.conv(pixels, "backbone.conv1", 2, 3), "backbone.bn1"))
        x = F.max_pool2d(x, 3, 2, 1)
        laterals = []
        for stage, blocks in enumerate((3, 4, 6, 3), start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                x = self.bottleneck(x, f"backbone.layer{stage}.{block}", stride)
            name = f"neck.lateral_convs.{stage - 1}"
            laterals.append(self.norm(self.conv(x, f"{name}.conv"), f"{name}.bn"))
        for i in (2, 1, 0):
            laterals[i] = laterals[i] + F.interpolate(laterals[i + 1], size=laterals[i].shape[2:])
        names = [f"neck.fpn_convs.{i}" for i in range(4)]
        levels = [
            self.norm(self.conv(y, f"{name}.conv", 1, 1), f"{name}.bn")
            for y, name in zip(laterals, names, strict=True)
        ]
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]

    def proposals(self, pyramid: list[Tensor], content: tuple[int, int], count: int) -> Tensor:
        """Boxes and scores [R, 5], best first."""
        kept = []
        for level, features in enumerate(pyramid, start=2):
            x = F.relu(self.conv(features, "rpn_head.rpn_conv", 1, 1))
            logits = self.conv(x, "rpn_head.rpn_cls")[0]  # [3, h, w]
            deltas = self.conv(x, "rpn_head.rpn_reg")[0].view(3, 4, *logits.shape[1:])
            stride = 2**level
            boxes, scores = [], []
            for row in range(logits.shape[1]):
                for column in range(logits.shape[2]):
                    for i, ratio in enumerate((0.5, 1.0, 2.0)):
                        w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                        boxes.append([column * stride, row * stride, w, h])
                        scores.append(logits[i, row, column])
            codes = deltas.permute(2, 3, 0, 1).reshape(-1, 4)
            best = torch.stack(scores).sigmoid().sort(descending=True, stable=True)
            rows, found = best.indices[:1000], best.values[:1000]
            decoded = decode(codes[rows], torch.tensor(boxes)[rows], (1.0, 1, 1, 1), content)
            solid = ((decoded[:, 2:] - decoded[:, :2]) >= 1e-3).all(1)
            decoded, found = decoded[solid], found[solid]
            survivors = nms(decoded, found, 0.7)
            kept.append(torch.cat([decoded, found[:, None]], 1)[survivors])
        together = torch.cat(kept)
        return together[together[:, 4].argsort(descending=True, stable=True)][:count]

    def pooled(self, pyramid: list[Tensor], boxes: Tensor, size: int) -> Tensor:
        found = []
        for box in boxes:
            side = math.sqrt(float((box[2] - box[0]) * (box[3] - box[1])))
            level = min(max(math.floor(math.log2(side / 56 + 1e-6)), 0), 3)
            roi = torch.cat([torch.zeros(1), box])[None]
            scale = 1 / (4 * 2**level)
            found.append(roi_align(pyramid[level], roi, size, scale, -1, aligned=True))
        return torch.cat(found)

    def head(self, x: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
        """FC features and unit-norm embeddings."""
        for i in range(4):
            name = f"roi_head.bbox_head.shared_convs{suffix}.{i}"
            x = F.relu(self.norm(self.conv(x, f"{name}.conv", 1, 1), f"{name}.bn"))
        features = F.relu(self.linear(x.flatten(1), f"roi_head.bbox_head.shared_fcs{suffix}.0"))
        projected = self.linear(features, f"roi_head.projection{suffix}")
        return features, projected / projected.norm(dim=1, keepdim=True)

    def boxes(self, features: Tensor, proposals: Tensor, content: tuple[int, int]) -> Tensor:
        centred = torch.cat(
            [(proposals[:, :2] + proposals[:, 2:]) / 2, proposals[:, 2:] - proposals[:, :2]], 1
        )
        codes = self.linear(features, "roi_head.bbox_head.fc_reg")
        return decode(codes, centred, (0.1, 0.1, 0.2, 0.2), content)

    def masks(self, x: Tensor) -> Tensor:
        """[R, 28, 28] in 0-1."""
        for i in range(4):
            x = F.relu(self.conv(x, f"roi_head.mask_head.convs.{i}.conv", 1, 1))
        name = "roi_head.mask_head.upsample"
        x = F.relu(
            F.conv_transpose2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 2)
        )
        return self.conv(x, "roi_head.mask_head.conv_logits")[:, 0].sigmoid()

    def scores(self, text_side: Tensor, image_side: Tensor, texts: Tensor, base: Tensor) -> Tensor:
        """[R, C] of unit-norm text rows; the background is the last column."""
        name = "roi_head.bg_embedding"
        background = self.linear(torch.ones(1, 1), name)
        columns = torch.cat([texts, background / background.norm()])
        of_text = (text_side @ columns.T / 0.007).softmax(1)
        logits = image_side @ columns.T / 0.007
        logits[:, -1] = -1e11
        of_image = logits.softmax(1)
        exponent = torch.where(base, 2 / 3, 1 / 3)
        return of_text[:, :-1] ** exponent * of_image[:, :-1] ** (1 - exponent)


def decode(
    codes: Tensor, centred: Tensor, stds: tuple[float, ...], content: tuple[int, int]
) -> Tensor:
    """Codes relative to boxes (centre x, centre y, width, height), clipped to (height, width)."""
    dx, dy, dw, dh = (codes * torch.tensor(stds)).unbind(1)
    x, y, w, h = centred.unbind(1)
    limit = abs(math.log(16 / 1000))
    x, y = x + dx * w, y + dy * h
    w, h = w * dw.clamp(-limit, limit).exp(), h * dh.clamp(-limit, limit).exp()
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    bounds = torch.tensor([content[1], content[0], content[1], content[0]])
    return corners.clamp(min=0).minimum(bounds)
