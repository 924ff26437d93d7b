from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vildcli.labelling.records import ImageRecord
from vildcli.selection.pool import Candidate
from vildcli.selection.strategies import (
    at_random,
    by_calibrated_entropy,
    by_entropy,
    by_margin,
    category_weights,
    entropy,
    k_center,
    margin,
)


def candidate(scores: list[float], categories: list[int] | None = None) -> Candidate:
    image = ImageRecord(1, "s", "a.jpg", 4, 4, "", 1, 1, "ok", None)
    ids = [1] * len(scores) if categories is None else categories
    return Candidate(image, np.array(scores, np.float32), np.array(ids, np.int64))


def unit(rows: list[list[float]]) -> NDArray[np.float32]:
    found = np.array(rows, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_entropy_and_margin__are_largest_at_one_half_and_alike_on_both_sides() -> None:
    scores = np.array([0.1, 0.5, 0.9], np.float32)
    h = -(0.1 * np.log2(0.1) + 0.9 * np.log2(0.9))
    np.testing.assert_allclose(entropy(scores), [h, 1, h], atol=1e-6)
    np.testing.assert_allclose(margin(scores), [0.2, 1, 0.2], atol=1e-6)
    assert (entropy(np.array([0, 1], np.float32)) < 1e-9).all()


def test_by_entropy__an_image_is_its_least_certain_box() -> None:
    images = [candidate([0.9, 0.55]), candidate([0.99]), candidate([])]
    assert list(np.argsort(-by_entropy(images))) == [0, 1, 2]
    np.testing.assert_allclose(by_margin(images), [0.9, 0.02, 0], atol=1e-6)


def test_at_random__follows_the_seed_alone() -> None:
    images = [candidate([0.5])] * 20
    assert (at_random(images, 3) == at_random(images, 3)).all()
    assert (at_random(images, 3) != at_random(images, 4)).any()


def test_category_weights__a_category_of_low_scores_weighs_more() -> None:
    weights = category_weights([candidate([0.9, 0.2], [1, 2]), candidate([0.8], [1])])
    assert weights[2] > weights[1] > 1
    steep = np.exp(1 / 0.3) - 1
    assert weights[2] == pytest.approx(1 + 0.06 * np.log(steep * 0.8 + 1))
    most = 1 + 0.06 * np.log(steep + 1)
    assert most == pytest.approx(1 + 0.2)  # PPAL's upper bound


def test_by_calibrated_entropy__adds_up_over_the_boxes() -> None:
    one, two = by_calibrated_entropy([candidate([0.5]), candidate([0.5, 0.5])])
    assert two == pytest.approx(2 * one)


def test_k_center__takes_what_is_farthest_from_all_that_is_taken() -> None:
    rows = unit([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0.02]])
    spread = k_center(rows, 3, rows[:1])
    assert set(spread.rows) <= {2, 3, 4}
    assert len({r if r != 4 else 2 for r in spread.rows[:2]}) == 2  # never the twin second
    assert spread.distances[spread.rows[0]] >= spread.distances[spread.rows[1]]
    assert spread.distances[0] == pytest.approx(0, abs=1e-6)


def test_k_center__agrees_with_the_plain_definition() -> None:
    generator = np.random.default_rng(0)
    rows = unit(generator.normal(size=(30, 4)).tolist())
    covered = unit(generator.normal(size=(300, 4)).tolist())[:3]
    taken: list[int] = []
    for _ in range(8):
        there = np.concatenate([covered, rows[taken]])
        distance = (1 - rows @ there.T).min(1)
        distance[taken] = -1
        taken.append(int(distance.argmax()))
    assert k_center(rows, 8, covered).rows == tuple(taken)


def test_k_center__takes_each_row_once_and_no_more_than_there_are() -> None:
    rows = unit([[1, 0], [1, 0], [1, 0]])
    assert sorted(k_center(rows, 9, rows[:0]).rows) == [0, 1, 2]
    assert k_center(rows[:0], 2, rows).rows == ()
