from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from vildcli.labelling.masks import (
    box_to_polygon,
    full_frame,
    mask_to_polygons,
    mask_to_rle,
    object_mask,
    paste_mask,
)

HEIGHT, WIDTH = 90, 120
BOXES = {
    "inside": (10.3, 20.7, 80.2, 71.9),
    "whole_image": (0.0, 0.0, 120.0, 90.0),
    "over_the_corner": (-30.5, -12.0, 60.0, 44.4),
    "over_the_far_corner": (70.1, 50.2, 160.0, 130.0),
    "larger_than_the_image": (-40.0, -40.0, 170.0, 140.0),
    "smaller_than_28": (30.2, 30.4, 45.9, 41.1),
}
DEGENERATE = {
    "no_area": (5.0, 5.0, 5.0, 5.0),
    "reversed": (20.0, 9.0, 11.0, 4.0),
    "left_of_the_image": (-20.0, -20.0, -5.0, -5.0),
    "right_of_the_image": (500.0, 400.0, 600.0, 500.0),
    "less_than_a_pixel": (7.1, 7.1, 7.3, 7.2),
}


def blob(seed: int = 0) -> np.ndarray:
    """A smooth random probability field, [28, 28] uint8, of several parts with holes."""
    noise = torch.randn(1, 1, 36, 36, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, 1)[0, 0].numpy()
    return (255 / (1 + np.exp(-3 * (smooth - smooth.mean()) / smooth.std()))).astype(np.uint8)


def ring() -> np.ndarray:
    y, x = (np.mgrid[:28, :28] + 0.5) / 28 * 2 - 1
    radius = np.hypot(x, y)
    return (((radius < 0.9) & (radius > 0.45)) * 255).astype(np.uint8)


def grid_sampled(mask: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The same question put to torch: probabilities at the centres of all pixels."""
    x1, y1, x2, y2 = box
    x = ((torch.arange(WIDTH).double() + 0.5 - x1) / (x2 - x1) * 2 - 1).expand(HEIGHT, WIDTH)
    y = ((torch.arange(HEIGHT).double() + 0.5 - y1) / (y2 - y1) * 2 - 1)[:, None]
    grid = torch.stack([x, y.expand(HEIGHT, WIDTH)], dim=-1)[None]
    field = torch.from_numpy(mask / 255.0)[None, None]
    return torch.nn.functional.grid_sample(field, grid, align_corners=False)[0, 0].numpy() >= 0.5


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("seed", range(5))
def test_paste_mask__agrees_with_grid_sample(box, seed):
    crop, corner = paste_mask(blob(seed), box, HEIGHT, WIDTH)
    pasted = full_frame(crop, corner, HEIGHT, WIDTH)
    assert (pasted == grid_sampled(blob(seed), box)).mean() >= 0.999


def test_paste_mask__threshold_is_reached_or_not():
    field = np.full((28, 28), 102, np.uint8)  # 0.4
    box = (10.0, 10.0, 38.0, 38.0)
    assert paste_mask(field, box, 50, 50, threshold=0.4)[0].all()
    assert not paste_mask(field, box, 50, 50, threshold=0.41)[0].any()


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_mask_to_rle__is_what_pycocotools_encodes(box):
    for seed in range(5):
        frame = full_frame(*object_mask(blob(seed), box, HEIGHT, WIDTH), HEIGHT, WIDTH)
        expected = coco_mask.encode(np.asfortranarray(frame.astype(np.uint8)))
        rle = mask_to_rle(blob(seed), box, HEIGHT, WIDTH)
        assert rle == {"size": [HEIGHT, WIDTH], "counts": expected["counts"].decode()}


def test_mask_to_rle__full_columns_are_one_run():
    full = np.full((28, 28), 255, np.uint8)
    rle = mask_to_rle(full, (-9.0, -9.0, 200.0, 200.0), HEIGHT, WIDTH)
    assert coco_mask.area(rle) == HEIGHT * WIDTH
    assert coco_mask.decode(rle).all()


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_mask_to_polygons__cover_the_mask(box):
    for mask in (*(blob(seed) for seed in range(5)), ring()):
        frame = full_frame(*object_mask(mask, box, HEIGHT, WIDTH), HEIGHT, WIDTH)
        polygons = mask_to_polygons(mask, box, HEIGHT, WIDTH)
        rles = coco_mask.frPyObjects(polygons, HEIGHT, WIDTH)
        filled = coco_mask.decode(coco_mask.merge(rles)).astype(bool)
        assert intersection_over_union(filled, frame) > 0.9


def test_mask_to_polygons__are_valid_and_inside_the_image():
    for box in (*BOXES.values(), *DEGENERATE.values()):
        for mask in (blob(3), ring(), np.zeros((28, 28), np.uint8)):
            for polygon in mask_to_polygons(mask, box, HEIGHT, WIDTH):
                x, y = np.reshape(polygon, (-1, 2)).T
                area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
                assert len(polygon) >= 6
                assert area > 0
                assert x.min() >= 0
                assert x.max() <= WIDTH
                assert y.min() >= 0
                assert y.max() <= HEIGHT


def test_mask_to_polygons__do_not_grow_with_the_photograph():
    small = mask_to_polygons(blob(1), (0, 0, 100, 100), 100, 100)
    large = mask_to_polygons(blob(1), (0, 0, 6000, 6000), 6000, 6000)
    assert sum(map(len, large)) <= 1.2 * sum(map(len, small))


@pytest.mark.parametrize("box", DEGENERATE.values(), ids=DEGENERATE)
def test_segmentations__are_never_empty(box):
    for mask in (blob(0), np.zeros((28, 28), np.uint8)):
        crop, (x, y) = object_mask(mask, box, HEIGHT, WIDTH)
        assert crop.any()
        assert 0 <= x <= WIDTH - crop.shape[1]
        assert 0 <= y <= HEIGHT - crop.shape[0]
        assert coco_mask.area(mask_to_rle(mask, box, HEIGHT, WIDTH)) > 0


def test_object_mask__without_a_pixel_becomes_the_box():
    nothing = np.zeros((28, 28), np.uint8)
    crop, corner = object_mask(nothing, (10.0, 20.0, 30.0, 50.0), HEIGHT, WIDTH)
    assert (crop.shape, corner, crop.all()) == ((30, 20), (10, 20), True)
    assert mask_to_polygons(nothing, (10.0, 20.0, 30.0, 50.0), HEIGHT, WIDTH) == [
        [10.0, 20.0, 30.0, 20.0, 30.0, 50.0, 10.0, 50.0]
    ]


def test_box_to_polygon__is_cut_at_the_image():
    assert box_to_polygon((-5.0, 10.5, 130.0, 99.0), HEIGHT, WIDTH) == [
        *(0.0, 10.5, 120.0, 10.5),
        *(120.0, 90.0, 0.0, 90.0),
    ]
    assert box_to_polygon(DEGENERATE["right_of_the_image"], HEIGHT, WIDTH)[:2] == [119.0, 89.0]
