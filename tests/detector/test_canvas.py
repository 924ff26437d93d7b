from __future__ import annotations

import pytest
import torch

from vildcli.detector.canvas import make_canvas

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
