from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from tiny_clip import tiny_clip, tiny_config
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from vildcli.errors import ModelError
from vildcli.teacher.anchors import Anchors, make_anchors
from vildcli.teacher.crops import CropRecipe, ImageEncoder, cut_crops, normalise
from vildcli.teacher.dense_anchors import (
    DensePool,
    _cover,
    _tiles,
    dense_pool_of,
    embed_anchors,
)

SIZE = 32


def vit(**vision: Any) -> Any:
    config = tiny_config()
    config["vision_cfg"] |= {"patch_size": 8, "layers": 2, "width": 64, **vision}
    return tiny_clip(config)


def resnet() -> Any:
    config = tiny_config()
    config["vision_cfg"] = {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 8}
    return tiny_clip(config)


def pool_of(model: Any) -> DensePool:
    return dense_pool_of(SimpleNamespace(model=model, reference="tiny"), SIZE)  # type: ignore[arg-type]


def encoder_of(model: Any) -> ImageEncoder:
    recipe = CropRecipe(SIZE, (0.5,) * 3, (0.3,) * 3)
    return ImageEncoder(model.encode_image, recipe, 0.1, "tiny", torch.device("cpu"))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def photograph(height: int = 50, width: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "vision", [{}, {"pool_type": "avg"}, {"pool_type": "avg", "final_ln_after_pool": True}]
)
@torch.inference_mode()
def test_vit__an_anchor_that_covers_a_tile_is_that_tile(vision: dict[str, Any]) -> None:
    model, pixels = vit(**vision), noise(2, 3, SIZE, SIZE)
    pool = pool_of(model)
    assert (pool.size, pool.cells) == (SIZE, 4)
    cover = torch.ones(2, 3, 16)
    cover[:, 1, :10] = 0
    found = pool.pool(pixels, cover)
    expected = model.encode_image(pixels)
    for i in (0, 2):
        torch.testing.assert_close(found[:, i], expected, atol=1e-4, rtol=1e-4)
    assert (found[:, 1] - expected).abs().max() > 1e-2


@torch.inference_mode()
def test_vit__an_anchor_depends_on_no_other_and_on_its_share() -> None:
    pool, pixels = pool_of(vit()), noise(1, 3, SIZE, SIZE)
    cover = torch.rand(1, 5, 16, generator=torch.Generator().manual_seed(3))
    together = pool.pool(pixels, cover)
    alone = torch.cat([pool.pool(pixels, cover[:, i : i + 1]) for i in range(5)], 1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    none = torch.zeros(1, 1, 16)  # the filling of a shorter row
    assert pool.pool(pixels, none).isfinite().all()


@torch.inference_mode()
def test_resnet__an_anchor_that_covers_a_tile_is_pooled_as_the_model_does() -> None:
    model = resnet()
    attention = model.visual.attnpool
    # Where a cell lies in a crop is not known of an anchor, so all places are made alike.
    attention.positional_embedding[1:] = attention.positional_embedding[1]
    pool, pixels = pool_of(model), noise(2, 3, SIZE, SIZE)
    cover = torch.ones(2, 2, 1)
    torch.testing.assert_close(
        pool.pool(pixels, cover)[:, 1], model.encode_image(pixels), atol=1e-4, rtol=1e-4
    )
    assert (pool.size, pool.cells) == (2 * SIZE, 2)
    assert pool.pool(noise(1, 3, 64, 64), torch.zeros(1, 2, 4)).isfinite().all()


@pytest.mark.parametrize("make", [vit, resnet])
def test_embed_anchors__one_unit_row_each(make: Any) -> None:
    model, image = make(), photograph()
    anchors = make_anchors(50, 60, 160)
    found = embed_anchors(image, anchors, encoder_of(model), pool_of(model))
    assert found.shape == (len(anchors.boxes), 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))


def test_embed_anchors__of_a_whole_image_is_its_crop() -> None:
    model, image = vit(), photograph(48, 48)
    anchors = Anchors(torch.tensor([[0.0, 0, 48, 48]]), torch.tensor([0]), 32 / 48)
    found = embed_anchors(image, anchors, encoder_of(model), pool_of(model))
    recipe = encoder_of(model).recipe
    with torch.inference_mode():
        crop = normalise(cut_crops(image, anchors.boxes, 1.0, recipe), recipe)
        expected = normalize(model.encode_image(crop), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_embed_anchors__what_lies_elsewhere_matters_little() -> None:
    """Two images that are alike in a corner: the anchors there are more alike than the others."""
    model, first = vit(), photograph(96, 96)
    second = photograph(96, 96).flip(1)
    second[:, :32, :32] = first[:, :32, :32]
    boxes = torch.tensor([[0.0, 0, 30, 30], [60, 60, 90, 90]])
    anchors = Anchors(boxes, torch.tensor([0, 0]), 32 / 30)
    pool = pool_of(model)
    a, b = (embed_anchors(image, anchors, encoder_of(model), pool) for image in (first, second))
    same, other = cosine_similarity(a, b).tolist()
    assert same > other


def test_tiles__hold_every_square_anchor() -> None:
    pool = DensePool(lambda pixels, cover: pixels, SIZE, 4, 3, 2)
    image = torch.zeros(3, 400, 666, dtype=torch.uint8)
    anchors = make_anchors(400, 666)
    for level in range(5):
        side, boxes = anchors.side(level), anchors.boxes[anchors.levels == level]
        tiles, nearest = _tiles(image, boxes, side, pool)
        tile = tiles[nearest]
        width, height = (boxes[:, 2:] - boxes[:, :2]).T
        square = (width <= side) & (height <= side)
        inside = (boxes[:, :2] >= tile[:, :2] - 1e-3) & (boxes[:, 2:] <= tile[:, 2:] + 1e-3)
        assert inside[square].all()
        overlap = torch.minimum(boxes, tile)[:, 2:] - torch.maximum(boxes, tile)[:, :2]
        assert (overlap.prod(1) > 0.7 * width * height).all()
    tiles, _ = _tiles(image, anchors.boxes, 16.0, pool)
    assert len(tiles) == 12 * 21


def test_cover__shares_of_cells() -> None:
    image, recipe = torch.zeros(3, 40, 80, dtype=torch.uint8), CropRecipe(SIZE, (0,) * 3, (1,) * 3)
    tile = torch.tensor([10.0, 0, 50, 40])  # 40 pixels on four cells of ten
    boxes = torch.tensor([[10.0, 0, 50, 40], [15, 10, 30, 20], [0, 0, 10, 40]])
    whole, some, none = _cover(boxes, tile, image, recipe, 4).reshape(3, 4, 4)
    assert torch.equal(whole, torch.ones(4, 4))
    expected = torch.zeros(4, 4)
    expected[1, :2] = torch.tensor([0.5, 1.0])
    torch.testing.assert_close(some, expected)
    assert not none.any()


def test_cover__black_borders_are_left_out() -> None:
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    recipe = CropRecipe(SIZE, (0,) * 3, (1,) * 3, fit="pad")
    tile = torch.tensor([0.0, 0, 40, 20])
    cover = _cover(tile[None], tile, image, recipe, 4).reshape(4, 4)
    assert cover.sum(1).tolist() == [0, 4, 4, 0]


def test_another_tower_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        pool_of(SimpleNamespace(visual=torch.nn.Linear(1, 1)))
    assert str(error.value) == (
        "The image tower of tiny is a Linear, whose dense features are not known here."
    )
    assert error.value.hint == (
        "Give --exact-regions, which crops every anchor, or a ViT or ResNet of open_clip's."
    )


def test_the_models_are_open_clip_s(tmp_path: Path) -> None:
    assert isinstance(vit().visual, open_clip.transformer.VisionTransformer)
    assert isinstance(resnet().visual, open_clip.modified_resnet.ModifiedResNet)
