from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from official_evaluation import annotate, truth

from vildcli.evaluation.failures import (
    NO_NAME,
    Judge,
    NamedRegions,
    Verdict,
    confusions,
    count_outcomes,
    worst_failures,
)


def regions(*rows: tuple[list[float], int, float]) -> NamedRegions:
    boxes, ids, scores = zip(*rows, strict=True)
    return NamedRegions(np.array(boxes, float), np.array(ids), np.array(scores, float))


@pytest.fixture
def content() -> Any:
    """Three objects of 20 x 20 on image 1, one on image 2."""
    found = truth(2, 4)
    for x, category in ((0, 1), (40, 2), (80, 3)):
        annotate(found, 1, category, [x, 0, 20, 20])
    annotate(found, 2, 1, [0, 0, 20, 20])
    return found


def test_judge__found_misclassified_missed(content: Any) -> None:
    judge = Judge(content)
    judge.see(
        1,
        regions(
            ([0, 0, 20, 20], 1, 0.3),
            ([0, 0, 20, 12], 4, 0.2),  # less sure: it is not asked
            ([40, 0, 60, 20], 2, 0.3),
            ([40, 0, 60, 11], 4, 0.9),  # surer, and it overlaps enough
            ([80, 0, 100, 9], 3, 0.9),  # IoU 0.45
        ),
    )
    found = judge.verdicts()
    assert [v.outcome for v in found] == ["found", "misclassified", "missed", "missed"]
    assert [v.category_id for v in found] == [1, 2, 3, 1]
    assert found[1].said == 4
    assert found[1].region == (40, 0, 60, 11)
    assert found[1].score == 0.9
    assert [v.overlap for v in found] == pytest.approx([1, 1, 0.45, 0])
    assert found[2].said is None
    assert found[2].box == (80, 0, 20, 20)


def test_judge__an_overlap_of_one_half_is_enough(content: Any) -> None:
    judge = Judge(content)
    judge.see(2, regions(([0, 0, 20, 10], 1, 0.1)))
    assert judge.verdicts()[-1].outcome == "found"


def test_judge__a_region_without_a_name_is_a_wrong_name(content: Any) -> None:
    judge = Judge(content)
    judge.see(2, regions(([0, 0, 20, 20], NO_NAME, -1.0)))
    assert judge.verdicts()[-1].outcome == "misclassified"
    judge.see(2, regions(([0, 0, 20, 20], NO_NAME, -1.0), ([0, 0, 20, 20], 1, 0.01)))
    assert judge.verdicts()[-1].outcome == "found"


def test_judge__leaves_crowds_and_difficult_objects_out(content: Any) -> None:
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["difficult"] = 1
    assert len(Judge(content).verdicts()) == 2


def verdict(category: int, said: int | None, score: float = 0.0, side: float = 10) -> Verdict:
    return Verdict(1, category, (0, 0, side, side), 0.0, said, score=score)


def test_counts_and_confusions() -> None:
    found = [verdict(1, 1), verdict(1, 2), verdict(1, 2), verdict(1, None), verdict(3, 1)]
    assert count_outcomes(found, {1}) == {"found": 1, "misclassified": 2, "missed": 1}
    assert count_outcomes(found, {1, 3}) == {"found": 1, "misclassified": 3, "missed": 1}
    assert confusions(found, {1, 3}) == {(1, 2): 2, (3, 1): 1}


def test_worst_failures__sure_wrong_names_and_large_misses_by_turns() -> None:
    sure, unsure = verdict(1, 2, 0.9), verdict(3, 2, 0.4)
    again = verdict(1, 2, 0.8)  # of a category that was shown: after the first of each other
    large, small = verdict(1, None, side=50), verdict(3, None, side=5)
    found = [small, unsure, verdict(1, 1), again, large, sure, verdict(9, None, side=99)]
    assert worst_failures(found, {1, 3}, 9) == [sure, large, unsure, small, again]
    assert worst_failures(found, {1, 3}, 2) == [sure, large]
    assert worst_failures([], {1}, 2) == []
