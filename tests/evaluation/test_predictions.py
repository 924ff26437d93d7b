from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from official_evaluation import predict, truth

from vildcli.errors import DataError
from vildcli.evaluation.predictions import (
    best_of_each,
    check_predictions,
    concatenate,
    predictions_of_results,
)


def check(*results: dict[str, Any], iou_types: Any = ("bbox", "segm")) -> tuple[str, ...]:
    return check_predictions(predictions_of_results(results), truth(2, 2), iou_types)


GOOD = predict(1, 1, [1, 1, 9, 9], 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "Prediction 1 has the score nan."),
        ({"score": float("inf")}, "Prediction 1 has the score inf."),
        ({"image_id": 7}, "Prediction 1 is for image 7, which has no truth."),
        ({"category_id": 7}, "Prediction 1 has the unknown category 7."),
        ({"bbox": [1, 1, -2, 5]}, "Prediction 1 has the bbox [1.0, 1.0, -2.0, 5.0]."),
        ({"bbox": [1, float("nan"), 2, 5]}, "Prediction 1 has the bbox [1.0, nan, 2.0, 5.0]."),
        (
            {"segmentation": {"size": [64, 128], "counts": "0"}},
            "The mask of prediction 1 is [64, 128], its image [128, 128].",
        ),
        (
            {"segmentation": {"size": [128, 64], "counts": "0"}},
            "The mask of prediction 1 is [128, 64], its image [128, 128].",
        ),
    ],
)
def test_check_predictions__refuses_what_would_make_a_number_wrong(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        check(GOOD, GOOD | change)
    assert str(caught.value) == message


def test_check_predictions__refuses_boxes_where_masks_are_compared() -> None:
    row = {key: value for key, value in GOOD.items() if key != "segmentation"}
    with pytest.raises(DataError, match=r"^Prediction 0 has no 'segmentation'\.$"):
        check(row)
    assert check(row, iou_types=("bbox",)) == ()


def test_check_predictions__counts_boxes_beyond_their_image() -> None:
    beyond = [[-5, 1, 9, 9], [120, 1, 9.5, 9]]
    rows = [GOOD, *(GOOD | {"bbox": box} for box in beyond), GOOD | {"bbox": [-0.5, 0, 128.9, 1]}]
    assert check(*rows) == ("2 of 4 predicted boxes reach beyond their image.",)
    assert check(GOOD) == ()
    assert check() == ()


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_predictions_of_results__names_a_missing_key(key: str) -> None:
    row = {k: v for k, v in GOOD.items() if k != key}
    with pytest.raises(DataError, match=rf"^Prediction 1 has no '{key}'\.$"):
        predictions_of_results([GOOD, row])


def test_predictions_of_results__refuses_masks_for_some_only() -> None:
    row = {k: v for k, v in GOOD.items() if k != "segmentation"}
    with pytest.raises(DataError, match=r"^Prediction 1 has no 'segmentation'\.$"):
        predictions_of_results([GOOD, row])
    with pytest.raises(DataError, match=r"^Prediction 0 has the bbox \[1, 2\], not four numbers"):
        predictions_of_results([GOOD | {"bbox": [1, 2]}])


def test_concatenate__keeps_order_and_masks() -> None:
    parts = [predictions_of_results([predict(i, 1, [i, 1, 9, 9], 0.5)]) for i in (3, 1)]
    empty = predictions_of_results([])
    found = concatenate([parts[0], empty, parts[1]])
    assert found.image_ids.tolist() == [3, 1]
    assert found.masks == [*(parts[0].masks or ()), *(parts[1].masks or ())]
    assert len(concatenate([])) == 0
    assert concatenate([]).masks is None


def test_best_of_each__against_a_plain_sort() -> None:
    rng = np.random.default_rng(0)
    groups, scores = rng.integers(0, 5, 200), rng.integers(0, 9, 200) / 9
    expected = np.zeros(200, bool)
    for group in range(5):
        rows = np.flatnonzero(groups == group)
        best = sorted(rows.tolist(), key=lambda row: -scores[row])[:7]  # sorted is stable
        expected[best] = True
    assert (best_of_each(groups, scores, 7) == expected).all()
    assert best_of_each(groups[:0], scores[:0], 7).tolist() == []
