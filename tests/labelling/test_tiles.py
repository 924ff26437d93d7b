from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from vildcli.labelling.tiles import TiledDetector, Tiling, merge_tiles, tile_windows
from vildcli.types import Regions


def regions_of(
    boxes: Sequence[Sequence[float]], objectness: Sequence[float] | None = None
) -> Regions:
    count = len(boxes)
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(count, 4)
    scores = objectness or [1 - i / 100 for i in range(count)]
    mark = corners.sum(1).round().to(torch.int64)  # a mask and an embedding that tell the box
    return Regions(
        boxes=corners,
        proposals=corners + 1,
        objectness=torch.tensor(scores, dtype=torch.float32),
        masks=(mark % 256).to(torch.uint8)[:, None, None].expand(count, 28, 28),
        text_side=None,
        image_side=mark[:, None].half(),
    )


class SeesSquares:
    """Finds the filled rectangles of a picture, each of a grey of its own, where 16 pixels are."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        self.batches.append([tuple(image.shape[1:]) for image in images])
        return [self.look(image) for image in images]

    def look(self, image: Tensor) -> Regions:
        boxes = []
        for grey in image.unique().tolist():
            ys, xs = torch.where(image[0] == grey)
            if grey and len(xs) >= 16:
                boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        boxes.sort(key=lambda b: -float((b[2] - b[0]) * (b[3] - b[1])))  # larger ones are surer
        return regions_of(boxes)


def picture(size: tuple[int, int], boxes: Sequence[tuple[int, int, int, int]]) -> Tensor:
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for grey, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        image[:, y1:y2, x1:x2] = grey
    return image


def test_tile_windows__as_sahi_cuts() -> None:
    windows = tile_windows(100, 250, Tiling(100, 0.2))
    assert windows == [(0, 0, 250, 100), (0, 0, 100, 100), (80, 0, 180, 100), (150, 0, 250, 100)]
    assert tile_windows(100, 100, Tiling(100)) == [(0, 0, 100, 100)]
    assert tile_windows(30, 101, Tiling(100, 0.0))[1:] == [(0, 0, 100, 30), (1, 0, 101, 30)]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 1024), st.floats(0, 0.9))
def test_tile_windows__cover_the_image_and_overlap_enough(
    height: int, width: int, side: int, overlap: float
) -> None:
    windows = tile_windows(height, width, Tiling(side, overlap))
    assert windows[0] == (0, 0, width, height)
    tiles = windows[1:] or windows
    for low, high, length in ((0, 2, width), (1, 3, height)):
        spans = sorted({(w[low], w[high]) for w in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end - start >= int(side * overlap)
        assert all(high - low == min(side, length) for low, high in spans)


def test_regions__of_a_tile_lie_where_they_are_in_the_image() -> None:
    things = [(5, 5, 15, 15), (120, 40, 130, 48), (190, 90, 199, 99), (20, 30, 180, 36)]
    detector = TiledDetector(SeesSquares(), Tiling(64, 0.25))
    (found,) = detector.regions([picture((100, 200), things)])
    assert sorted(found.boxes.int().tolist()) == sorted(map(list, things))
    assert found.objectness.tolist() == sorted(found.objectness.tolist(), reverse=True)
    # Mask and embedding still belong to the box in the frame of the tile that it came from.
    assert found.image_side is not None
    assert torch.equal(found.masks[:, 0, 0].long(), found.image_side[:, 0].long() % 256)
    assert torch.equal(found.proposals, found.boxes + 1)


def test_regions__a_thing_that_a_border_cuts_is_found_once_and_whole() -> None:
    thing = (58, 10, 72, 24)  # over the border of the first tile at 64, whole in the second
    detector = TiledDetector(SeesSquares(), Tiling(64, 0.25))
    (found,) = detector.regions([picture((64, 112), [thing])])
    assert found.boxes.int().tolist() == [list(thing)]


def test_regions__an_image_no_larger_than_a_tile_is_untouched() -> None:
    plain, detector = SeesSquares(), SeesSquares()
    image = picture((60, 64), [(5, 5, 15, 15)])
    (found,) = TiledDetector(detector, Tiling(64)).regions([image])
    (wanted,) = plain.regions([image])
    assert torch.equal(found.boxes, wanted.boxes)
    assert detector.batches == plain.batches == [[(60, 64)]]
    tiled = TiledDetector(detector, Tiling(64))
    assert tiled.canvas(60, 64) == (60, 64)
    assert tiled.canvas(65, 10) == tiled.canvas(300, 400)


def test_regions__tiles_are_as_many_at_a_time_as_images() -> None:
    detector = SeesSquares()
    images = [picture((100, 200), [(5, 5, 15, 15)]) for _ in range(3)]
    found = TiledDetector(detector, Tiling(64, 0.25)).regions(images)
    assert [len(batch) for batch in detector.batches] == [3] * 9  # the whole and 2 x 4 tiles
    assert all(torch.equal(one.boxes, found[0].boxes) for one in found)


def test_merge_tiles__a_cut_region_stays_where_nothing_whole_covers_it() -> None:
    windows = [(0, 0, 200, 100), (0, 0, 100, 100), (100, 0, 200, 100)]
    found = [
        regions_of([]),
        regions_of([[60, 10, 99, 30], [10, 10, 20, 20]]),
        regions_of([[0, 10, 30, 30]]),
    ]
    merged = merge_tiles(found, windows, 100, 200)
    assert sorted(merged.boxes.tolist()) == [
        [10, 10, 20, 20], [60, 10, 99, 30], [100, 10, 130, 30],
    ]  # fmt: skip
    whole = merge_tiles([regions_of([[60, 10, 130, 30]]), *found[1:]], windows, 100, 200)
    assert sorted(whole.boxes.tolist()) == [[10, 10, 20, 20], [60, 10, 130, 30]]


def test_merge_tiles__the_surer_of_two_views_stays() -> None:
    windows = [(0, 0, 200, 100), (0, 0, 120, 100), (80, 0, 200, 100)]
    found = [
        regions_of([]),
        regions_of([[85, 20, 105, 40]], [0.6]),
        regions_of([[6, 21, 26, 41]], [0.9]),
    ]
    merged = merge_tiles(found, windows, 100, 200)
    assert merged.boxes.tolist() == [[86, 21, 106, 41]]
    assert merged.objectness.tolist() == pytest.approx([0.9])


def test_merge_tiles__no_two_regions_overlap_much_and_sides_may_be_missing() -> None:
    generator = torch.Generator().manual_seed(0)
    windows = tile_windows(300, 400, Tiling(128))
    found = []
    for x1, y1, x2, y2 in windows:
        corners = torch.rand(40, 2, 2, generator=generator) * torch.tensor([x2 - x1, y2 - y1])
        boxes = torch.cat([corners.min(1).values, corners.max(1).values], 1)
        scores = sorted(torch.rand(40, generator=generator).tolist(), reverse=True)
        found.append(replace(regions_of(boxes.tolist(), scores), image_side=None))
    merged = merge_tiles(found, windows, 300, 400)
    overlaps = box_iou(merged.boxes, merged.boxes).fill_diagonal_(0)
    assert overlaps.max() <= 0.7
    assert merged.image_side is None
    assert (merged.boxes >= 0).all()
    assert (merged.boxes[:, 2] <= 400).all()
