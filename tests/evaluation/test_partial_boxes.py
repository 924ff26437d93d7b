from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from official_evaluation import annotate, truth

from vildcli.evaluation.partial_boxes import OverlapScores


@pytest.fixture
def content() -> Any:
    found = truth(1, 3)
    annotate(found, 1, 2, [0, 0, 20, 20])
    annotate(found, 1, 3, [60, 60, 20, 20])
    return found


def test_overlap_scores__by_overlap_with_the_nearest_object(content: Any) -> None:
    collected = OverlapScores(content, {1: 0, 2: 1, 3: 2})
    boxes = np.array(
        [
            [0, 0, 20, 20],  # the object itself
            [0, 0, 10, 10],  # a quarter of it
            [0, 0, 40, 40],  # four times as much
            [60, 60, 80, 65],  # a quarter of the other one
            [100, 100, 110, 110],  # nothing
        ],
        float,
    )
    scores = np.array([[0, 0.9, 0], [0, 0.8, 0], [0, 0.3, 0], [0, 0.1, 0.6], [1, 1, 1]])
    collected.see(1, boxes, scores)
    bins = collected.bins()
    assert [found.regions for found in bins] == [0, 0, 3, 0, 0, 0, 0, 0, 0, 1]
    assert bins[9].score == pytest.approx(0.9)
    assert bins[2].score == pytest.approx((0.8 + 0.3 + 0.6) / 3)
    assert (bins[2].inside, bins[2].inside_score) == (2, pytest.approx(0.7))
    assert bins[0].score is None
    assert (bins[2].low, bins[2].high) == (0.2, 0.3)


def test_overlap_scores__adds_up_over_images_and_skips_names_without_a_column(content: Any) -> None:
    content["annotations"][0]["image_id"] = 2
    collected = OverlapScores(content, {2: 0})
    for score in (0.2, 0.4):
        collected.see(2, np.array([[0.0, 0, 20, 20]]), np.array([[score]]))
    collected.see(1, np.array([[60.0, 60, 80, 80]]), np.array([[0.9]]))  # the other's name
    collected.see(3, np.empty((0, 4)), np.empty((0, 1)))
    assert collected.bins()[9].regions == 2
    assert collected.bins()[9].score == pytest.approx(0.3)
