"""The teacher's embedding of every anchor without a crop of every anchor.

The image is seen in tiles a few anchor sides wide, and what an anchor covers of a tile is pooled as
the teacher itself pools a crop:

    ViT            a class token an anchor, which sees only the patches under it, in every block
    ModifiedResNet attention over the last stage's cells under the anchor, their mean the query

A patch counts by the share of it that is covered. An anchor that covers a whole ViT tile gets
exactly the embedding of that tile. Dearest is a ViT-B/32 of 224: 334 tiles and 15,750 tokens for a
whole grid of 1344 x 800, as much as some 700 of the 15,750 crops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.errors import ModelError
from vildcli.teacher.anchors import SIDES, Anchors
from vildcli.teacher.crops import (
    CropRecipe,
    ImageEncoder,
    cut_crops,
    fitted_size,
    normalise,
    scale_box,
)
from vildcli.text.open_clip_models import LoadedClip

_ANCHORS_A_ROW = 192  # of a tile's, in one row of a batch
_ROWS = 32  # of a batch


@dataclass(frozen=True, slots=True)
class DensePool:
    """A teacher's image tower that looks at tiles.

    Attributes:
        pool: tiles [B, 3, S, S] normalised and what anchors cover of their cells [B, A, G·G] in 0-1
            to embeddings [B, A, D].
        size: S; cells: G, of a side.
        extent: of a tile's side, in anchor sides; step: between tiles, likewise.
    """

    pool: Callable[[Tensor, Tensor], Tensor]
    size: int
    cells: int
    extent: float
    step: float


def dense_embed_of(clip: LoadedClip, encoder: ImageEncoder) -> Callable[[Tensor, Anchors], Tensor]:
    """What embeds an image's anchors cheaply.

    Raises:
        ModelError: the image tower is neither of open_clip's.
    """
    pool = dense_pool_of(clip, encoder.recipe.size)
    return lambda image, anchors: embed_anchors(image, anchors, encoder, pool)


def dense_pool_of(clip: LoadedClip, size: int) -> DensePool:
    """The dense view of a model whose input is `size` pixels; raises as `dense_embed_of`."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    visual: Any = clip.model.visual
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        # Three sides wide and two apart, each square anchor lies within the nearest tile.
        return DensePool(
            lambda pixels, cover: _vit_pool(visual, pixels, cover), size, visual.grid_size[0], 3, 2
        )
    if isinstance(visual, ModifiedResNet):
        # Convolutions take larger tiles, which cost less for what they overlap.
        return DensePool(
            lambda pixels, cover: _resnet_pool(visual, pixels, cover), 2 * size, size // 16, 4, 3
        )
    raise ModelError(
        f"The image tower of {clip.reference} is a {type(visual).__name__}, whose dense features "
        "are not known here.",
        hint="Give --exact-regions, which crops every anchor, or a ViT or ResNet of open_clip's.",
    )


@torch.inference_mode()
def embed_anchors(
    image: Tensor, anchors: Anchors, encoder: ImageEncoder, pool: DensePool
) -> Tensor:
    """Embed anchors by their tiles.

    Args:
        image: [3, H, W] uint8.

    Returns:
        [A, D] unit norm, float32, on the CPU.
    """
    image = image.to(encoder.device)
    recipe = replace(encoder.recipe, size=pool.size, fit="pad")
    found: Tensor | None = None
    for rows, tiles, cover in _batches(image, anchors, recipe, pool):
        pixels = normalise(cut_crops(image, tiles, 1.0, recipe), recipe)
        embeddings = pool.pool(pixels, cover.to(encoder.device)).float().cpu()
        if found is None:
            found = embeddings.new_zeros(len(anchors.boxes), embeddings.shape[-1])
        for place, some in zip(rows, embeddings, strict=True):
            found[place] = some[: len(place)]
    assert found is not None, "an image has an anchor"
    return normalize(found, dim=-1)


def _batches(
    image: Tensor, anchors: Anchors, recipe: CropRecipe, pool: DensePool
) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
    """Anchors' rows by tile, tiles [B, 4] and covers [B, A, G·G], of one anchor side at a time."""
    for level in range(len(SIDES)):
        of_side = torch.nonzero(anchors.levels == level)[:, 0]
        if not len(of_side):
            continue
        tiles, tile_of = _tiles(image, anchors.boxes[of_side], anchors.side(level), pool)
        groups = [
            (tile, of_side[rows])
            for i, tile in enumerate(tiles)
            for rows in torch.split(torch.nonzero(tile_of == i)[:, 0], _ANCHORS_A_ROW)
            if len(rows)
        ]
        for start in range(0, len(groups), _ROWS):
            some = groups[start : start + _ROWS]
            cover = torch.zeros(len(some), max(len(r) for _, r in some), pool.cells**2)
            for row, (tile, rows) in zip(cover, some, strict=True):
                row[: len(rows)] = _cover(anchors.boxes[rows], tile, image, recipe, pool.cells)
            yield [rows for _, rows in some], torch.stack([tile for tile, _ in some]), cover


def _tiles(image: Tensor, boxes: Tensor, side: float, pool: DensePool) -> tuple[Tensor, Tensor]:
    """Tiles [T, 4] over an image, and which of them is nearest to each box [R]."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    starts, nearest, extents = [], [], []
    for axis, length in enumerate((image.shape[-1], image.shape[-2])):
        extent = min(pool.extent * side, length)
        count = math.ceil((length - extent) / (pool.step * side)) + 1
        places = torch.linspace(0, length - extent, count)
        starts.append(places)
        extents.append(extent)
        distance = (centres[:, axis, None] - (places + extent / 2)).abs()
        nearest.append(distance.argmin(1))
    corners = torch.cartesian_prod(*starts)  # x slowest
    tiles = torch.cat([corners, corners + torch.tensor(extents)], 1)
    return tiles, nearest[0] * len(starts[1]) + nearest[1]


def _cover(boxes: Tensor, tile: Tensor, image: Tensor, recipe: CropRecipe, cells: int) -> Tensor:
    """The share of each cell of a tile that boxes [R, 4] cover: [R, G·G], row by row."""
    left, top, right, bottom = scale_box(tile.tolist(), 1.0, *image.shape[-2:])
    height, width = fitted_size(bottom - top, right - left, recipe)
    edges = torch.arange(cells + 1) * (recipe.size / cells)
    shares = []
    for low, start, length, fitted in (
        (0, left, right - left, width),
        (1, top, bottom - top, height),
    ):
        moved = (boxes[:, [low, low + 2]] - start) * (fitted / length) + (recipe.size - fitted) / 2
        inside = torch.minimum(moved[:, 1:], edges[1:]) - torch.maximum(moved[:, :1], edges[:-1])
        shares.append(inside.clamp(min=0) * (cells / recipe.size))
    across, down = shares
    return (down[:, :, None] * across[:, None, :]).flatten(1)


def _vit_pool(visual: Any, pixels: Tensor, cover: Tensor) -> Tensor:
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)  # [B, T, W]
    first = visual.class_embedding.expand(len(patches), 1, -1)
    tokens = torch.cat([first, patches], 1) + visual.positional_embedding
    tokens = visual.ln_pre(tokens)
    count = cover.shape[1]
    tokens = torch.cat([tokens, tokens[:, :1].expand(-1, count, -1)], 1)
    heads = visual.transformer.resblocks[0].attn.num_heads
    mask = _sight(cover).repeat_interleave(heads, 0)
    tokens = visual.transformer(tokens, attn_mask=mask)
    pooled = _vit_pooled(visual, tokens, cover)
    projected: Tensor = pooled if visual.proj is None else pooled @ visual.proj
    return projected


def _vit_pooled(visual: Any, tokens: Tensor, cover: Tensor) -> Tensor:
    """The anchors' tokens, or the mean of what they cover, past the last norm: [B, A, W]."""
    if visual.pool_type == "tok":
        pooled: Tensor = visual.ln_post(tokens[:, -cover.shape[1] :])
        return pooled
    patches = tokens[:, 1 : 1 + cover.shape[2]]
    shares = cover / cover.sum(2, keepdim=True).clamp(min=1e-6)
    if visual.final_ln_after_pool:
        pooled = visual.ln_post(shares @ patches)
    else:
        pooled = shares @ visual.ln_post(patches)
    return pooled


def _sight(cover: Tensor) -> Tensor:
    """What each token sees, as added to the attention's logits: [B, N, N].

    The tile's own tokens see each other; an anchor's sees itself and what it covers.
    """
    batch, count, patches = cover.shape
    own = 1 + patches
    sight = cover.new_full((batch, own + count, own + count), -torch.inf)
    sight[:, :own, :own] = 0
    sight[:, own:, 1:own] = cover.log()
    sight[:, own:, own:].diagonal(dim1=1, dim2=2).zero_()
    return sight


def _resnet_pool(visual: Any, pixels: Tensor, cover: Tensor) -> Tensor:
    features = visual.stem(pixels)
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        features = stage(features)
    cells = features.flatten(2).transpose(1, 2)  # [B, T, C]
    pool = visual.attnpool
    places = pool.positional_embedding
    first, others = places[0], places[1:].mean(0)  # an anchor has cells of any place in a crop
    shares = cover / cover.sum(2, keepdim=True).clamp(min=1e-6)

    def project(layer: Any) -> tuple[Tensor, Tensor]:
        """Of the mean under each anchor, and of the cells: projected once, for both are linear."""
        raw = layer(cells)
        at_first, at_others = (place @ layer.weight.T for place in (first, others))
        return split(shares @ raw + at_first), split(raw + at_others)

    def split(x: Tensor) -> Tensor:  # [B, heads, rows, C / heads]
        return x.reshape(*x.shape[:2], pool.num_heads, -1).transpose(1, 2)

    query = project(pool.q_proj)[0]
    query = query * query.shape[-1] ** -0.5
    own_key, key = project(pool.k_proj)
    own_value, value = project(pool.v_proj)
    scores = query @ key.transpose(2, 3) + cover.log()[:, None]
    logits = torch.cat([(query * own_key).sum(3, keepdim=True), scores], 3)
    weights = logits.softmax(3)
    seen = weights[..., :1] * own_value + weights[..., 1:] @ value
    projected: Tensor = pool.c_proj(seen.transpose(1, 2).flatten(2))
    return projected
