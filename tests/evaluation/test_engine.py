from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from official_evaluation import random_case

from vildcli.evaluation import engine as engine_module
from vildcli.evaluation.engine import Curves, Engine
from vildcli.evaluation.predictions import predictions_of_results


def curves(rules: str, iou_type: Any) -> Curves:
    content, results = random_case(3, 20)
    engine = Engine(content, predictions_of_results(results))
    if rules == "lvis":
        return engine.lvis(iou_type, limit=300)
    return engine.coco(iou_type, limits=(1, 10, 100))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("rules", ["lvis", "coco"])
@pytest.mark.parametrize("at_once", [1, 60])
def test_engine__some_categories_at_a_time_give_the_same_curves(
    rules: str, iou_type: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = curves(rules, iou_type)
    handed_over: list[int] = []
    hand_over = engine_module._hand_over

    def noting(content: Any, annotations: Any, predictions: Any) -> Any:
        handed_over.append(len(predictions))
        return hand_over(content, annotations, predictions)

    monkeypatch.setattr(engine_module, "_hand_over", noting)
    monkeypatch.setattr(engine_module, "_AT_ONCE", at_once)
    parts = curves(rules, iou_type)
    assert len(handed_over) > 1
    for field in fields(Curves):
        np.testing.assert_array_equal(getattr(parts, field.name), getattr(whole, field.name))
