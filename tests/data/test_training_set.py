from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import NOVEL_ID, annotation, rewrite, tiny_cache, tiny_set, write_images

from vildcli.data.training_set import BatchPlan, Example
from vildcli.errors import DataError

IDS = [1, 2, 3, 4]


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


def test_example__the_same_key_is_the_same_example_and_another_epoch_is_not(
    tmp_path: Path,
) -> None:
    path = write_images(tmp_path)
    first, second = tiny_set(path), tiny_set(path)
    assert_same(first[3, 2], second[3, 2])
    assert not torch.equal(first[3, 2].image, first[4, 2].image)


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


def test_novel_annotations_change_nothing(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    cache = tiny_cache(tmp_path / "cache", IDS)
    examples = [tiny_set(path, cache)[epoch, row] for epoch in (0, 1) for row in range(4)]
    rewrite(path, nonsense)
    others = [tiny_set(path, cache)[epoch, row] for epoch in (0, 1) for row in range(4)]
    for a, b in zip(examples, others, strict=True):
        assert_same(a, b)


def test_crowds_and_images_without_objects(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"] = content["annotations"][:2]
        content["annotations"][0]["iscrowd"] = 1

    data = tiny_set(rewrite(write_images(tmp_path), change))
    assert data[0, 0].target.labels.tolist() == [1]
    assert len(data[0, 3].target) == 0
    assert len(data) == 4


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png"):
        tiny_set(path)[0, 2]


def test_batches__every_image_once_an_epoch_and_other_orders() -> None:
    batches = list(BatchPlan(images=6, batch=4, seed=0, first_step=0, steps=6))
    flat = [place for batch in batches for place in batch]
    epochs = [flat[i : i + 6] for i in range(0, 24, 6)]
    for number, epoch in enumerate(epochs):
        assert {e for e, _ in epoch} == {number}
        assert sorted(row for _, row in epoch) == list(range(6))
    assert len({tuple(row for _, row in epoch) for epoch in epochs}) > 1


def test_batches__resume_where_they_stopped() -> None:
    whole = list(BatchPlan(images=5, batch=3, seed=1, first_step=0, steps=9))
    rest = BatchPlan(images=5, batch=3, seed=1, first_step=4, steps=9)
    assert list(rest) == whole[4:]
    assert len(rest) == 5
    assert list(BatchPlan(images=5, batch=3, seed=2, first_step=0, steps=9)) != whole
