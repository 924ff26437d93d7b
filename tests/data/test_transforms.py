from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vildcli.data.transforms import Jitter, MultiScale, Scaling, draw_jitter, solid

RECTANGLE = torch.tensor([[20.0, 10, 60, 30]])


def drawn(height: int = 80, width: int = 100) -> Tensor:
    """A white rectangle on black."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 10:30, 20:60] = 255
    return image


def jitter(
    seed: int, source: tuple[int, int], *, size: int = 64, scaling: Scaling = (0.3, 2.5)
) -> Jitter:
    generator = torch.Generator().manual_seed(seed)
    return draw_jitter(source, size=size, scaling=scaling, generator=generator)


def extent(mask: Tensor) -> Tensor:
    """Box of what is set, x1 y1 x2 y2."""
    rows, columns = torch.where(mask)
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return torch.stack(corners).float()


@pytest.mark.parametrize("seed", range(40))
def test_jitter__moves_image_box_and_mask_together(seed: int) -> None:
    image = drawn()
    move = jitter(seed, (80, 100))
    moved, mask = move.image(image, (0, 0, 0)), move.mask(image[0] > 0)
    assert moved.shape == (3, 64, 64)
    assert mask.shape == (64, 64)
    (box,) = move.boxes(RECTANGLE)
    assert (box >= 0).all()
    assert (box <= 64).all()
    if solid(box[None])[0]:
        torch.testing.assert_close(extent(moved[0] > 127), box, atol=1.0, rtol=0)
        torch.testing.assert_close(extent(mask), box, atol=0.51, rtol=0)


def test_jitter__flips_half_of_them_and_once() -> None:
    flipped = 0
    for seed in range(200):
        move = jitter(seed, (80, 100), size=100, scaling=(1, 1))
        box = move.boxes(RECTANGLE)[0].tolist()
        assert box in ([20, 10, 60, 30], [40, 10, 80, 30])
        assert torch.equal(extent(move.mask(drawn()[0] > 0)), torch.tensor(box))
        flipped += box[0] == 40
    assert 70 < flipped < 130


def test_multi_scale__draws_the_short_side_and_limits_the_long_one() -> None:
    scaling = MultiScale((640, 800), 1333)
    photos = [jitter(seed, (480, 640), size=1344, scaling=scaling) for seed in range(100)]
    shorts = [min(move.resized) for move in photos]
    assert 640 <= min(shorts) < 660
    assert 780 < max(shorts) <= 800
    assert {(move.top, move.left) for move in photos} == {(0, 0)}  # never cropped
    assert all(abs(move.resized[1] / move.resized[0] - 4 / 3) < 0.01 for move in photos)
    panoramas = [jitter(seed, (100, 400), size=1344, scaling=scaling) for seed in range(20)]
    assert {move.resized for move in panoramas} == {(333, 1333)}


def test_jitter__no_scaling_leaves_the_pixels_and_pads_with_the_colour() -> None:
    image = drawn(64, 40)
    move = Jitter((64, 40), False, (64, 40), 0, 0, 64)
    moved, mask = move.image(image, (7, 8, 9)), move.mask(torch.ones(64, 40, dtype=torch.bool))
    assert torch.equal(moved[:, :, :40], image)
    assert moved[:, 0, 40:].tolist() == [[v] * 24 for v in (7, 8, 9)]
    assert mask[:, :40].all()
    assert not mask[:, 40:].any()


def test_jitter__scales_within_its_limits_and_keeps_the_aspect() -> None:
    scales = []
    for seed in range(200):
        move = jitter(seed, (300, 400), size=1024, scaling=(0.1, 2.0))
        height, width = move.resized
        scales.append(width / 1024)
        assert abs(height - 0.75 * width) <= 1
        assert 0 <= move.top <= max(0, height - 1024)
        assert 0 <= move.left <= max(0, width - 1024)
    assert 0.1 <= min(scales) < 0.15
    assert 1.95 < max(scales) <= 2.0


@pytest.mark.parametrize("resized", [(31, 17), (90, 110), (233, 300)])
def test_mask__is_read_at_the_centres_of_pixels(resized: tuple[int, int]) -> None:
    mask = torch.rand(50, 60, generator=torch.Generator().manual_seed(0)) < 0.5
    top, left = max(0, resized[0] - 64) // 2, max(0, resized[1] - 64) // 3
    moved = Jitter((50, 60), True, resized, top, left, 64).mask(mask)
    assert not Jitter((50, 60), True, resized, top, left, 64).mask(mask & False).any()
    flipped = mask.flip(-1)[None, None].float()
    whole = interpolate(flipped, resized, mode="nearest-exact")[0, 0].bool()
    expected = whole[top : top + 64, left : left + 64]
    height, width = expected.shape
    assert torch.equal(moved[:height, :width], expected)
    assert moved.sum() == expected.sum()


def test_visible__is_the_share_of_the_area_that_is_left() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 40], [10, 10, 30, 30], [20, 0, 40, 10], [5, 5, 5, 9]])
    cropped = Jitter((40, 40), False, (80, 80), 0, 0, 40)  # the first quarter, twice as large
    torch.testing.assert_close(cropped.visible(boxes), torch.tensor([0.25, 0.25, 0, 0]))
    flipped = Jitter((40, 40), True, (80, 80), 0, 0, 40)
    torch.testing.assert_close(flipped.visible(boxes), torch.tensor([0.25, 0.25, 1, 0]))
    for seed in range(50):
        whole = jitter(seed, (40, 40), scaling=(0.2, 1.0)).visible(boxes[:3])
        torch.testing.assert_close(whole, torch.ones(3))
        assert (whole <= 1).all()


def test_jitter__what_is_cropped_away_has_no_area() -> None:
    corner = torch.tensor([[0.0, 0, 4, 4]])
    moves = [jitter(seed, (64, 64), scaling=(2.5, 2.5)) for seed in range(20)]
    lost = [move for move in moves if not solid(move.boxes(corner))[0]]
    assert len(lost) > 10


def test_jitter__without_boxes() -> None:
    move = jitter(0, (30, 30))
    assert move.boxes(torch.zeros(0, 4)).shape == (0, 4)
    assert move.visible(torch.zeros(0, 4)).shape == (0,)


def test_solid__at_least_a_pixel_a_side() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0.9, 5], [3, 3, 3, 9]])
    assert solid(boxes).tolist() == [True, False, False]
