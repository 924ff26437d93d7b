from __future__ import annotations

import math
import os
from pathlib import Path

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
    cut_crops,
    embed_regions,
    encode_crops,
    fitted_size,
    scale_box,
)
from vildcli.teacher.resample import resample

SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
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


FITS = {"shortest": "crop", "squash": "squash", "longest": "pad"}
BOXES = {
    "usual": (10, 10, 60, 50),
    "whole": (0, 0, 160, 120),
    "flat": (30, 20, 90, 24),
    "tall": (5, 3, 11, 100),
    "tall and shrunk": (20, 0, 60, 120),
    "small": (40, 40, 44, 43),
    "a pixel": (7, 9, 8, 10),
    "the last pixel": (159, 119, 160, 120),
    "the last column": (159, 0, 160, 120),
    "the first row": (0, 0, 160, 1),
}


@pytest.fixture
def pillow_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's order of passes until 12: rows first; from 13 on, not where a height shrinks more.

    The order matters, as what overshoots is cut off in between. Torch has the old one, and models
    were trained with it.
    """
    resize = Image.Image.resize

    def rows_first(self: Image.Image, size: tuple[int, int], resample: int) -> Image.Image:
        return resize(resize(self, (size[0], self.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", rows_first)


def theirs(image: Image.Image, box: tuple[int, ...], size: int, mode: str) -> Tensor:
    """open_clip's own preprocessing of a crop, [3, size, size] in 0-255."""
    transform = open_clip.image_transform(
        size, is_train=False, mean=MEAN, std=STD, interpolation="bicubic", resize_mode=mode
    )
    pixels: Tensor = transform(image.crop(box))
    return (pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


@pytest.mark.usefixtures("pillow_as_ever")
@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("mode", FITS)
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_crops_are_preprocessed_as_open_clip_does(
    box: tuple[int, ...], mode: str, size: int
) -> None:
    image = picture()
    sides = (box[2] - box[0], box[3] - box[1])
    if mode == "longest" and round(min(sides) * size / max(sides)) == 0:
        pytest.skip("open_clip makes this crop 0 pixels thin and fails; ours is a pixel thin")
    expected = theirs(image, box, size, mode)
    recipe = CropRecipe(size, MEAN, STD, fit=FITS[mode])  # type: ignore[arg-type]
    pixels = tensor(image)
    fitted = fitted_size(box[3] - box[1], box[2] - box[0], recipe)
    for ours in (
        cut_crop(pixels, box, 1.0, recipe),
        resample(pixels, [box], [fitted], size)[0],  # what an accelerator does
    ):
        assert (ours.float() - expected).abs().max() <= 2 + 1e-3


@pytest.mark.usefixtures("pillow_as_ever")
@pytest.mark.parametrize("mode", FITS)
def test_crops_of_photographs_are_preprocessed_as_open_clip_does(mode: str) -> None:
    photographs = SHARED / "images" / "coco128"
    if not photographs.is_dir():
        pytest.skip(f"no shared data at {SHARED}; set VILDCLI_SHARED_DATA")
    image = Image.open(sorted(photographs.rglob("*.jpg"))[0]).convert("RGB")
    recipe = CropRecipe(224, MEAN, STD, fit=FITS[mode])  # type: ignore[arg-type]
    corners = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    corners = (corners * torch.tensor([image.width - 60, image.height - 60])).long()
    sizes = torch.randint(8, 60, (12, 2), generator=torch.Generator().manual_seed(1))
    boxes = torch.cat([corners, corners + sizes], 1)
    crops = cut_crops(tensor(image), boxes.float(), 1.0, recipe)
    fitted = [fitted_size(y2 - y1, x2 - x1, recipe) for x1, y1, x2, y2 in boxes.tolist()]
    products = resample(tensor(image), boxes.tolist(), fitted, 224)
    for box, one, other in zip(boxes.tolist(), crops, products, strict=True):
        expected = theirs(image, box, 224, mode)
        assert (one.float() - expected).abs().max() <= 2 + 1e-3
        assert (other.float() - expected).abs().max() <= 2 + 1e-3


def test_a_sliver_is_not_resized_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of 1 x 4000 would become 224 x 896,000 before its centre is taken."""
    made: list[list[int]] = []
    resize = crops.TF.resize

    def noting(image: Tensor, size: list[int], **more: object) -> Tensor:
        made.append(size)
        return resize(image, size, **more)

    monkeypatch.setattr(crops.TF, "resize", noting)
    image = tensor(picture(400, 40))
    cut_crop(image, (3, 0, 4, 400), 1.0, RECIPE)
    assert made == []
    cut_crop(image, (0, 0, 40, 200), 1.0, RECIPE)
    assert made == [[160, 32]]


@pytest.mark.parametrize("box", [(3, 0, 4, 400), (0, 7, 40, 9), (2, 5, 6, 383), (0, 0, 4, 33)])
def test_a_sliver_is_as_if_resized_whole(box: tuple[int, ...]) -> None:
    image = tensor(picture(400, 40))
    fitted = fitted_size(box[3] - box[1], box[2] - box[0], RECIPE)
    window = image[:, box[1] : box[3], box[0] : box[2]]
    whole = resample(window, [(0, 0, box[2] - box[0], box[3] - box[1])], [fitted], RECIPE.size)[0]
    found = cut_crop(image, box, 1.0, RECIPE)
    assert (found.int() - whole.int()).abs().max() <= 1
    assert (found == whole).float().mean() > 0.999


def test_cut_crops__all_boxes_in_order() -> None:
    image = tensor(picture())
    boxes = torch.tensor([[10.0, 10, 60, 50], [5.5, 3.2, 11, 100]])
    found = cut_crops(image, boxes, 1.5, RECIPE)
    for one, box in zip(found, boxes.tolist(), strict=True):
        assert torch.equal(one, cut_crop(image, box, 1.5, RECIPE))
    assert cut_crops(image, boxes[:0], 1.5, RECIPE).shape == (0, 3, 32, 32)


def test_cut_crops__an_accelerator_is_never_waited_for() -> None:
    """On the device without values, whatever asks for one fails."""
    image = tensor(picture()).to("meta")
    boxes = torch.tensor([[10.0, 10, 60, 50], [5.5, 3.2, 11, 100]])
    found = cut_crops(image, boxes, 1.5, RECIPE)
    assert (found.shape, found.dtype, found.device.type) == ((2, 3, 32, 32), torch.uint8, "meta")


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
        encode_crops(cut_crops(image, boxes, factor, RECIPE), encoder) for factor in (1.0, 1.5)
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
    encode_crops(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8), encoder)
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
