from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vildcli.data.copy_paste import Views, boxes_around, copy_paste, covered_shares

SIZE = 64
Box = tuple[int, int, int, int]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(box: Box) -> Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = True
    return mask


def views(objects: list[Box], colour: int = 0, regions: list[Box] | None = None) -> Views:
    """Rectangles; object i has label colour + i, the picture is one colour."""
    areas = torch.tensor(regions or [], dtype=torch.float32).reshape(-1, 4)
    return Views(
        torch.full((3, SIZE, SIZE), colour, dtype=torch.uint8),
        torch.tensor(objects, dtype=torch.float32).reshape(-1, 4),
        torch.arange(len(objects)) + colour,
        torch.stack([filled(box) for box in objects])
        if objects
        else torch.zeros(0, SIZE, SIZE, dtype=torch.bool),
        areas,
        torch.ones(len(areas), dtype=torch.bool),
    )


def pasted(image: Views, donor: Views) -> Views:
    """With all of the donor's objects."""
    for seed in range(200):
        result = copy_paste(image, donor, seeded(seed))
        if (result.labels >= 100).sum() == len(donor.labels):
            return result
    raise AssertionError("all objects were never chosen")


def test_copy_paste__puts_pixels_boxes_and_masks_on_top() -> None:
    image, donor = views([(0, 0, 20, 20)]), views([(30, 30, 50, 40)], 100)
    result = pasted(image, donor)
    where = filled((30, 30, 50, 40))
    assert (result.image[:, where] == 100).all()
    assert (result.image[:, ~where] == 0).all()
    assert result.labels.tolist() == [0, 100]
    assert result.boxes.tolist() == [[0, 0, 20, 20], [30, 30, 50, 40]]
    assert torch.equal(result.masks[0], image.masks[0])
    assert torch.equal(result.masks[1], donor.masks[0])


def test_copy_paste__what_is_partly_covered_shrinks() -> None:
    image = views([(0, 0, 40, 40), (0, 50, 10, 60)])
    image.boxes[1] += 0.25  # boxes as annotated stay where nothing is covered
    result = pasted(image, views([(10, 0, 64, 45)], 100))
    assert result.labels.tolist() == [0, 1, 100]
    assert result.boxes.tolist()[:2] == [[0, 0, 10, 40], [0.25, 50.25, 10.25, 60.25]]
    assert result.masks[0].sum() == 400
    assert not (result.masks[0] & result.masks[2]).any()


@pytest.mark.parametrize(
    ("box", "donor", "stays"),
    [
        ((10, 10, 40, 40), (0, 0, 50, 50), False),  # nothing is left
        ((10, 10, 40, 40), (0, 0, 30, 50), False),  # 10 x 30 are left, a side moved by 20
        ((10, 10, 40, 41), (0, 0, 30, 50), True),  # 10 x 31 are left
        ((10, 10, 24, 24), (0, 0, 20, 50), True),  # 4 x 14 are left, a side moved by 10
        ((10, 10, 24, 24), (0, 0, 21, 50), False),  # 3 x 14 are left, a side moved by 11
        ((10, 10, 12, 12), (50, 50, 60, 60), True),  # small, and not touched
    ],
)
def test_copy_paste__objects_that_are_covered_go(box: Box, donor: Box, stays: bool) -> None:
    labels = pasted(views([box]), views([donor], 100)).labels.tolist()
    assert labels == ([0, 100] if stays else [100])


def test_copy_paste__regions_covered_by_more_than_a_tenth_are_not_distilled() -> None:
    donor = views([(0, 0, 10, 10)], 100)
    regions = [(0, 0, 20, 50), (0, 0, 20, 49), (30, 30, 60, 60), (0, 0, 5, 5), (9, 0, 19, 10)]
    image = views([], 0, regions)
    result = pasted(image, donor)
    assert result.valid.tolist() == [True, False, True, False, True]
    assert torch.equal(result.regions, image.regions)
    image.valid[2] = False  # what the crop took stays out
    assert not pasted(image, donor).valid[2]


def test_copy_paste__any_number_of_objects_each_as_likely() -> None:
    donor = views([(10 * i, 0, 10 * i + 8, 8) for i in range(4)], 100)
    counts, objects = [0] * 5, [0] * 4
    for seed in range(2000):
        labels = copy_paste(views([]), donor, seeded(seed)).labels.tolist()
        assert len(set(labels)) == len(labels)
        counts[len(labels)] += 1
        for label in labels:
            objects[label - 100] += 1
    assert min(counts) > 330  # 400 each
    assert max(counts) < 470
    assert min(objects) > 900  # 1000 each
    assert max(objects) < 1100


def test_copy_paste__objects_that_the_donor_does_not_show_are_not_pasted() -> None:
    donor = views([(0, 0, 8, 8), (20, 20, 30, 30)], 100)
    donor.masks[0] = False  # the crop left a corner of the box and nothing of the object
    found = {tuple(copy_paste(views([]), donor, seeded(s)).labels.tolist()) for s in range(50)}
    assert found == {(), (101,)}


def test_copy_paste__without_objects() -> None:
    nothing = views([], 0, [(0, 0, 5, 5)])
    result = copy_paste(nothing, views([], 100), seeded())
    assert torch.equal(result.image, nothing.image)
    assert result.masks.shape == (0, SIZE, SIZE)
    assert result.valid.tolist() == [True]


def test_boxes_around() -> None:
    boxes: list[Box] = [(0, 0, 64, 64), (3, 5, 4, 6), (10, 20, 30, 64)]
    masks = torch.stack([filled(box) for box in boxes])
    masks[2, 30, 15:25] = False
    assert boxes_around(masks).tolist() == [list(map(float, box)) for box in boxes]


def test_covered_shares() -> None:
    mask = torch.rand(SIZE, SIZE, generator=seeded()) < 0.3
    boxes = torch.tensor([[0, 0, 64, 64], [3, 7, 20, 9], [60.4, 1.6, 64, 30.2], [5, 5, 5, 9]])
    expected = [mask.float().mean(), mask[7:9, 3:20].float().mean(), mask[2:30, 60:].float().mean()]
    torch.testing.assert_close(covered_shares(boxes, mask), torch.tensor([*expected, 0.0]))
