from __future__ import annotations

import pytest
from run_builder import IMAGES, VOCABULARY, build_run

from vildcli.errors import DataError, RunError
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
