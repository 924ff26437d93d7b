"""The engine's error kinds against their definition in docs/evaluation.md, written once more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from official_evaluation import annotate, mean_of, official_coco, predict, random_case, truth

from vildcli.evaluation.engine import Engine, Errors
from vildcli.evaluation.predictions import predictions_of_results
from vildcli.evaluation.voc import box_overlaps

MATCH, BACKGROUND = 0.5, 0.1
LIMIT = 100


def errors_of(content: Any, results: Any) -> Errors:
    return Engine(content, predictions_of_results(results)).errors(limit=LIMIT, lvis=False)


def judged(content: Any, results: Any) -> tuple[list[str], list[int], set[int]]:
    """The kind of each result ("" is right), the object it is about, and the objects found."""
    evaluation = official_coco(content, results, "bbox", max_dets=(LIMIT,) * 3)
    found: dict[int, int] = {}
    for image in evaluation.evalImgs:
        if image is not None and image["aRng"] == evaluation.params.areaRng[0]:
            matches = image["dtMatches"][0].astype(int).tolist()
            found |= {d: m for d, m in zip(image["dtIds"], matches, strict=True) if m}
    taken = set(found.values())
    kinds, about = [], []
    for number, row in enumerate(results, start=1):
        if number in found:
            kinds.append("")
            about.append(found[number])
            continue
        kind, object_id = kind_of(row, content["annotations"], taken)
        kinds.append(kind)
        about.append(object_id)
    return kinds, about, taken


def kind_of(row: Any, objects: Any, taken: set[int]) -> tuple[str, int]:
    near = [o for o in objects if o["image_id"] == row["image_id"]]
    own = best_of(row, [o for o in near if o["category_id"] == row["category_id"]])
    other = best_of(row, [o for o in near if o["category_id"] != row["category_id"]])
    if BACKGROUND <= own[0] < MATCH:
        return "loc", own[1]
    if other[0] >= MATCH:
        return "cls", other[1]
    if own[0] >= MATCH:
        return "dupe", own[1]
    return ("bkg", 0) if other[0] < BACKGROUND else ("both", 0)


def best_of(row: Any, objects: Any) -> tuple[float, int]:
    if not objects:
        return 0.0, 0
    overlaps = box_overlaps(
        np.array([row["bbox"]], float), np.array([o["bbox"] for o in objects], float)
    )[0]
    return float(overlaps.max()), objects[int(overlaps.argmax())]["id"]


@pytest.mark.parametrize(("seed", "detections"), [(0, 12), (1, 40), (2, 3)])
def test_errors__counts_follow_the_definition(seed: int, detections: int) -> None:
    content, results = random_case(seed, detections)
    kinds, about, taken = judged(content, results)
    counts = errors_of(content, results).counts
    for kind in ("cls", "loc", "both", "dupe", "bkg"):
        assert counts[kind] == kinds.count(kind), kind
    named = {o for kind, o in zip(kinds, about, strict=True) if kind in ("cls", "loc")}
    missed = {row["id"] for row in content["annotations"]} - taken - named
    assert counts["miss"] == len(missed)


def ap50(content: Any, results: Any) -> float:
    precision = official_coco(content, results, "bbox", max_dets=(LIMIT,) * 3).eval["precision"]
    return mean_of(precision[0, :, :, 0, -1])


@pytest.mark.parametrize("kind", ["both", "dupe", "bkg"])
@pytest.mark.parametrize(("seed", "detections"), [(0, 12), (1, 40)])
def test_errors__removing_wrong_boxes_gains_what_is_said(
    kind: str, seed: int, detections: int
) -> None:
    content, results = random_case(seed, detections)
    kinds, _, _ = judged(content, results)
    kept = [row for row, found in zip(results, kinds, strict=True) if found != kind]
    gain = ap50(content, kept) - ap50(content, results)
    assert errors_of(content, results).gains[kind] == pytest.approx(gain, abs=1e-9)


def test_errors__of_each_kind_by_hand() -> None:
    """One error of each kind beside one right box; shares are parts of all gains."""
    content = truth(1, 2)
    annotate(content, 1, 1, [0, 0, 20, 20])
    annotate(content, 1, 1, [40, 0, 20, 20])
    annotate(content, 1, 2, [0, 60, 20, 20])
    annotate(content, 1, 2, [100, 100, 20, 20])
    results = [
        predict(1, 1, [0, 0, 20, 20], 0.9),  # right
        predict(1, 1, [0, 0, 20, 19], 0.8),  # dupe
        predict(1, 1, [40, 0, 20, 8], 0.7),  # loc: IoU 0.4
        predict(1, 1, [0, 60, 20, 20], 0.6),  # cls: it is a 2
        predict(1, 1, [0, 60, 20, 8], 0.5),  # both: IoU 0.4 with the 2
        predict(1, 1, [80, 40, 9, 9], 0.4),  # bkg
    ]
    found = errors_of(content, results)
    assert found.counts == {"cls": 1, "loc": 1, "both": 1, "dupe": 1, "bkg": 1, "miss": 1}
    assert found.gains["loc"] > 0
    assert found.gains["cls"] > 0
    assert sum(found.shares().values()) == pytest.approx(1)
    assert Errors({}, {"cls": 0.0}).shares() == {"cls": 0.0}


def test_errors__mending_a_place_or_a_name_makes_a_right_box() -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [0, 0, 20, 20])
    annotate(content, 1, 2, [60, 60, 20, 20])
    loc = [predict(1, 1, [0, 0, 20, 8], 0.9), predict(1, 2, [60, 60, 20, 20], 0.5)]
    assert errors_of(content, loc).gains["loc"] == pytest.approx(0.5)
    cls = [predict(1, 2, [0, 0, 20, 20], 0.4), predict(1, 2, [60, 60, 20, 20], 0.5)]
    assert errors_of(content, cls).gains["cls"] == pytest.approx(0.5)
    missing = [predict(1, 2, [60, 60, 20, 20], 0.5)]
    found = errors_of(content, missing)
    assert found.counts["miss"] == 1


def test_errors__by_lvis_rules_skip_what_nobody_annotated() -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [0, 0, 20, 20])
    results = [predict(1, 1, [0, 0, 20, 20], 0.9), predict(1, 2, [60, 60, 9, 9], 0.8)]
    engine = Engine(content, predictions_of_results(results))
    assert engine.errors(limit=300, lvis=True).counts["bkg"] == 0
    assert engine.errors(limit=300, lvis=False).counts["bkg"] == 1
