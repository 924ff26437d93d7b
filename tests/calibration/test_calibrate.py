from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vildcli.calibration.calibrate import (
    FEWEST,
    Calibration,
    calibrate,
    choose_thresholds,
    group_table,
    lowest_score,
)
from vildcli.errors import DataError
from vildcli.evaluation.judged import JudgedLabels

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
RIGHT = np.array([True, True, False, True, False])


def judged_labels(
    count: int, exponents: dict[int, float], seed: int = 0, images: int = 200
) -> JudgedLabels:
    """Labels of terms that are right with a probability of score ** exponent.

    Every right label has its object, and each term one more that nothing found.
    """
    generator = np.random.default_rng(seed)
    terms = np.repeat(np.array(list(exponents)), count)
    scores = generator.random(len(terms))
    powers = np.array([exponents[term] for term in terms.tolist()])
    right = generator.random(len(terms)) < scores**powers
    where = generator.integers(1, images + 1, len(terms))
    return JudgedLabels(
        terms,
        where,
        scores,
        right,
        np.concatenate([terms[right], list(exponents)]),
        np.concatenate([where[right], np.ones(len(exponents), int)]),
        0,
    )


def run_calibration(
    judged: JudgedLabels, groups: dict[int, str], target: float = 0.9, **more
) -> Calibration:
    names = {term: f"term {term}" for term in groups}
    return calibrate(judged, groups, names, dict.fromkeys(groups, 0.3), target=target, **more)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(1.0, 0.8), (0.75, 0.6), (0.7, 0.6), (0.6, 0.5), (0.5, 0.5), (0.1, 0.5)],
)
def test_lowest_score__by_hand(target: float, expected: float) -> None:
    """Precision from each score down: 1, 1, 2/3, 3/4, 3/5."""
    assert lowest_score(SCORES, RIGHT, target=target) == expected


def test_choose_thresholds__a_group_counts_as_ten_labels() -> None:
    """Term 1 by hand, at a score of which its group's labels are right in three of four cases.

    At 0.5: 18 of 20 own labels are right, (18 + 10 x 0.75) / (20 + 10) = 0.85.
    """
    scores = np.full(100, 0.5)
    terms = np.repeat([1, 2], [20, 80])
    right = np.arange(100) % 20 < np.where(terms == 1, 18, 0)
    right[20:77] = True  # 57 of 80, so that 75 of all 100 are right
    images = np.arange(100)
    judged = JudgedLabels(terms, images, scores, right, terms[right], images[right], 0)
    groups = {1: "rare", 2: "rare"}
    for target, reached in ((0.849, True), (0.851, False)):
        chosen = choose_thresholds(judged, groups, target=target, method="isotonic")
        assert chosen.reached[1] == reached
        assert chosen.values[1] == (0.5 if reached else 1)


def test_choose_thresholds__right_labels_never_make_it_worse() -> None:
    """Term 2 has only right labels; it must not be shown less than a term with no label at all."""
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.random(400), generator.uniform(0.3, 0.7, 25)])
    terms = np.repeat([1, 2], [400, 25])
    right = np.concatenate([generator.random(400) < scores[:400], np.ones(25, bool)])
    images = np.arange(425)
    judged = JudgedLabels(terms, images, scores, right, terms[right], images[right], 0)
    groups = {1: "rare", 2: "rare", 3: "rare"}
    chosen = choose_thresholds(judged, groups, target=0.9, method="isotonic")
    assert dict(chosen.sources) == {1: "own", 2: "own", 3: "rare"}
    assert chosen.values[2] < chosen.values[3]


def test_lowest_score__equal_scores_stand_or_fall_together() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5])
    right = np.array([True, True, False, False])
    assert lowest_score(scores, right, target=0.9) == 0.9
    assert lowest_score(scores, right, target=0.5) == 0.5


def test_lowest_score__is_short_and_parts_the_same_labels() -> None:
    scores = np.float32([0.71234567, 0.7123, 0.4]).astype(np.float64)
    found = lowest_score(scores, np.array([True, False, False]), target=1)
    assert found == 0.71234
    assert lowest_score(scores[:1], np.array([True]), target=1) == 0.71


def test_lowest_score__nothing_right() -> None:
    assert lowest_score(SCORES, np.zeros(5, bool), target=0.1) is None


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_calibrate__reaches_the_target_on_other_images(method: str) -> None:
    judged = judged_labels(3000, {1: 1.0, 2: 4.0})
    found = run_calibration(judged, {1: "common", 2: "frequent"}, target=0.8, method=method)
    assert found.held_out is not None
    for row in found.held_out:
        assert row.precision == pytest.approx(0.8, abs=0.05)
    # Analytically: the mean of s from t to 1 is (1 + t) / 2.
    assert found.thresholds.values[1] == pytest.approx(0.6, abs=0.06)
    assert found.thresholds.values[2] > found.thresholds.values[1]
    assert dict(found.thresholds.sources) == {1: "own", 2: "own"}
    for before, after, stored in zip(found.before, found.after, found.stored, strict=True):
        assert after.recall < before.recall <= stored.recall
        assert stored.recall == pytest.approx(1, abs=0.01)


def test_calibrate__errors_after_are_smaller_on_other_images() -> None:
    found = run_calibration(judged_labels(4000, {1: 3.0}), {1: "rare"})
    assert found.raw["all"].error == pytest.approx(0.25, abs=0.02)  # 1/2 - 1/4
    assert found.calibrated["rare"].error < 0.03


def test_calibrate__temperature_mends_scores_that_are_too_sure() -> None:
    judged = judged_labels(4000, {1: 1.0})
    sure = replace(judged, scores=judged.scores**3 / (judged.scores**3 + (1 - judged.scores) ** 3))
    found = run_calibration(sure, {1: "rare"}, method="temperature")
    assert found.raw["all"].error > 0.1
    assert found.calibrated["all"].error < 0.03


def test_calibrate__held_out_images_are_not_learned_from() -> None:
    """High scores are right on one half of the images, and wrong on the other."""
    images = np.arange(200)
    first = set(np.random.default_rng(0).permutation(images)[:100].tolist())
    scores = np.random.default_rng(1).random(200)
    right = np.array([(image in first) == (scores[image] > 0.5) for image in images.tolist()])
    judged = JudgedLabels(
        np.ones(200, int), images, scores, right, np.ones(right.sum(), int), images[right], 0
    )
    found = run_calibration(judged, {1: "rare"}, target=0.9, seed=0)
    assert found.held_out is not None
    (row,) = found.held_out
    assert row.shown > 30
    assert row.precision < 0.2
    assert found.calibrated["rare"].error > 0.4


def test_choose_thresholds__few_labels_take_the_groups() -> None:
    few = FEWEST - 1
    judged = judged_labels(2000, {1: 1.0})
    more = judged_labels(few, {2: 1.0, 3: 1.0}, seed=1)
    both = JudgedLabels(*(np.concatenate([a, b]) for a, b in zip(
        (judged.terms, judged.images, judged.scores, judged.right,
         judged.object_terms, judged.object_images),
        (more.terms, more.images, more.scores, more.right, more.object_terms, more.object_images),
        strict=True,
    )), 0)  # fmt: skip
    groups = {1: "frequent", 2: "frequent", 3: "rare", 4: "rare"}
    chosen = choose_thresholds(both, groups, target=0.8, method="isotonic")
    assert dict(chosen.sources) == {1: "own", 2: "frequent", 3: "all", 4: "all"}
    assert chosen.values[2] == pytest.approx(chosen.values[1], abs=0.05)
    assert chosen.values[3] == chosen.values[4]
    assert set(chosen.curves) == {"all", "frequent"}


def test_calibrate__says_what_is_too_few_and_what_cannot_be_reached() -> None:
    """Term 2 is never right; term 3 has no label."""
    good, bad = judged_labels(200, {1: 0.5}), judged_labels(60, {2: 1e9}, seed=2)
    judged = JudgedLabels(
        np.concatenate([good.terms, bad.terms]),
        np.concatenate([good.images, bad.images]),
        np.concatenate([good.scores, bad.scores]),
        np.concatenate([good.right, bad.right]),
        good.object_terms,
        good.object_images,
        0,
    )
    found = run_calibration(judged, {1: "common", 2: "rare", 3: "rare"}, target=0.95)
    assert [row.id for row in found.too_few] == [3]
    assert [row.id for row in found.unreachable] == [2, 3]
    assert found.thresholds.values[2] == 1
    assert found.after[1].shown == 0


def test_choose_thresholds__low_scores_do_not_speak_against_high_ones() -> None:
    """Term 2 has no label that scores as high as its group must; term 3 has, and they are wrong."""
    scores = np.concatenate([np.linspace(0.5, 1, 200), np.linspace(0.1, 0.4, 40)])
    scores = np.concatenate([scores, np.linspace(0.9, 1, 40)])
    terms = np.repeat([1, 2, 3], [200, 40, 40])
    right = (terms == 1) & (scores > 0.7)
    images = np.arange(280)
    judged = JudgedLabels(terms, images, scores, right, terms[right], images[right], 0)
    groups = {1: "common", 2: "common", 3: "rare"}
    chosen = choose_thresholds(judged, groups, target=0.9, method="isotonic")
    assert dict(chosen.sources) == {1: "own", 2: "own", 3: "own"}
    assert chosen.values[2] == pytest.approx(0.66, abs=0.03)
    assert dict(chosen.reached) == {1: True, 2: True, 3: False}
    assert chosen.values[3] == 1


def test_calibrate__too_few_for_a_check_says_so() -> None:
    judged = judged_labels(FEWEST + 2, {1: 0.2}, images=5)
    found = run_calibration(judged, {1: "rare"}, target=0.5)
    assert found.held_out is None
    columns, rows = group_table(found)
    assert dict(zip(columns, rows[-1], strict=True))["held-out precision"] == "–"


def test_calibrate__is_the_same_twice() -> None:
    judged = judged_labels(500, {1: 2.0})
    one, other = (run_calibration(judged, {1: "rare"}) for _ in range(2))
    assert (one.thresholds.values, one.held_out) == (other.thresholds.values, other.held_out)


def test_group_table__adds_up() -> None:
    judged = judged_labels(300, {1: 1.0, 2: 2.0})
    columns, rows = group_table(run_calibration(judged, {1: "rare", 2: "frequent"}))
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [row["group"] for row in table] == ["rare", "frequent", "all"]
    assert [row["labels"] for row in table] == [300, 300, 600]
    assert [row["terms"] for row in table] == [1, 1, 2]


@pytest.mark.parametrize(("count", "said"), [(0, "0 labels"), (1, "1 label"), (19, "19 labels")])
def test_calibrate__too_few_labels_in_all(count: int, said: str) -> None:
    with pytest.raises(DataError) as caught:
        run_calibration(judged_labels(count, {1: 1.0}), {1: "rare"})
    assert str(caught.value) == (f"The truth can judge {said} of the run; calibration needs 20.")
    assert caught.value.hint == "Label more of the annotated images, with a lower --floor."


def test_calibrate__nothing_right() -> None:
    with pytest.raises(DataError) as caught:
        run_calibration(judged_labels(30, {1: 1e9}), {1: "rare"})
    assert str(caught.value) == "None of the 30 labels that the truth can judge is right."
