from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vildcli.data.batches import BatchPlan, ExampleKey, repeat_factors, seeded_generator
from vildcli.data.lvis import AnnotatedImage, Annotation, AnnotationSet
from vildcli.errors import ModelError
from vildcli.vocabulary.category import Category


def plan(**changes: Any) -> BatchPlan:
    return BatchPlan(**{"images": 6, "batch": 4, "seed": 0, "first_step": 0, "steps": 6, **changes})


def flat(batches: Any) -> list[ExampleKey]:
    return [key for batch in batches for key in batch]


def annotation_set(held: np.ndarray[Any, Any], crowds: bool = False) -> AnnotationSet:
    """`held` [images, categories]: how many objects of each category, ids from 1."""
    numbers = itertools.count(1)
    return AnnotationSet(
        Path("set.json"),
        tuple(AnnotatedImage(i + 1, f"{i}.png", 9, 9) for i in range(len(held))),
        tuple(Category(c + 1, f"c{c}") for c in range(held.shape[1])),
        {
            i + 1: tuple(
                Annotation(next(numbers), i + 1, c + 1, (0, 0, 5, 5), 25, None, crowds)
                for c, n in enumerate(row)
                for _ in range(n)
            )
            for i, row in enumerate(held.tolist())
        },
    )


def test_batches__every_image_once_an_epoch_and_other_orders() -> None:
    keys = flat(plan())
    epochs = [keys[i : i + 6] for i in range(0, 24, 6)]
    for number, epoch in enumerate(epochs):
        assert {key.epoch for key in epoch} == {number}
        assert sorted(key.row for key in epoch) == list(range(6))
        assert {key.copy for key in epoch} == {0}
    assert len({tuple(key.row for key in epoch) for epoch in epochs}) > 1


FACTORS = [1.0, 2.5, 1.25, 4.0, 1.0]


@pytest.mark.parametrize("factors", [None, FACTORS], ids=["once", "repeated"])
def test_batches__resume_where_they_stopped(factors: list[float] | None) -> None:
    settings: dict[str, Any] = {"images": 5, "batch": 3, "seed": 1, "repeat_factors": factors}
    whole = list(plan(**settings, steps=40))
    for step in range(40):
        rest = plan(**settings, steps=40, first_step=step)
        assert list(rest) == whole[step:]
        assert plan(**settings, steps=40).starting_at(step) == rest
        assert len(rest) == 40 - step
    assert list(plan(**settings | {"seed": 2}, steps=40)) != whole


@pytest.mark.parametrize("factors", [None, FACTORS], ids=["once", "repeated"])
def test_batches__the_shares_of_all_processes_are_the_batch_of_one(
    factors: list[float] | None,
) -> None:
    settings: dict[str, Any] = {"images": 5, "batch": 6, "repeat_factors": factors}
    whole = list(plan(**settings, steps=9))
    for world in (1, 2, 3, 6):
        shares = [list(plan(**settings, steps=9, rank=r, world=world)) for r in range(world)]
        assert [flat(parts) for parts in zip(*shares, strict=True)] == whole
        for rank, share in enumerate(shares):  # the place that randomness is seeded by
            for step, keys in enumerate(share):
                assert len(keys) == 6 // world
                for i, key in enumerate(keys):
                    assert whole[step][rank * len(keys) + i] == key


def test_batches__refuse_an_uneven_share() -> None:
    with pytest.raises(ModelError) as caught:
        plan(batch=8, world=3)
    assert str(caught.value) == "A batch of 8 images cannot be shared by 3 processes."
    assert caught.value.hint == "Choose a batch that is a multiple of 3."


def test_repeats__whole_factors_exactly_and_rests_on_average() -> None:
    epochs = 2000
    taken = np.zeros((epochs, len(FACTORS)))
    for key in flat(plan(images=5, batch=1, steps=epochs * 9, repeat_factors=FACTORS)):
        taken[key.epoch, key.row] += key.epoch < epochs
    complete = taken[:-300]  # an epoch has 9 to 11 images: the last ones were not reached
    assert (complete[:, [0, 3, 4]] == [1, 4, 1]).all()
    assert set(complete[:, 1]) == {2, 3}
    assert set(complete[:, 2]) == {1, 2}
    np.testing.assert_allclose(complete.mean(0), FACTORS, atol=0.04)


def test_repeats__are_shuffled_and_every_copy_has_its_own_number() -> None:
    keys = flat(plan(images=5, batch=1, steps=90, repeat_factors=FACTORS))
    for epoch in range(5):
        found = [key for key in keys if key.epoch == epoch]
        for row in range(5):
            copies = sorted(key.copy for key in found if key.row == row)
            assert copies == list(range(len(copies)))
        assert [key.row for key in found] != sorted(key.row for key in found)
    assert len(set(keys)) == len(keys)


def test_repeats__of_one_are_no_repeats() -> None:
    keys = flat(plan(repeat_factors=[1.0] * 6))
    assert [key.epoch for key in keys] == [i // 6 for i in range(24)]
    for epoch in range(4):
        assert sorted(k.row for k in keys if k.epoch == epoch) == list(range(6))


def test_plan__makes_one_order_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late start of a long run costs its own epoch's order, and nothing for an image."""
    orders, draws = [], []
    randperm, rand = torch.randperm, torch.rand
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: orders.append(a) or randperm(*a, **k))
    monkeypatch.setattr(torch, "rand", lambda *a, **k: draws.append(a) or rand(*a, **k))
    late: dict[str, Any] = {"images": 100_000, "batch": 256, "first_step": 170_000}
    once = flat(plan(**late, steps=170_010))
    assert {key.epoch for key in once} == {170_000 * 256 // 100_000}
    assert (len(orders), len(draws)) == (1, 1)
    repeated = flat(plan(**late, steps=170_010, repeat_factors=[1.0, 1.5] * 50_000))
    (epoch,) = {key.epoch for key in repeated}
    assert epoch == 170_000 * 256 // 125_000
    assert (len(orders), len(draws)) == (2, epoch + 2)


def test_repeat_factors__equal_the_equation() -> None:
    held = np.random.default_rng(0).poisson(0.02, (3000, 12)) * np.r_[[1] * 11, 0]
    held[:, 0] = 1  # in every image
    held[7, 5] = held[9, 4] = 3  # several objects in one image count once
    threshold = 0.05
    ids = range(1, 9)  # 9 to 12 are novel
    base = held[:, :8] > 0
    share = base.mean(0)
    factors = np.maximum(1, np.sqrt(threshold / share))
    expected = np.where(base, factors, 0).max(1)
    assert expected.max() > 1.3
    found = repeat_factors(annotation_set(held), ids, threshold)
    np.testing.assert_allclose(found, np.maximum(expected, 1))


def test_repeat_factors__an_image_without_base_objects_is_taken_once() -> None:
    held = np.array([[1, 0], [0, 1], [0, 0]])
    assert repeat_factors(annotation_set(held), [1], 1.0) == pytest.approx([3**0.5, 1, 1])
    assert repeat_factors(annotation_set(held, crowds=True), [1], 1.0) == [1, 1, 1]


def test_seeded_generator__depends_on_every_number() -> None:
    def first(*numbers: int) -> int:
        return int(torch.randint(1 << 60, (), generator=seeded_generator(*numbers)))

    assert first(0, 1, 2) == first(0, 1, 2)
    assert len({first(0, 1, 2), first(0, 2, 1), first(0, 1), first(0, 1, 2, 0)}) == 4
    assert seeded_generator(0, 1).initial_seed() == 7_272_873_589_274_253_248
