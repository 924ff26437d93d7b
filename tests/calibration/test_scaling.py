from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vildcli.calibration.scaling import (
    fit_isotonic,
    fit_temperature,
    reliability,
)

LABELS = st.lists(
    st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.booleans()), min_size=1, max_size=60
)


def columns(labels: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, right = zip(*labels, strict=True)
    return np.array(scores, np.float64), np.array(right, bool)


def test_isotonic__by_hand() -> None:
    """0.2 and 0.3 violate and are pooled at a third; equal scores are one point."""
    scores = np.array([0.1, 0.2, 0.3, 0.3, 0.8, 0.9])
    right = np.array([False, True, False, False, True, True])
    curve = fit_isotonic(scores, right)
    asked = np.array([0.0, 0.1, 0.2, 0.25, 0.3, 0.55, 0.8, 1.0])
    expected = [0, 0, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 1, 1]
    assert curve(asked) == pytest.approx(expected)


@given(LABELS)
def test_isotonic__rises_and_keeps_the_sum(labels: list[tuple[float, bool]]) -> None:
    scores, right = columns(labels)
    fitted = fit_isotonic(scores, right)(np.sort(scores))
    assert (np.diff(fitted) >= -1e-12).all()
    assert fitted.sum() == pytest.approx(right.sum())


@given(LABELS)
def test_isotonic__no_rising_line_is_nearer(labels: list[tuple[float, bool]]) -> None:
    scores, right = columns(labels)
    own = ((fit_isotonic(scores, right)(scores) - right) ** 2).sum()
    for a, b in ((0, 1), (0.3, 0.4), (0.9, 0.05), (0, 0), (right.mean(), 0)):
        assert own <= ((a + b * scores - right) ** 2).sum() + 1e-9


@pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed")
def test_isotonic__equals_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    generator = np.random.default_rng(0)
    scores = generator.integers(0, 400, 1000) / 400
    right = generator.random(1000) < scores**2
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, right)
    asked = np.linspace(-0.1, 1.1, 777)
    assert fit_isotonic(scores, right)(asked) == pytest.approx(theirs.predict(asked), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature__is_found_again(temperature: float) -> None:
    """Labels that are right as often as a scaled score says."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, 20_000)
    right = generator.random(20_000) < 1 / (1 + np.exp(-logits / temperature))
    scores = 1 / (1 + np.exp(-logits))
    found = fit_temperature(scores, right)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found(np.array([0.5])) == pytest.approx([0.5])


def test_temperature__has_the_greatest_likelihood() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random(300)
    right = generator.random(300) < scores**3
    found = fit_temperature(scores, right).temperature

    def loss(temperature: float) -> float:
        logits = np.log(scores / (1 - scores)) / temperature
        return float(np.logaddexp(0, np.where(right, -logits, logits)).sum())

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))


def test_temperature__of_labels_that_are_all_right() -> None:
    curve = fit_temperature(np.array([0.0, 0.6, 0.9, 1.0]), np.array([False, True, True, True]))
    assert curve(np.array([0.0, 0.6, 1.0])) == pytest.approx([0, 1, 1], abs=1e-6)


def test_reliability__by_hand() -> None:
    probabilities = np.array([0.0, 0.1, 0.45, 0.55, 1.0])
    right = np.array([False, True, False, True, True])
    found = reliability(probabilities, right, bins=2)
    assert found.labels.tolist() == [3, 2]
    assert found.probability == pytest.approx([0.55 / 3, 1.55 / 2])
    assert found.share == pytest.approx([1 / 3, 1])
    assert found.error == pytest.approx((3 * (1 / 3 - 0.55 / 3) + 2 * (1 - 1.55 / 2)) / 5)


def test_reliability__of_scores_that_are_right_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random(50_000)
    assert reliability(scores, generator.random(50_000) < scores).error < 0.01
    assert reliability(scores, generator.random(50_000) < scores**3).error > 0.2
