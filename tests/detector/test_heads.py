from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_detector import TINY, tiny_detector, tiny_images
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from vildcli.detector.architecture import ARCHITECTURES, Architecture
from vildcli.detector.heads import MaskHead, RegionHead, RegionPooler, region_levels

DETPRO = ARCHITECTURES["detpro"]


def some_pyramid(levels: int = 5, channels: int = 3, side: int = 128) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [max(1, side >> k) for k in range(levels)]
    return [torch.rand(2, channels, s, s + 2, generator=generator) for s in sides]


def some_boxes(count: int, side: int = 512) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * side * 0.9
    sizes = torch.rand(count, 2, generator=generator) ** 3 * side
    return torch.cat([corners, (corners + sizes).clamp(max=side)], 1)


@pytest.mark.parametrize("counts", [(40, 25), (0, 7), (0, 0)])
def test_published_pooling__is_torchvisions_bit_by_bit(counts: tuple[int, int]) -> None:
    architecture, pyramid = Architecture(), some_pyramid()
    boxes = [some_boxes(count) for count in counts]
    names = [str(level) for level in architecture.levels]
    theirs = MultiScaleRoIAlign(names, 7, 2, canonical_scale=224, canonical_level=4)
    named = dict(zip(names, pyramid, strict=True))
    found = RegionPooler(architecture, 7)(pyramid, boxes)
    assert found.shape == (sum(counts), 3, 7, 7)
    assert torch.equal(found, theirs(named, boxes, [(512, 512)] * 2))


def test_detpros_levels__by_its_formula() -> None:
    sides = [1e-3, 20.0, 55.9, 56, 111.9, 112, 223.9, 224, 300, 447.9, 448, 2000]
    boxes = torch.tensor([[10.0, 10, 10 + side * 2, 10 + side / 2] for side in sides])
    wanted = [2 + min(max(math.floor(math.log2(side / 56 + 1e-6)), 0), 3) for side in sides]
    assert region_levels(boxes, DETPRO).tolist() == wanted
    assert wanted == [2, 2, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5]  # P6 is not pooled


def aligned_by_hand(features: Tensor, box: list[float], stride: int, size: int) -> Tensor:
    """RoIAlign with half-pixel shift and as many samples as a bin has cells, one region."""
    x1, y1, x2, y2 = (v / stride - 0.5 for v in box)
    height, width = (y2 - y1) / size, (x2 - x1) / size
    rows, columns = math.ceil(height), math.ceil(width)
    ys = torch.tensor(
        [y1 + height * (i + (k + 0.5) / rows) for i in range(size) for k in range(rows)]
    )
    xs = torch.tensor(
        [x1 + width * (i + (k + 0.5) / columns) for i in range(size) for k in range(columns)]
    )
    h, w = features.shape[-2:]
    grid_y, grid_x = torch.meshgrid((2 * ys + 1) / h - 1, (2 * xs + 1) / w - 1, indexing="ij")
    grid = torch.stack([grid_x, grid_y], -1)[None]
    sampled = F.grid_sample(features[None], grid, padding_mode="border", align_corners=False)[0]
    return sampled.view(-1, size, rows, size, columns).mean((2, 4))


def test_detpros_pooling__shifted_by_half_a_pixel_with_as_many_samples_as_needed() -> None:
    pyramid = some_pyramid()
    boxes = [[40.0, 30, 300, 90], [100, 50, 400.5, 380.25], [20, 24, 34, 30.5]]
    found = RegionPooler(DETPRO, 7)(pyramid, [torch.zeros(0, 4), torch.tensor(boxes)])
    for pooled, box, level in zip(found, boxes, (3, 4, 2), strict=True):
        wanted = aligned_by_hand(pyramid[level - 2][1], box, 2**level, 7)
        torch.testing.assert_close(pooled, wanted, atol=1e-4, rtol=1e-4)


def test_heads__layers_of_the_two_codes() -> None:
    def layers(module: nn.Module) -> list[str]:
        return [type(m).__name__ for m in module.modules() if not list(m.children())]

    with torch.device("meta"):
        published, ported = (RegionHead(a, 512) for a in (Architecture(), DETPRO))
        masks, ported_masks = MaskHead(Architecture()), MaskHead(DETPRO)
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert layers(published) == [*block * 4, *["Linear", "RowNorm", "ReLU"] * 2, "Linear"]
    assert layers(ported) == [*block * 4, "Linear", "ReLU", "Linear"]
    assert ported.fcs[0].bias is not None
    assert layers(masks) == [*block * 4, "ConvTranspose2d", "BatchNorm2d", "Conv2d"]
    assert [name for name in layers(ported_masks) if name != "Identity"] == [
        *["Conv2d", "ReLU"] * 4, "ConvTranspose2d", "Conv2d"]  # fmt: skip
    assert ported_masks.convs[0][0].bias is not None  # type: ignore[index]
    assert published.convs[0][0].bias is None  # type: ignore[index]


def test_published_rows__stay_what_they_are() -> None:
    """Recorded before other architectures could be described; 64 x 50 pixels, eight regions."""
    detector = tiny_detector("vild-ensemble").eval()
    with torch.no_grad():  # random weights hardly tell one anchor from another
        for layer in (
            detector.proposal_head.objectness,
            detector.proposal_head.deltas,
            detector.boxes,
        ):
            layer.weight.mul_(100)
    found = detector.regions([tiny_images()[0][:, :50]], count=8)[0]
    objectness = [0.507313, 0.506027, 0.505886, 0.505407, 0.504279, 0.502821, 0.502729, 0.502461]
    boxes = [[5.369, 0, 50.568, 49.511], [29.500, 0, 64, 49.536], [0, 0, 34.634, 49.352]]
    proposals = [[5.461, 0, 50.509, 49.401], [29.589, 0, 64, 49.466], [0, 0, 34.625, 49.261]]
    assert found.objectness.tolist() == pytest.approx(objectness, abs=2e-5)
    torch.testing.assert_close(found.boxes[:3], torch.tensor(boxes), atol=2e-3, rtol=0)
    torch.testing.assert_close(found.proposals[:3], torch.tensor(proposals), atol=2e-3, rtol=0)
    assert found.text_side is not None
    assert found.image_side is not None
    means = [side.float().mean(1)[:2].tolist() for side in (found.text_side, found.image_side)]
    assert means[0] == pytest.approx([0.08406, 0.08583], abs=3e-4)
    assert means[1] == pytest.approx([0.02047, 0.02369], abs=3e-4)
    assert found.masks.float().mean().item() == pytest.approx(144.37, abs=0.05)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_region_head__trains_on_any_number_of_rows(rows: int) -> None:
    torch.manual_seed(0)
    head = RegionHead(replace(TINY, norm_momentum=0.5), 8).train()
    norm = head.fcs[1]
    with torch.no_grad():
        norm.running_mean.fill_(0.25)
        norm.running_var.fill_(4.0)
    features, embeddings = head(torch.rand(rows, 8, 7, 7))
    assert embeddings.shape == (rows, 8)
    assert torch.isfinite(embeddings).all()
    (features.sum() + embeddings.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    learned = rows > 1
    assert bool((norm.running_mean == 0.25).all()) is not learned
    assert bool((norm.running_var == 4.0).all()) is not learned
    assert all(torch.isfinite(b.float()).all() for b in head.buffers())


def test_region_head__one_row_is_normalised_by_the_running_statistics() -> None:
    torch.manual_seed(0)
    head = RegionHead(TINY, 8).train()
    before = [head.fcs[1].running_mean.clone(), head.fcs[1].running_var.clone()]
    x = torch.rand(1, TINY.fc_width) * 5
    mean, var = (torch.rand(TINY.fc_width) + 0.5 for _ in before)
    head.fcs[1].running_mean.copy_(mean)
    head.fcs[1].running_var.copy_(var)
    torch.testing.assert_close(head.fcs[1](x), (x - mean) / (var + TINY.norm_eps).sqrt())
