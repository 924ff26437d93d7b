from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.canvas import Canvas, make_canvas

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def canvas_of(height: int, width: int, size: int = 96):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(height * 1000 + width)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return make_canvas(image, size=size, stride=16, mean=MEAN, std=STD)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 500), (333, 7), (96, 96), (64, 200), (201, 199), (480, 640)]
)
def test_boxes_to_the_original_and_back(height: int, width: int) -> None:
    canvas = canvas_of(height, width)
    assert max(canvas.content) == 96
    assert canvas.pixels.shape[1] % 16 == canvas.pixels.shape[2] % 16 == 0
    assert canvas.pixels.shape[1] - canvas.content[0] < 16
    boxes = torch.tensor([[0.0, 0, width, height], [width / 4, height / 3, width / 2, height]])
    there = canvas.from_original(boxes)
    assert there[0].tolist() == [0, 0, canvas.content[1], canvas.content[0]]
    torch.testing.assert_close(canvas.to_original(there), boxes, atol=1e-3, rtol=1e-5)


def test_boxes_outside_are_clipped() -> None:
    found = canvas_of(50, 100).to_original(torch.tensor([[-5.0, -5, 500, 500]]))
    assert found.tolist() == [[0, 0, 100, 50]]


def test_padding_is_the_mean_colour_and_pixels_are_normalised() -> None:
    image = torch.full((3, 96, 40), 51, dtype=torch.uint8)
    canvas = make_canvas(image, size=96, stride=16, mean=MEAN, std=STD)
    assert canvas.pixels.shape == (3, 96, 48)
    assert canvas.pixels[:, :, 40:].abs().sum() == 0
    expected = (0.2 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(canvas.pixels[:, 0, 0], expected)


DETPRO = ARCHITECTURES["detpro"]


def detpro_canvas(height: int, width: int) -> tuple[Tensor, Canvas]:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    a = DETPRO
    canvas = make_canvas(
        image,
        size=a.image_size,
        stride=a.stride,
        mean=a.pixel_mean,
        std=a.pixel_std,
        short_side=a.short_side,
        resize=a.resize,
    )
    return image, canvas


@pytest.mark.parametrize(
    ("original", "content", "padded"),
    [
        ((480, 640), (800, 1067), (800, 1088)),  # the short side decides
        ((427, 640), (800, 1199), (800, 1216)),
        ((640, 480), (1067, 800), (1088, 800)),
        ((300, 900), (444, 1333), (448, 1344)),  # the long side decides
        ((2, 1000), (3, 1333), (32, 1344)),  # 2.666 is rounded up
        ((800, 1000), (800, 1000), (800, 1024)),
    ],
)
def test_detpro__sides_of_800_and_at_most_1333(
    original: tuple[int, int], content: tuple[int, int], padded: tuple[int, int]
) -> None:
    _, canvas = detpro_canvas(*original)
    assert (canvas.content, canvas.original) == (content, original)
    assert canvas.pixels.shape == (3, *padded)
    assert canvas.pixels[:, content[0] :].abs().sum() == 0
    assert canvas.pixels[:, :, content[1] :].abs().sum() == 0


@pytest.mark.parametrize(
    "original", [(480, 640), (1200, 1600), (1600, 1600), (97, 31), (400, 3000), (800, 1000)]
)
def test_detpro__pixels_are_opencvs(original: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image, canvas = detpro_canvas(*original)
    height, width = canvas.content
    wanted = cv2.resize(image.permute(1, 2, 0).numpy(), (width, height))  # bilinear, of bytes
    mean = np.array([123.675, 116.28, 103.53])
    std = np.array([58.395, 57.12, 57.375])
    found = canvas.pixels[:, :height, :width].permute(1, 2, 0).double().numpy() * std + mean
    assert np.abs(found - np.round(found)).max() < 1e-3  # bytes again
    assert np.abs(found - wanted).max() < 1.001
    assert np.abs(found - wanted).mean() < 0.2
