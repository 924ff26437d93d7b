from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vildcli.data.transforms import Views, flip_at_random, make_views, scale_jitter, solid

RECTANGLE = torch.tensor([[20.0, 10, 60, 30]])


def drawn(height: int = 80, width: int = 100) -> Views:
    """A white rectangle on black: image, box, mask and region all say where it is."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 10:30, 20:60] = 255
    return make_views(image, RECTANGLE, image[:1] > 0, RECTANGLE.clone())


def extent(mask: Tensor) -> Tensor:
    """Box of what is set, x1 y1 x2 y2."""
    rows, columns = torch.where(mask)
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return torch.stack(corners).float()


def assert_aligned(views: Views) -> None:
    box = views.boxes[0].as_subclass(Tensor)
    torch.testing.assert_close(views.regions[0].as_subclass(Tensor), box)
    if not solid(views.boxes.as_subclass(Tensor))[0]:
        return
    torch.testing.assert_close(extent(views.image[0] > 127), box, atol=1.5, rtol=0)
    torch.testing.assert_close(extent(views.masks[0]), box, atol=1.5, rtol=0)


@pytest.mark.parametrize("seed", range(25))
def test_flip_and_jitter_move_all_views_together(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = flip_at_random(drawn(), generator)
    assert_aligned(views)
    jittered = scale_jitter(views, size=64, limits=(0.3, 2.5), fill=(0, 0, 0), generator=generator)
    assert jittered.image.shape == (3, 64, 64)
    assert jittered.masks.shape == (1, 64, 64)
    assert_aligned(jittered)


def test_flip__half_of_them_and_once() -> None:
    flipped = 0
    for seed in range(200):
        box = flip_at_random(drawn(), torch.Generator().manual_seed(seed)).boxes[0].tolist()
        assert box in ([20, 10, 60, 30], [40, 10, 80, 30])
        flipped += box[0] == 40
    assert 70 < flipped < 130


def test_jitter__no_scaling_leaves_the_pixels_and_pads_with_the_colour() -> None:
    views = drawn(64, 40)
    jittered = scale_jitter(
        views, size=64, limits=(1.0, 1.0), fill=(7, 8, 9), generator=torch.Generator()
    )
    assert torch.equal(jittered.image[:, :, :40], views.image)
    assert jittered.image[:, 0, 40:].tolist() == [[v] * 24 for v in (7, 8, 9)]
    assert not jittered.masks[:, :, 40:].any()


def test_jitter__what_is_cropped_away_has_no_area() -> None:
    corner = torch.tensor([[0.0, 0, 4, 4]])
    lost = 0
    for seed in range(20):
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        views = make_views(image, corner, image[:1] > 0, corner)
        generator = torch.Generator().manual_seed(seed)
        jittered = scale_jitter(
            views, size=64, limits=(2.5, 2.5), fill=(0, 0, 0), generator=generator
        )
        lost += not solid(jittered.regions.as_subclass(Tensor))[0]
        assert len(jittered.boxes) == len(jittered.regions) == 1
    assert lost > 10


def test_views_without_objects() -> None:
    nothing = torch.zeros(0, 4)
    image = torch.zeros(3, 30, 30, dtype=torch.uint8)
    views = make_views(image, nothing, torch.zeros(0, 30, 30, dtype=torch.bool), nothing)
    generator = torch.Generator().manual_seed(0)
    jittered = scale_jitter(
        flip_at_random(views, generator),
        size=64,
        limits=(0.5, 2),
        fill=(0, 0, 0),
        generator=generator,
    )
    assert jittered.masks.shape == (0, 64, 64)
    assert jittered.boxes.shape == jittered.regions.shape == (0, 4)


def test_solid__at_least_a_pixel_a_side() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0.9, 5], [3, 3, 3, 9]])
    assert solid(boxes).tolist() == [True, False, False]
