from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vildcli.calibration.calibrate import Calibration, calibrate
from vildcli.calibration.vocabulary import foreign_settings, with_thresholds
from vildcli.evaluation.judged import JudgedLabels
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary, save_vocabulary

WORDS = Vocabulary(
    "fruit",
    (Category(1, "apple", threshold=0.2), Category(2, "pear", threshold=0.4), Category(3, "plum")),
    attributes={"colour": ("red", "green")},
    negatives=("leaf",),
    provenance=({"step": "expand"},),
    parents=(Category(9, "fruit"),),
)
SETTINGS = {
    "system": "vild",
    "model": "abc",
    "context": "def",
    "fusion": ["shared", 0.5],
    "floor": 0.01,
    "vocabulary": "123",
    "text_bank": None,
}


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Of apples and of the parent: right from 0.5 on."""
    scores = np.tile(np.linspace(0.01, 0.99, 50), 2)
    terms, images = np.repeat([1, 9], 50), np.arange(100)
    right = scores > 0.5
    judged = JudgedLabels(terms, images, scores, right, terms[right], images[right], 0)
    groups, names = {1: "rare", 9: "rare"}, {1: "apple", 9: "fruit"}
    return calibrate(judged, groups, names, {1: 0.2, 9: 0.3}, target=0.9)


def test_with_thresholds__changes_nothing_but_them(
    calibration: Calibration, tmp_path: Path
) -> None:
    made = with_thresholds(WORDS, calibration, SETTINGS, truth="0123")
    apple, pear, plum = made.categories
    assert apple.threshold == calibration.thresholds.values[1] != 0.2
    assert (pear.threshold, plum.threshold) == (0.4, None)  # not in the truth
    assert made.parents[0].threshold == calibration.thresholds.values[9]
    assert made.fingerprint() == WORDS.fingerprint()
    assert (made.name, made.attributes, made.negatives) == (
        WORDS.name, WORDS.attributes, WORDS.negatives,
    )  # fmt: skip
    for name in ("v.yaml", "v.json"):
        save_vocabulary(made, tmp_path / name)
        read = load_vocabulary(tmp_path / name)
        assert read.as_dict() == made.as_dict()
        assert foreign_settings(read, SETTINGS) == ()


def test_with_thresholds__says_what_they_hold_for(calibration: Calibration) -> None:
    made = with_thresholds(WORDS, calibration, SETTINGS, truth="0123")
    first, step = made.provenance
    assert first == {"step": "expand"}
    assert step["step"] == "calibrate"
    assert (step["target_precision"], step["method"], step["truth"]) == (0.9, "isotonic", "0123")
    assert step["holds_for"] == {
        "system": "vild", "model": "abc", "context": "def", "fusion": ["shared", 0.5],
    }  # fmt: skip
    assert len(step["fingerprint"]) == 16
    other = with_thresholds(WORDS, calibration, {**SETTINGS, "model": "xyz"}, truth="0123")
    assert other.provenance[1]["fingerprint"] != step["fingerprint"]
    same = with_thresholds(WORDS, calibration, {**SETTINGS, "floor": 0.2}, truth="0123")
    assert same.provenance[1]["fingerprint"] == step["fingerprint"]


@pytest.mark.parametrize(
    ("changes", "foreign"),
    [
        ({"floor": 0.3, "vocabulary": "other"}, ()),
        ({"model": "xyz"}, ("model",)),
        ({"context": "none", "model": "xyz"}, ("model", "context")),
        ({"tile": [800, 0.2]}, ("tile",)),
        ({"model": None}, ("model",)),
    ],
)
def test_foreign_settings(
    calibration: Calibration, changes: dict[str, object], foreign: tuple[str, ...]
) -> None:
    made = with_thresholds(WORDS, calibration, SETTINGS, truth="0123")
    assert foreign_settings(made, {**SETTINGS, **changes}) == foreign


def test_foreign_settings__of_a_merged_run_only_what_it_knows(
    calibration: Calibration,
) -> None:
    known = {"context": "def", "fusion": ["shared", 0.5]}
    made = with_thresholds(WORDS, calibration, known, truth="0123")
    assert foreign_settings(made, SETTINGS) == ()
    assert foreign_settings(made, {**SETTINGS, "context": "none"}) == ("context",)


def test_foreign_settings__the_last_calibration_counts(calibration: Calibration) -> None:
    first = with_thresholds(WORDS, calibration, {**SETTINGS, "model": "old"}, truth="0")
    second = with_thresholds(first, calibration, SETTINGS, truth="0")
    assert foreign_settings(second, SETTINGS) == ()
    assert foreign_settings(WORDS, SETTINGS) == ()
