from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from vildcli.data.lvis import load_annotations
from vildcli.teacher import dense_alignment
from vildcli.teacher.anchors import Anchors, make_anchors
from vildcli.teacher.dense_alignment import Alignment, open_alignment

STRIDE = 160
MIX = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))


def crops(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Mean and spread of each channel in a box: what the exact way would say."""
    rows = []
    for x1, y1, x2, y2 in boxes.tolist():
        crop = pixels[:, int(y1) : int(y2) + 1, int(x1) : int(x2) + 1].float().flatten(1)
        rows.append(torch.cat([crop.mean(1), crop.std(1, correction=0)]) - 60)
    return normalize(torch.stack(rows), dim=-1)


def mixed(pixels: Tensor, anchors: Anchors) -> Tensor:
    """The same in another basis, and with a shift that the side decides."""
    shift = torch.eye(6)[anchors.levels]
    return crops(pixels, anchors.boxes) @ MIX + shift


def opened(folder: Path, data: Path, **changes: Any) -> Alignment:
    values: dict[str, Any] = {
        "dense": mixed,
        "exact": crops,
        "stride": STRIDE,
        "seed": 0,
        "advance": lambda steps=1, note=None, facts=None: None,
    }
    images = load_annotations(data).images
    return open_alignment(folder, images, data.parent, **{**values, **changes})


def test_alignment__brings_the_dense_view_to_the_crops(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_alignment, "_RIDGE", 1e-3)
    aligned = opened(tmp_path, data).of(mixed)
    pixels = torch.zeros(3, 50, 60)
    pixels[0, 10:30, 5:50] = 200
    anchors = make_anchors(50, 60, 100)
    wanted, found = crops(pixels, anchors.boxes), aligned(pixels, anchors)
    assert cosine_similarity(wanted, found).min() > 0.999
    assert cosine_similarity(wanted, mixed(pixels, anchors)).mean() < 0.9
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))


def test_alignment__is_kept_in_the_folder(tmp_path: Path, data: Path) -> None:
    first = opened(tmp_path, data)

    def fail(pixels: Tensor, boxes: Tensor) -> Tensor:
        raise AssertionError("fitted again")

    assert torch.equal(opened(tmp_path, data, exact=fail).weights, first.weights)
    (tmp_path / "alignment.safetensors").write_bytes(b"damaged")
    assert torch.equal(opened(tmp_path, data).weights, first.weights)


def test_alignment__costs_a_few_crops_of_a_few_images(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_alignment, "FITTED_IMAGES", 2)
    monkeypatch.setattr(dense_alignment, "FITTED_ANCHORS", 30)
    asked: list[int] = []

    def counting(pixels: Tensor, boxes: Tensor) -> Tensor:
        asked.append(len(boxes))
        return crops(pixels, boxes)

    opened(tmp_path, data, exact=counting)
    assert asked == [30, 30]
