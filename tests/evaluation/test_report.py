from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_evaluation import COCO_128, needs, official_coco, official_lvis, predict, random_case

from vildcli.errors import DataError, ModelError
from vildcli.evaluation.evaluate import evaluate_fixed
from vildcli.evaluation.failures import Judge, NamedRegions
from vildcli.evaluation.predictions import Predictions, predictions_of_results
from vildcli.evaluation.report import (
    Report,
    Seen,
    Subject,
    judge_zero_shot,
    novel_ids,
    refuse_leaks,
    report_on,
)
from vildcli.evaluation.report_files import markdown, report_values, write_report
from vildcli.evaluation.truth import Truth, load_truth

CLEAN = Seen("a model", {"init": "scratch"}, {}, knows_all=False)


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    content, _ = random_case(1, 0)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return load_truth(path)


def subject(truth: Truth, seen: Seen = CLEAN, **changes: Any) -> Subject:
    _, results = random_case(1, 40)
    judge = Judge(truth.content)
    row = truth.content["annotations"][0]
    x, y, w, h = row["bbox"]
    named = NamedRegions(np.array([[x, y, x + w, y + h]], float), np.array([9]), np.array([0.7]))
    judge.see(row["image_id"], named)
    values = {"predictions": predictions_of_results(results), "verdicts": judge.verdicts()}
    return Subject(seen, "vild", truth, **{**values, **changes})


def test_report__of_every_part(truth: Truth) -> None:
    report = report_on(subject(truth))
    assert [result.title for result in report.results] == ["Box AP", "Mask AP"]
    objects = len(truth.content["annotations"])
    assert report.outcomes["all"] == {
        "found": 0,
        "misclassified": 1,
        "missed": objects - 1,
    }
    assert sum(report.outcomes["novel"].values()) == sum(
        row["category_id"] in truth.groups["rare"] for row in truth.content["annotations"]
    )
    assert report.errors is not None
    assert report.by_training == {}  # what the model was trained on is not known of all
    assert report.recalls == {}
    assert report.warnings == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lvis calls logger.warn
def test_report__cuts_to_300_detections_an_image_as_lvis_does(truth: Truth) -> None:
    content, results = random_case(3, 340)
    truth.path.write_text(json.dumps(content))
    report = report_on(subject(load_truth(truth.path), predictions=predictions_of_results(results)))
    for result in report.results:
        official = official_lvis(content, results, result.iou_type)
        assert dict(result.metrics) == pytest.approx(dict(official.results), abs=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fixed_ap__looks_at_all_detections_of_an_image_and_category(truth: Truth) -> None:
    """340 of one name on each image; the right ones come last."""
    content, results = random_case(3, 340)
    rows = [row | {"category_id": 1, "score": row["score"] + 1} for row in results]
    rows += [predict(o["image_id"], 1, o["bbox"], 0.5) for o in content["annotations"]]
    truth.path.write_text(json.dumps(content))
    for limit, kept in ((10_000, rows), (1900, sorted(rows, key=lambda r: -r["score"])[:1900])):
        found = evaluate_fixed(load_truth(truth.path), predictions_of_results(rows), limit=limit)
        for result in found:
            official = official_lvis(content, kept, result.iou_type, max_dets=-1)
            expected = {k: v for k, v in official.results.items() if k.startswith("AP")}
            assert dict(result.metrics) == pytest.approx(expected, abs=1e-9)


def test_report__refuses_what_would_make_a_number_wrong(truth: Truth) -> None:
    bad = predictions_of_results([predict(1, 1, [1, 1, 9, 9], float("nan"))])
    with pytest.raises(DataError, match=r"^Prediction 0 has the score nan\.$"):
        report_on(subject(truth, predictions=bad))


def test_by_training__over_what_the_model_knows(truth: Truth) -> None:
    seen = replace(CLEAN, is_base={i: i < 5 for i in range(1, 10)}, knows_all=True)
    report = report_on(subject(truth, seen))
    found = report.by_training["Mask AP"]
    assert found["novel AP50"] == report.results[1].mean_ap50(range(5, 10))
    assert found["base AP"] == report.results[1].mean_ap(range(1, 5))


def test_novel_ids__of_the_protocol_else_of_the_model_else_all(truth: Truth) -> None:
    assert novel_ids(truth, CLEAN) == truth.groups["rare"]
    coco = load_truth(truth.path, "coco")
    seen = replace(CLEAN, is_base={i: i < 5 for i in range(1, 10)}, knows_all=True)
    assert novel_ids(coco, seen) == set(range(5, 10))
    assert novel_ids(coco, replace(seen, knows_all=False)) == set(range(1, 10))
    assert novel_ids(coco, replace(seen, is_base=dict.fromkeys(range(1, 10), True))) == set(
        range(1, 10)
    )


def test_zero_shot__names_what_was_trained_on(truth: Truth) -> None:
    seen = replace(CLEAN, is_base={3: True, 1: True}, provenance={"init": "coco"})
    found = judge_zero_shot(truth, seen)
    assert len(found.leaks) == 2
    assert found.leaks[1] == "The model was trained on boxes of 1 of the 3 novel categories: c3."
    with pytest.raises(ModelError) as caught:
        refuse_leaks(truth, seen)
    assert str(caught.value) == f"a model is not zero-shot on lvis: {found.leaks[0]}"
    assert caught.value.hint == "Leave --strict out to see its numbers all the same."


def test_refuse_leaks__refuses_what_is_not_known_too(truth: Truth) -> None:
    refuse_leaks(truth, CLEAN)
    with pytest.raises(ModelError) as caught:
        refuse_leaks(truth, replace(CLEAN, provenance={}))
    assert str(caught.value) == (
        "a model is not zero-shot on lvis: Nothing says what the model has seen."
    )


def test_published__only_on_the_data_set_itself(truth: Truth) -> None:
    assert report_on(subject(truth)).published == {}
    coco = load_truth(needs(COCO_128 / "instances_train2017_128.json"), "coco-48-17")
    rows = predictions_of_results([])
    report = report_on(Subject(CLEAN, "vild", coco, predictions=rows))
    assert [row.values["novel AP50"] for row in report.published["Box AP50"]] == [27.6]


def written(report: Report, out: Path) -> dict[str, Path]:
    return {path.name: path for path in write_report(report, out)}


def test_write_report__predictions_and_truth_give_official_packages_the_same_numbers(
    truth: Truth, tmp_path: Path
) -> None:
    report = report_on(subject(load_truth(truth.path, "coco")))
    files = written(report, tmp_path / "out")
    content = json.loads(files["truth.json"].read_text())
    results = json.loads(files["predictions.json"].read_text())
    for result in report.results:
        official = official_coco(content, results, result.iou_type)
        assert list(result.metrics.values()) == pytest.approx(official.stats.tolist(), abs=1e-9)
    values = json.loads(files["report.json"].read_text())
    assert values == json.loads(json.dumps(report_values(report)))
    assert values["results"]["Box AP"]["AP"] == report.results[0].metrics["AP"]


def test_write_report__tables_for_spreadsheets(truth: Truth, tmp_path: Path) -> None:
    report = report_on(subject(truth))
    files = written(report, tmp_path / "out")
    with files["categories.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.results[0].categories)
    by_id = {int(row["id"]): row for row in rows}
    for id_, found in report.results[0].categories.items():
        assert float(by_id[id_]["AP50"]) == pytest.approx(found.ap50, abs=1e-6)
    with files["failures.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(truth.content["annotations"])
    first = rows[0]
    assert (first["outcome"], first["called"], first["score"]) == ("misclassified", "c9", "0.7000")
    assert first["file_name"] == "1.png"
    assert [row["outcome"] for row in rows[1:]] == ["missed"] * (len(rows) - 1)


def test_write_report__without_predictions_or_any_result(truth: Truth, tmp_path: Path) -> None:
    proposals = Predictions(
        np.array([1]), np.array([1]), np.array([[1.0, 1, 9, 9]]), np.array([0.5]), None
    )
    bare = subject(truth, predictions=None, verdicts=(), proposals=proposals)
    report = report_on(bare)
    assert set(written(report, tmp_path / "out")) == {"report.json", "report.md"}
    assert "| all AR@100 |" in markdown(report)


def test_markdown__says_first_what_makes_the_numbers_false(truth: Truth) -> None:
    seen = replace(CLEAN, provenance={"init": "coco"})
    text = markdown(report_on(subject(truth, seen, notes=("One image is missing.",))))
    assert text.startswith("# a model on lvis\n")
    leak = "**NOT ZERO-SHOT**: The initialisation of the model has seen boxes of COCO's"
    assert text.index(leak) < text.index("## Box AP")
    assert "- One image is missing." in text
    assert " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all" in text
    assert "| all | " in text
    assert "## What keeps box AP50 down" in text
