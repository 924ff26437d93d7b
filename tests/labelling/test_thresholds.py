from __future__ import annotations

from dataclasses import replace

import pytest
from run_builder import IMAGES, VOCABULARY, DrawnImage, DrawnLabel, build_run

from vildcli.errors import DataError, RunError, VocabularyError
from vildcli.labelling.thresholds import display_threshold, view_run
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary


@pytest.mark.parametrize(
    ("own", "conf", "default_conf", "expected"),
    [
        (0.5, 0.2, 0.4, 0.2),
        (0.5, 0.0, 0.4, 0.0),
        (0.5, None, 0.4, 0.5),
        (0.0, None, 0.4, 0.0),
        (None, None, 0.4, 0.4),
        (None, None, None, 0.3),
    ],
)
def test_display_threshold__order(own, conf, default_conf, expected):
    category = Category(1, "apple", threshold=own)
    assert display_threshold(category, conf=conf, default_conf=default_conf) == expected


def test_view_run__thresholds_by_category(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", arguments={"default_conf": 0.7})
    assert view_run(run).thresholds == {1: 0.7, 44: 0.5, 90: 0.7}
    assert set(view_run(run, conf=0.1).thresholds.values()) == {0.1}


def test_shown__keeps_what_reaches_its_threshold(tmp_path):
    view = view_run(build_run(tmp_path / "run", tmp_path / "photos"))
    first = next(view.labelled_images())
    assert [label.label for label in view.shown(first)] == [0, 1, 3]
    assert len(first.labels) == 5


def test_view_run__counts_units_of_the_plan(tmp_path):
    view = view_run(build_run(tmp_path / "run", tmp_path / "photos", finished=1))
    assert (view.units, view.units_total, view.is_complete) == ((0,), 2, False)
    assert view.progress_text == "1 of 2 units are done"
    assert view_run(build_run(tmp_path / "whole", tmp_path / "photos")).is_complete


def test_view_run__nothing_finished(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", finished=0)
    with pytest.raises(RunError) as error:
        view_run(run)
    assert str(error.value) == f"{run} has no finished unit yet."


def test_shown__category_missing_from_the_vocabulary(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", IMAGES)
    save_vocabulary(Vocabulary("fruit", VOCABULARY.categories[1:]), run / "vocabulary.yaml")
    view = view_run(run)
    with pytest.raises(DataError) as error:
        view.shown(next(view.labelled_images()))
    assert str(error.value) == f"{run / 'vocabulary.yaml'} lacks category 1 of the labels."


BOX = (4.0, 6.0, 40.0, 50.0)


def label(score, **attributes):
    """A label with (value, score) of each attribute set."""
    values = tuple((name, *value) for name, value in attributes.items())
    return DrawnLabel(1, score, BOX, attributes=values)


@pytest.fixture
def coloured(tmp_path):
    labels = (
        label(0.9, colour=("red", 0.3), size=("large", 0.5)),
        label(0.8, colour=("green", 0.9), size=("large", 0.9)),
        label(0.7, colour=("red", 0.8), size=("small", 0.9)),
        label(0.6, colour=("blue", 1.0), size=("small", 0.6)),
        label(0.2, colour=("red", 1.0), size=("small", 1.0)),
    )
    values = {"colour": ("red", "green", "blue"), "size": ("small", "large")}
    vocabulary = replace(VOCABULARY, attributes=values)
    images = [DrawnImage("a.png", labels=labels)]
    return build_run(tmp_path / "run", tmp_path / "photos", images, vocabulary=vocabulary)


def shown(run, **asked):
    view = view_run(run, **asked)
    return [label.label for label in view.shown(next(view.labelled_images()))]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ((), [0, 1, 2, 3]),
        (("colour=red",), [0, 2]),
        (("colour=red", " colour = blue "), [0, 2, 3]),
        (("colour=red", "size=small"), [2]),
        (("colour=green", "size=small"), []),
    ],
)
def test_where__keeps_labels_whose_best_value_it_is(coloured, where, expected):
    assert shown(coloured, where=where) == expected


def test_joint__ranks_by_the_product_and_thresholds_stay(coloured):
    # 0.9 x 0.3 x 0.5, 0.8 x 0.9 x 0.9, 0.7 x 0.8 x 0.9, 0.6 x 1 x 0.6; 0.2 is below 0.3.
    assert shown(coloured, joint=True) == [1, 2, 3, 0]
    # Only of the sets that are asked for: 0.9 x 0.3 and 0.7 x 0.8.
    assert shown(coloured, joint=True, where=["colour=red"]) == [2, 0]
    assert shown(coloured, joint=True, where=["colour=red"], conf=0.1) == [2, 0, 4]
    view = view_run(coloured, joint=True, where=["size=large"])
    first = next(view.labelled_images()).labels[0]
    assert view.rank(first) == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("where", "message", "hint"),
    [
        ("red", "'red' names no value of an attribute.", "Write for example: colour=red"),
        (
            "color=red",
            "The run's vocabulary has no attribute set 'color'.",
            "It has: colour, size.",
        ),
        (
            "colour=pink",
            "'pink' is no colour of the run's vocabulary.",
            "It has: red, green, blue.",
        ),
    ],
)
def test_where__what_the_vocabulary_lacks(coloured, where, message, hint):
    with pytest.raises(VocabularyError) as error:
        view_run(coloured, where=["size=small", where])
    assert (str(error.value), error.value.hint) == (message, hint)


@pytest.mark.parametrize("asked", [{"where": ["colour=red"]}, {"joint": True}])
def test_where__a_vocabulary_without_attributes(tmp_path, asked):
    run = build_run(tmp_path / "run", tmp_path / "photos")
    with pytest.raises(VocabularyError) as error:
        view_run(run, **asked)
    assert str(error.value) == "The run's vocabulary has no attributes."
