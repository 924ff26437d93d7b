from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from stub_model import StubDetector
from torch import Tensor

from vildcli.errors import RunError
from vildcli.labelling.batches import Forward, batches_by_canvas, is_out_of_memory
from vildcli.types import Regions


def cut(text: str, size: int) -> list[str]:
    return ["".join(batch) for batch in batches_by_canvas(text, str.lower, lambda: size)]


def test_batches_by_canvas__puts_equal_ones_together() -> None:
    assert cut("aAaabAbBb", 3) == ["aAa", "bbB", "aA", "b"]
    assert cut("aaaa", 2) == ["aa", "aa"]
    assert cut("", 2) == []


def test_batches_by_canvas__few_images_wait() -> None:
    batches = cut("abcdefg" * 3, 4)
    assert sorted("".join(batches)) == sorted("abcdefg" * 3)
    taken = given = 0

    def watched() -> object:
        nonlocal taken
        for letter in "abcdefghijklmn" * 4:
            taken += 1
            yield letter

    for batch in batches_by_canvas(watched(), str, lambda: 4):  # type: ignore[arg-type]
        assert taken - given <= 2 * 4 + 1
        given += len(batch)


def test_batches_by_canvas__depends_on_the_images_alone() -> None:
    text = "abcabdabeaacbb" * 7
    assert cut(text, 4) == cut(text, 4)
    assert max(map(len, cut(text, 4))) == 4


class SmallMemory(StubDetector):
    """Holds `room` images at a time."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.room, self.error = room, error

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        if len(images) > self.room:
            raise self.error
        return super().regions(images)


def pictures(count: int) -> list[Tensor]:
    return [torch.full((3, 4, 4), i, dtype=torch.uint8) for i in range(count)]


RAN_OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 bytes."),
    RuntimeError("MPS backend out of memory"),
]


@pytest.mark.parametrize("error", RAN_OUT, ids=lambda error: type(error).__name__)
def test_forward__halves_what_does_not_fit_and_finds_the_same(error: Exception) -> None:
    detector = SmallMemory(3, error)
    told: list[tuple[int, int]] = []
    forward = Forward(detector, 8, may_shrink=True)
    forward.shrunk = lambda before, after: told.append((before, after))
    found = forward(pictures(8))
    assert told == [(8, 4), (4, 2)]
    assert [len(batch) for batch in detector.batches] == [2, 2, 2, 2]
    for one, other in zip(found, StubDetector().regions(pictures(8)), strict=True):
        assert torch.equal(one.boxes, other.boxes)
    forward(pictures(3))
    assert [len(batch) for batch in detector.batches[4:]] == [2, 1]


def test_forward__a_batch_that_was_chosen_is_not_changed() -> None:
    with pytest.raises(RunError) as caught:
        Forward(SmallMemory(3, MemoryError()), 8)(pictures(8))
    assert str(caught.value) == "A batch of 8 images is more than the memory of the device holds."
    assert caught.value.hint == (
        "Give a smaller --batch, or --batch auto; the same command continues."
    )


def test_forward__one_image_must_fit() -> None:
    with pytest.raises(RunError) as caught:
        Forward(SmallMemory(0, MemoryError()), 2, may_shrink=True)(pictures(2))
    assert str(caught.value) == "A single image is more than the memory of the device holds."


def test_forward__other_errors_are_the_models_own() -> None:
    with pytest.raises(RuntimeError, match="weights are nonsense"):
        Forward(SmallMemory(0, RuntimeError("weights are nonsense")), 2, may_shrink=True)(
            pictures(2)
        )
    assert not is_out_of_memory(RuntimeError("size mismatch"))
