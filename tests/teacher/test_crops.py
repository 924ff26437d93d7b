from __future__ import annotations

import math

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.teacher import crops
from vildcli.teacher.crops import (
    CropRecipe,
    ImageEncoder,
    cut_crop,
    embed_regions,
    encode_crops,
    scale_box,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RECIPE = CropRecipe(32, MEAN, STD)


def picture(height: int = 120, width: int = 160) -> Image.Image:
    """A smooth picture with hard edges, as photographs have both."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / 9 + i) * np.cos(y / (5 + i)) for i in range(3)]
    pixels = np.stack(waves, -1).astype(np.uint8)
    pixels[20:60, 30:90] = (250, 10, 40)
    return Image.fromarray(pixels)


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def stub_encoder(recipe: CropRecipe = RECIPE) -> ImageEncoder:
    """Un-normalised, and different for every crop: channel means, times one another's sizes."""

    def encode(pixels: Tensor) -> Tensor:
        means = pixels.mean((2, 3))
        return torch.cat([means * 3, pixels.std((2, 3)) * means[:, :1] + 1], 1)

    return ImageEncoder(encode, recipe, 0.01, "stub", torch.device("cpu"))


@pytest.mark.parametrize(
    "box", [(10, 10, 60, 50), (0, 0, 160, 120), (30, 20, 90, 24), (5, 3, 11, 100), (40, 40, 44, 43)]
)
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_crops_are_preprocessed_as_open_clip_does(box: tuple[int, ...], mode: str) -> None:
    image = picture()
    theirs = open_clip.image_transform(
        32, is_train=False, mean=MEAN, std=STD, interpolation="bicubic", resize_mode=mode
    )(image.crop(box))
    fit = {"shortest": "crop", "squash": "squash"}[mode]
    ours = cut_crop(tensor(image), box, 1.0, CropRecipe(32, MEAN, STD, fit=fit))  # type: ignore[arg-type]
    expected = theirs * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert (ours.float() / 255 - expected).abs().max() <= 2 / 255 + 1e-6


def test_scale_box__about_the_centre() -> None:
    assert scale_box((40, 40, 60, 80), 1.0, 200, 200) == (40, 40, 60, 80)
    assert scale_box((40, 40, 60, 80), 1.5, 200, 200) == (35, 30, 65, 90)


def test_scale_box__rounds_outwards_and_is_clipped() -> None:
    assert scale_box((10.2, 10.8, 20.1, 20.9), 1.0, 200, 200) == (10, 10, 21, 21)
    assert scale_box((0, 0, 20, 20), 1.5, 22, 18) == (0, 0, 18, 22)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 5), (9.99, 9.99, 10, 10), (-4, -4, -2, -2), (0, 0, 1, 1)]
)
def test_scale_box__is_never_empty(box: tuple[float, ...]) -> None:
    left, top, right, bottom = scale_box(box, 1.0, 10, 10)
    assert 0 <= left < right <= 10
    assert 0 <= top < bottom <= 10


def test_pad_keeps_the_whole_crop() -> None:
    image = torch.full((3, 20, 80), 200, dtype=torch.uint8)
    padded = cut_crop(image, (0, 0, 80, 20), 1.0, CropRecipe(32, MEAN, STD, fit="pad"))
    assert padded.shape == (3, 32, 32)
    assert padded[:, :10].max() == 0
    assert padded[:, 22:].max() == 0
    assert padded[:, 14:18].min() == 200


def test_a_region_is_the_normalised_sum_of_two_crops() -> None:
    image, encoder = tensor(picture()), stub_encoder()
    boxes = torch.tensor([[30.0, 20, 90, 60], [70, 50, 150, 110]])
    small, large = (
        encode_crops([cut_crop(image, b, factor, RECIPE) for b in boxes.tolist()], encoder)
        for factor in (1.0, 1.5)
    )
    assert not math.isclose(small.norm(dim=1)[0], large.norm(dim=1)[0], rel_tol=0.01)
    found = embed_regions(image, boxes, encoder)
    torch.testing.assert_close(found, normalize(small + large, dim=-1))
    wrong = normalize(normalize(small, dim=-1) + normalize(large, dim=-1), dim=-1)
    assert (found - wrong).abs().max() > 1e-3  # each is un-normalised in the sum


def test_pixels_are_normalised_for_the_encoder() -> None:
    seen: list[Tensor] = []

    def encode(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return pixels.mean((2, 3))

    encoder = ImageEncoder(encode, RECIPE, 0.01, "stub", torch.device("cpu"))
    encode_crops([torch.full((3, 32, 32), 51, dtype=torch.uint8)], encoder)
    expected = (0.2 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(seen[0][0, :, 0, 0], expected)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, encoder = tensor(picture()), stub_encoder()
    corners = torch.rand(7, 2, generator=torch.Generator().manual_seed(0)) * 60
    boxes = torch.cat([corners, corners + 40], 1)
    together = embed_regions(image, boxes, encoder)
    monkeypatch.setattr(crops, "BATCH", 3)
    torch.testing.assert_close(embed_regions(image, boxes, encoder), together)


def test_no_region_has_no_embedding_of_the_right_width() -> None:
    assert embed_regions(tensor(picture()), torch.zeros(0, 4), stub_encoder()).shape == (0, 6)
