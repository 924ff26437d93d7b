from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import (
    COLUMNS,
    GREY,
    NOVEL_ID,
    annotation,
    rewrite,
    tiny_cache,
    tiny_set,
    write_images,
)
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.ops import box_iou

from vildcli.data import training_set
from vildcli.data.batches import BatchPlan
from vildcli.data.copy_paste import boxes_around
from vildcli.data.lvis import load_annotations
from vildcli.data.training_set import (
    MAX_DISTILLED,
    MAX_OBJECTS,
    Augmentation,
    Example,
    PackedObjects,
    Taught,
    TrainingSet,
)
from vildcli.errors import DataError

IDS = [1, 2, 3, 4]
SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def assert_same(a: Example, b: Example) -> None:
    assert a.image_id == b.image_id
    pairs = [(a.image, b.image)]
    pairs += [(getattr(a.target, n), getattr(b.target, n)) for n in ("boxes", "labels", "masks")]
    assert (a.distillation is None) == (b.distillation is None)
    if a.distillation is not None and b.distillation is not None:
        names = ("boxes", "embeddings", "valid")
        pairs += [(getattr(a.distillation, n), getattr(b.distillation, n)) for n in names]
    assert all(torch.equal(x, y) for x, y in pairs)


def nonsense(content: dict[str, Any]) -> None:
    """Replace every novel annotation by another one of any other size and shape."""
    for i, row in enumerate(content["annotations"]):
        if row["category_id"] == NOVEL_ID:
            row |= annotation(row["id"], row["image_id"], NOVEL_ID, [i % 7, 1, 50, 3 + i % 40])


def augmented(path: Path, teacher: Any = None, size: int = 64, **changes: Any) -> TrainingSet:
    augmentation = Augmentation(size, (0.4, 2.5), GREY, **changes)
    return TrainingSet(
        load_annotations(path), path.parent, COLUMNS, augmentation, seed=0, teacher=teacher
    )


class Teacher:
    """The same regions for every image; embedding i is [i, …]."""

    def __init__(
        self, boxes: Tensor, weights: Tensor | None = None, is_true: Tensor | None = None
    ) -> None:
        self.boxes, self._weights, self._is_true = boxes, weights, is_true
        self.embeddings = torch.arange(len(boxes)).float()[:, None].repeat(1, 8)

    def __getitem__(self, image_id: int) -> tuple[Tensor, Tensor]:
        return self.boxes, self.embeddings

    def weights(self, image_id: int) -> Tensor | None:
        return self._weights

    def is_true(self, image_id: int) -> Tensor | None:
        return self._is_true


def test_example__base_objects_on_a_canvas(tmp_path: Path) -> None:
    data = tiny_set(write_images(tmp_path))
    example = data[0, 1]
    assert example.image_id == 2
    assert example.image.shape == (3, 64, 64)
    assert example.image.dtype == torch.uint8
    assert example.target.labels.tolist() == [0, 1]
    assert example.target.masks.shape == (2, 64, 64)
    assert example.distillation is None
    for box, mask, channel in zip(example.target.boxes, example.target.masks, (0, 1), strict=True):
        x1, y1, x2, y2 = box.round().int().tolist()
        inside = example.image[channel, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
        assert inside.float().mean() > 230  # the object is where its box says
        assert mask[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()


@pytest.mark.parametrize("copy_paste", [False, True])
def test_example__the_same_key_is_the_same_example_and_another_is_not(
    tmp_path: Path, copy_paste: bool
) -> None:
    path = write_images(tmp_path)
    first, second = (augmented(path, copy_paste=copy_paste) for _ in range(2))
    assert_same(first[3, 2], second[3, 2])
    assert_same(first[3, 2], first[3, 2, 0])
    assert not torch.equal(first[3, 2].image, first[4, 2].image)
    assert not torch.equal(first[3, 2].image, first[3, 2, 1].image)  # a repeat of the image


def test_example__distillation_regions_move_with_the_image(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    cache = tiny_cache(tmp_path / "cache", IDS)
    data = tiny_set(path, cache)
    for row in range(4):
        example = data[0, row]
        assert example.distillation is not None
        # The first proposal is the first image's first object.
        if row == 0:
            torch.testing.assert_close(
                example.distillation.boxes[0], example.target.boxes[0], atol=1e-3, rtol=0
            )
        assert torch.equal(example.distillation.embeddings, cache[row + 1][1])
        assert example.distillation.valid.tolist() == [True] * 3


def position_coloured(folder: Path) -> Path:
    """One image of 200 x 160 whose red says x and whose green says y; padding is blue."""
    y, x = np.mgrid[:160, :200]
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8)).save(folder / "0.png")
    path = folder / "train.json"
    image = {"id": 1, "file_name": "0.png", "width": 200, "height": 160}
    category = {"id": 10, "name": "apple"}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": [category]}))
    return path


def seen_in_source(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read off the colours where canvas points lie in the source.

    Returns:
        Slope and offset of x and y [2], and the window that is seen [2, 2], least corner first.
    """
    shown = image[2] < 50
    lines = []
    for line in (image[0, 3, shown[3]], image[1, shown[:, 3], 3]):
        inner = np.arange(3, len(line) - 3)
        lines.append(np.polyfit(inner + 0.5, line[3:-3].numpy() + 0.5, 1))
    slopes, offsets = torch.tensor(np.array(lines), dtype=torch.float32).T
    extent = torch.tensor([[0.0, 0.0], [shown[3].sum(), shown[:, 3].sum()]])
    return slopes, offsets, (slopes * extent + offsets).sort(0).values


def test_regions__show_after_augmentation_what_they_showed_before(tmp_path: Path) -> None:
    drawn = torch.rand(60, 2, 2, generator=torch.Generator().manual_seed(1))
    before = (drawn * torch.tensor([200.0, 160])).sort(1).values  # [60, corner, axis]
    data = augmented(position_coloured(tmp_path), Teacher(before.reshape(-1, 4)), size=128)
    flipped = lost = clipped = 0
    for epoch in range(40):
        example = data[epoch, 0]
        found = example.distillation
        assert found is not None
        assert torch.equal(found.embeddings, data.teacher.embeddings)  # of the whole region
        slopes, offsets, window = seen_in_source(example.image)
        expected = before.clamp(*window)
        after = (slopes * found.boxes.reshape(-1, 2, 2) + offsets).sort(1).values
        torch.testing.assert_close(after, expected, atol=0.6, rtol=0)
        sides = (expected[:, 1] - expected[:, 0]) / slopes.abs()  # canvas pixels
        clear = (sides.amin(1) - 1).abs() > 0.3
        assert torch.equal(found.valid[clear], sides.amin(1)[clear] >= 1)
        flipped += bool(slopes[0] < 0)
        lost += int((~found.valid).sum())
        clipped += int(((expected - before).abs().amax((1, 2)) > 1)[found.valid].sum())
    assert 12 < flipped < 28
    assert lost > 100
    assert clipped > 300


def test_regions__below_the_share_that_must_be_left_are_not_distilled(tmp_path: Path) -> None:
    path = position_coloured(tmp_path)
    drawn = torch.rand(60, 2, 2, generator=torch.Generator().manual_seed(1))
    before = (drawn * torch.tensor([200.0, 160])).sort(1).values.reshape(-1, 4)
    area = (before[:, 2:] - before[:, :2]).prod(1)
    some, half, all_ = (
        augmented(path, Teacher(before), size=128, min_visible=share) for share in (0.0, 0.5, 1.0)
    )
    kept = torch.zeros(3)
    for epoch in range(20):
        a, b, c = (d[epoch, 0].distillation for d in (some, half, all_))
        assert a is not None and b is not None and c is not None  # noqa: PT018
        assert torch.equal(a.boxes, b.boxes)
        slopes, _, (low, high) = seen_in_source(some[epoch, 0].image)
        left = (a.boxes[:, 2:] - a.boxes[:, :2]).prod(1) * slopes.abs().prod() / area
        assert torch.equal(b.valid, a.valid & b.valid)
        clear = (left - 0.5).abs() > 0.02
        assert torch.equal(b.valid[clear], (a.valid & (left > 0.5))[clear])
        assert (left[c.valid] > 0.98).all()
        inside = (before[:, :2] > low + 0.6).all(1) & (before[:, 2:] < high - 0.6).all(1)
        assert c.valid[inside & a.valid].all()
        kept += torch.stack([v.valid.sum() for v in (a, b, c)])
    assert kept[0] - 50 > kept[1] > kept[2] + 50


def test_regions__the_first_three_hundred_in_stored_order(tmp_path: Path) -> None:
    boxes = torch.tensor([[1.0, 2, 30, 40]]).repeat(MAX_DISTILLED + 7, 1)
    found = augmented(write_images(tmp_path), Teacher(boxes))[0, 0].distillation
    assert found is not None
    assert found.embeddings[:, 0].tolist() == list(range(MAX_DISTILLED))
    assert len(found.boxes) == len(found.valid) == MAX_DISTILLED


def chosen_by_the_teacher(count: int) -> Teacher:
    """Every tenth region is ground truth, of weight 1; the others' weights tell them apart."""
    is_true = torch.arange(count) % 10 == 9
    weights = torch.where(is_true, 1.0, torch.arange(count) / count)
    return Teacher(torch.tensor([[1.0, 2, 30, 40]]).repeat(count, 1), weights, is_true)


def test_regions__ground_truth_and_the_first_of_the_others(tmp_path: Path) -> None:
    data = augmented(write_images(tmp_path), chosen_by_the_teacher(40))
    data.taught = Taught(count=20)
    found = data[0, 0].distillation
    assert found is not None
    assert found.embeddings[:, 0].tolist() == [9, 19, 29, 39, *range(9), *range(10, 19), 20, 21]
    assert found.weights is not None
    expected = torch.where(found.embeddings[:, 0] % 10 == 9, 1.0, found.embeddings[:, 0] / 40)
    torch.testing.assert_close(found.weights, expected)
    data.taught = Taught(count=20, weighted=False)
    assert data[0, 0].distillation.weights is None


def test_regions__redrawn_with_replacement_anew_each_time(tmp_path: Path) -> None:
    data = augmented(write_images(tmp_path), chosen_by_the_teacher(40))
    data.taught = Taught(count=20, redrawn=True)

    def drawn(epoch: int) -> list[float]:
        found = data[epoch, 0].distillation
        assert found is not None
        return found.embeddings[:, 0].tolist()

    first, second = drawn(0), drawn(1)
    assert first == drawn(0) != second
    for rows in (first, second):
        assert rows[:4] == [9, 19, 29, 39]
        assert len(rows) == 24
        assert set(rows[4:]) < {*range(9), *range(10, 19), 20, 21}
        assert len(set(rows[4:])) < 20


def test_novel_annotations_change_nothing(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    cache = tiny_cache(tmp_path / "cache", IDS)

    def examples() -> list[Example]:
        sets = [augmented(path, cache, copy_paste=paste) for paste in (False, True)]
        return [data[epoch, row] for data in sets for epoch in (0, 1) for row in range(4)]

    before = examples()
    rewrite(path, nonsense)
    for a, b in zip(before, examples(), strict=True):
        assert_same(a, b)


def test_crowds_and_images_without_objects(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"] = content["annotations"][:2]
        content["annotations"][0]["iscrowd"] = 1

    data = tiny_set(rewrite(write_images(tmp_path), change))
    assert data[0, 0].target.labels.tolist() == [1]
    assert len(data[0, 3].target) == 0
    assert len(data) == 4


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The annotations whose masks are decoded."""
    calls: list[Any] = []
    fill = training_set.annotation_mask
    monkeypatch.setattr(
        training_set, "annotation_mask", lambda a, *size: calls.append(a) or fill(a, *size)
    )
    return calls


def test_objects__at_most_three_hundred_of_those_that_the_crop_leaves(
    tmp_path: Path, filled: list[Any]
) -> None:
    def change(content: dict[str, Any]) -> None:
        far = [annotation(i, 1, 10, [400, 0, 9, 9]) for i in range(100, 105)]
        near = [annotation(200 + i, 1, 20, [i % 7, 0, 30, 40]) for i in range(MAX_OBJECTS + 5)]
        content["annotations"] = far + near

    path = rewrite(write_images(tmp_path), change)
    target = tiny_set(path)[0, 0].target
    assert target.labels.tolist() == [1] * MAX_OBJECTS
    assert target.masks.shape == (MAX_OBJECTS, 64, 64)
    assert [a.id for a in filled] == list(range(200, 200 + MAX_OBJECTS))
    pasted = augmented(path, copy_paste=True)
    assert max(len(pasted[epoch, 0].target) for epoch in range(30)) == MAX_OBJECTS


def test_objects__that_the_crop_takes_away_cost_no_mask(tmp_path: Path, filled: list[Any]) -> None:
    data = augmented(write_images(tmp_path), size=32)
    counts = [len(data[epoch, 0].target) for epoch in range(20)]
    assert len(filled) == sum(counts) < 40


def test_copy_paste__brings_objects_of_other_images(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    plain, pasted = augmented(path), augmented(path, copy_paste=True)
    more = 0
    for epoch in range(20):
        a, b = plain[epoch, 0], pasted[epoch, 0]
        more += len(b.target) > len(a.target)
        for label, mask in zip(b.target.labels, b.target.masks, strict=True):
            colours = b.image[label][mask].float()
            assert (colours > 150).float().mean() > 0.5  # every object shows its own channel
    assert more > 5


def test_copy_paste__takes_regions_that_it_covers_out(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    boxes = torch.tensor([[4.0, 5, 18, 25], [0, 0, 60, 50], [40, 5, 54, 25]])
    plain, pasted = (augmented(path, Teacher(boxes), copy_paste=paste) for paste in (False, True))
    taken = torch.zeros(3)
    for epoch in range(40):
        a, b = plain[epoch, 0].distillation, pasted[epoch, 0].distillation
        assert a is not None and b is not None  # noqa: PT018
        assert torch.equal(a.boxes, b.boxes)
        assert not (b.valid & ~a.valid).any()
        taken += a.valid & ~b.valid
    assert (taken > 0).all()
    assert (taken < 40).all()


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png"):
        tiny_set(path)[0, 2]


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    Image.new("RGB", (50, 60)).save(tmp_path / "2.png")
    with pytest.raises(DataError) as caught:
        tiny_set(path)[0, 2]
    assert str(caught.value) == (
        f"{tmp_path / '2.png'} is 50 x 60 pixels; {path} says 60 x 50 (image 3)."
    )
    assert caught.value.hint == (
        "Name the images that were annotated; sizes are meant after EXIF rotation."
    )


def test_an_image_stored_on_its_side_counts_upright(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    with Image.open(tmp_path / "2.png") as image:
        exif = image.getexif()
        exif[0x0112] = 6  # turn by 90 degrees to see it upright
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "2.png", exif=exif)
    assert_same(tiny_set(path)[0, 2], tiny_set(write_images(tmp_path / "upright"))[0, 2])


def test_photographs__masks_lie_in_their_boxes() -> None:
    """Official COCO annotations: where box and mask agree before, they do so on the canvas."""
    folder = SHARED / "images" / "coco128"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {SHARED}; set VILDCLI_SHARED_DATA")
    found = load_annotations(folder / "coco_json" / "instances_train2017_128.json")
    columns = {category.id: i for i, category in enumerate(found.categories)}
    augmentation = Augmentation(512, (0.5, 1.5), GREY)
    images = folder / "images" / "train2017"
    data = TrainingSet(found, images, columns, augmentation, seed=0, teacher=None)
    overlaps = []
    for row in range(30):
        target = data[0, row].target
        around = boxes_around(target.masks)
        pairs = torch.diagonal(box_iou(around, target.boxes))
        overlaps.append(pairs[(target.boxes[:, 2:] - target.boxes[:, :2]).amin(1) > 16])
    some, half = torch.cat(overlaps).quantile(torch.tensor([0.05, 0.5]))
    assert some > 0.85
    assert half > 0.97


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loading_processes_give_the_same_examples(tmp_path: Path, start: str) -> None:
    path = write_images(tmp_path)
    data = augmented(path, tiny_cache(tmp_path / "cache", IDS), copy_paste=True)
    plan = BatchPlan(4, 3, seed=0, first_step=1, steps=4, repeat_factors=[1, 2.5, 1, 1.5])
    loader = DataLoader(
        data, batch_sampler=plan, num_workers=2, collate_fn=list, multiprocessing_context=start
    )
    for batch, keys in zip(loader, plan, strict=True):
        for example, key in zip(batch, keys, strict=True):
            assert_same(example, data[key])


def test_packed_objects__come_back_as_they_were(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        rows = content["annotations"]
        rows[1]["bbox"] = [0.1, 1 / 3, 1e-7, 2.5]
        rows[2]["segmentation"] = {"size": [50, 60], "counts": "abc`0"}
        rows[3]["segmentation"] = None

    found = load_annotations(rewrite(write_images(tmp_path), change))
    groups = [list(found.annotations.get(image.id, ())) for image in found.images]
    groups.insert(2, [])
    packed = PackedObjects(groups)
    for row, group in enumerate(groups):
        assert packed[row] == group
    (one,) = PackedObjects([[replace(groups[0][0], iscrowd=True)]])[0]
    assert one.iscrowd
    assert PackedObjects([[]])[0] == []
