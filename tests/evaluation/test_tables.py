from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from official_evaluation import (
    COCO_128,
    LVIS_100,
    jittered_truth,
    needs,
    official_coco,
    official_lvis,
    random_case,
)

from vildcli.evaluation.coco import evaluate_coco
from vildcli.evaluation.engine import Engine
from vildcli.evaluation.lvis import best_of_images, evaluate_lvis
from vildcli.evaluation.predictions import predictions_of_results
from vildcli.evaluation.published import published_beside, published_numbers
from vildcli.evaluation.result import Result
from vildcli.evaluation.tables import beside_published, category_rows, summary_lines
from vildcli.evaluation.truth import load_truth
from vildcli.systems import SYSTEMS


def test_summary_lines__are_those_that_pycocotools_prints() -> None:
    content, results = random_case(1, 40)
    found = evaluate_coco(Engine(content, predictions_of_results(results)), "bbox")
    assert summary_lines(found, "coco") == official_coco(content, results, "bbox").lines
    assert len(summary_lines(found, "coco")) == 12


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lvis calls logger.warn
def test_summary_lines__are_those_that_lvis_prints() -> None:
    content, results = random_case(1, 40)
    predictions = best_of_images(predictions_of_results(results))
    found = evaluate_lvis(Engine(content, predictions), content, "segm")
    printed = io.StringIO()
    official = official_lvis(content, results, "segm")
    with contextlib.redirect_stdout(printed):
        official.print_results()
    assert summary_lines(found, "lvis") == printed.getvalue().splitlines()
    assert len(summary_lines(found, "lvis")) == 13


def test_summary_lines__of_other_rules_are_a_line_a_number() -> None:
    found = Result("Box AP", "bbox", {"AP50": 0.51234, "AP50 11-point": -1.0}, {})
    assert summary_lines(found, "voc") == [
        " AP50          = 0.512",
        " AP50 11-point = -1.000",
    ]


def test_category_rows__best_first_with_counts(tmp_path: Path) -> None:
    content, results = random_case(1, 40)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    truth = load_truth(path)
    found = evaluate_coco(Engine(content, predictions_of_results(results)), "bbox")
    rows = category_rows(truth, found)
    assert [row.id for row in rows] == sorted(
        found.categories, key=lambda i: (-found.categories[i].ap, i)
    )
    first = rows[0]
    own = [row for row in content["annotations"] if row["category_id"] == first.id]
    assert (first.objects, first.images) == (len(own), len({row["image_id"] for row in own}))
    assert first.name == f"c{first.id}"
    assert first.group == {"r": "rare", "c": "common", "f": "frequent"}["rcf"[first.id % 3]]
    assert first.ap50 == found.categories[first.id].ap50


def test_published_numbers__name_real_systems_and_metrics() -> None:
    """Every key is one of our metrics', so that a number can stand beside ours."""
    content = json.loads(needs(LVIS_100).read_text())
    nothing = predictions_of_results([])
    lvis = evaluate_lvis(Engine(content, nothing), content, "bbox").metrics
    coco_content = json.loads(needs(COCO_128 / "instances_train2017_128.json").read_text())
    coco = evaluate_coco(Engine(coco_content, nothing), "bbox").metrics
    known = {
        "lvis": {*lvis, "rare AR@100", "rare AR@300", "rare AR@1000"},
        "coco": set(coco),
        "objects365": set(coco),
        "voc": {"AP50", "AP75"},
        "coco-48-17": {"novel AP50", "base AP50", "all AP50"},
        "coco-65-15": {f"{g} {m}" for g in ("seen", "unseen") for m in ("AP50", "Recall@100")},
    }
    for row in published_numbers():
        assert row.system in {*SYSTEMS, "any"}, row
        assert row.values.keys() <= known[row.protocol], row
        assert row.measure in ("Box AP", "Mask AP", "Box AP50", "Proposal recall")
        assert all(0 <= value <= 100 for value in row.values.values())


def test_published_beside__leaves_sweeps_out_and_marks_what_is_unverified() -> None:
    rows = published_beside("lvis", "Mask AP", "vild")
    assert [row.label for row in rows] == [
        "paper, R50, w = 0.5",
        "paper, R152, w = 1.0",
        "released, R50, w = 0.5",
        "released, R152, w = 1.0",
    ]
    rows = published_beside("coco-48-17", "Box AP50", "vild-text")
    assert [row.label for row in rows] == ["paper (unverified), R50"]
    assert published_beside("lvis", "Fixed mask AP", "vild") == ()
    assert published_beside("lvis", "Mask AP", None) == ()
    assert len(published_beside("lvis", "Proposal recall", None)) == 2


def test_beside_published__in_percent_with_dashes_for_what_is_not_given() -> None:
    rows = published_beside("lvis", "Box AP", "vild")
    columns, table = beside_published({"AP": 0.2516, "APr": 0.1601, "APc": -1.0}, rows)
    assert columns == ("", "APr")
    assert table == [("this", "16.0"), ("paper, R50, w = 0.5", "16.3")]
    _, table = beside_published({"APr": -1.0}, rows)
    assert table[0] == ("this", "–")


def test_is_of_its_data_set(tmp_path: Path) -> None:
    assert load_truth(needs(COCO_128 / "instances_train2017_128.json")).is_of_its_data_set
    found = load_truth(COCO_128 / "instances_train2017_128.json", "coco-48-17")
    assert found.is_of_its_data_set
    assert not load_truth(COCO_128 / "instances_train2017_128.json", "voc").is_of_its_data_set
    assert not load_truth(needs(LVIS_100)).is_of_its_data_set  # v0.5 has 1,230 categories
    content, _ = random_case(1, 1)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    assert not load_truth(path).is_of_its_data_set


def test_jittered_truth__has_ties() -> None:
    """The parity cases say that they hold score ties."""
    content = json.loads(needs(COCO_128 / "instances_train2017_128.json").read_text())
    scores = [row["score"] for row in jittered_truth(content, np.random.default_rng(0))]
    assert len(set(scores)) < len(scores) / 10
