from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_evaluation import COCO_128, needs, official_coco, official_lvis
from safetensors import safe_open
from tiny_evaluation import lvis_truth, save_clip, save_student
from tiny_training import rewrite
from torchvision.ops import nms

from vildcli import checkpoint
from vildcli.data.images import read_image
from vildcli.errors import DataError
from vildcli.evaluation.evaluate import evaluate, evaluate_fixed
from vildcli.evaluation.model import (
    evaluate_model,
    named_for,
    open_subject,
    predict_subject,
    propose_subject,
    scorer_of,
)
from vildcli.evaluation.predict import BestOfCategories, BestOfImages
from vildcli.evaluation.predictions import Predictions
from vildcli.evaluation.report import Report, report_on
from vildcli.evaluation.truth import load_truth
from vildcli.labelling.options import LabellingOptions
from vildcli.types import Regions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def student(folder: Path) -> Path:
    return save_student(folder / "student.safetensors", save_clip(folder / "clip"))


@pytest.fixture(scope="module")
def truth(folder: Path) -> Path:
    return lvis_truth(folder / "world")


def options(model: Path, **changes: Any) -> LabellingOptions:
    return LabellingOptions(model=str(model), offline=True, device="cpu", **changes)


def results_of(predictions: Predictions) -> list[dict[str, Any]]:
    assert predictions.masks is not None
    rows = zip(
        predictions.image_ids.tolist(),
        predictions.category_ids.tolist(),
        predictions.boxes.tolist(),
        predictions.scores.tolist(),
        predictions.masks,
        strict=True,
    )
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def reported(student: Path, truth: Path, protocol: str, **changes: Any) -> Report:
    found = load_truth(truth, protocol)
    opened, seen = open_subject(found, options(student))
    return report_on(predict_subject(found, opened, seen, truth.parent, **changes))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lvis calls logger.warn
def test_a_models_own_predictions__equal_the_official_numbers(student: Path, truth: Path) -> None:
    """What the engine is trusted with: float32 boxes and scores, pasted masks, three protocols."""
    content = json.loads(truth.read_text())
    report = reported(student, truth, "lvis")
    assert report.subject.predictions is not None
    rows = results_of(report.subject.predictions)
    assert len(rows) > 100
    for result in report.results:
        official = official_lvis(content, rows, result.iou_type)
        assert dict(result.metrics) == pytest.approx(dict(official.results), abs=1e-9)
    report = reported(student, truth, "coco")
    assert report.subject.predictions is not None
    rows = results_of(report.subject.predictions)
    for result in report.results:
        official_numbers = official_coco(content, rows, result.iou_type).stats
        assert list(result.metrics.values()) == pytest.approx(official_numbers.tolist(), abs=1e-9)


def test_predict_subject__scores_the_column_of_each_category(student: Path, truth: Path) -> None:
    """Step by step for one image: score, NMS within each category, the best 300."""
    found = load_truth(truth, "lvis")
    opened, seen = open_subject(found, options(student))
    subject = predict_subject(found, opened, seen, truth.parent)
    assert subject.predictions is not None
    pixels = torch.from_numpy(read_image(truth.parent / "0.png").pixels).permute(2, 0, 1)
    regions = opened.detector.regions([pixels])[0]
    scores = scorer_of(opened).scores(regions)
    assert scores.shape[1] == 3
    expected = []
    for column, category_id in enumerate((10, 20, 30)):
        for row in nms(regions.boxes, scores[:, column], 0.5).tolist():
            expected.append((float(scores[row, column]), category_id, regions.boxes[row].tolist()))
    expected.sort(key=lambda found: -found[0])
    rows = np.flatnonzero(subject.predictions.image_ids == 1)
    assert len(rows) == min(300, len(expected))
    assert subject.predictions.scores[rows] == pytest.approx([e[0] for e in expected[: len(rows)]])
    best = subject.predictions.take(rows[:20])
    assert best.category_ids.tolist() == [e[1] for e in expected[:20]]
    corners = best.boxes.copy()
    corners[:, 2:] += corners[:, :2]
    assert corners == pytest.approx(np.array([e[2] for e in expected[:20]]), abs=1e-4)


def test_report__of_a_model_knows_base_and_novel(student: Path, truth: Path) -> None:
    report = reported(student, truth, "lvis")
    assert report.subject.system == "vild-ensemble"
    assert report.subject.seen.is_base == {10: True, 20: True, 30: False}
    box = report.results[0]
    assert report.by_training["Box AP"] == {
        "base AP": box.mean_ap([10, 20]),
        "novel AP": box.mean_ap([30]),
        "base AP50": box.mean_ap50([10, 20]),
        "novel AP50": box.mean_ap50([30]),
    }
    assert report.zero_shot.leaks == report.zero_shot.doubts == ()
    assert sum(report.outcomes["novel"].values()) == 3
    assert sum(report.outcomes["all"].values()) == 9
    assert report.published == {}  # three categories are not LVIS


def test_a_model__on_another_data_sets_names(student: Path, truth: Path, folder: Path) -> None:
    """No training in between: the names of the file are all it needs. Ids may begin at 0."""

    def rename(content: Any) -> None:
        names = {10: (0, "dog"), 20: (1, "diningtable"), 30: (2, "apple")}
        for row in content["categories"]:
            row["id"], row["name"] = names[row["id"]]
            del row["frequency"]
        for row in content["annotations"]:
            row["category_id"] = names[row["category_id"]][0]

    other = lvis_truth(folder / "other")
    rewrite(other, rename)
    for protocol in ("voc", "coco", "objects365"):
        report = reported(student, other, protocol)
        assert report.subject.predictions is not None
        assert set(report.subject.predictions.category_ids.tolist()) == {0, 1, 2}
        assert report.subject.seen.is_base == {0: False, 1: False, 2: True}
    named = named_for(load_truth(other, "voc")).categories
    assert [(c.id, c.name, c.synset, c.synonyms) for c in named] == [
        (0, "dog", "dog.n.01", ()),
        (1, "diningtable", "dining_table.n.01", ("dining table",)),
        (2, "apple", None, ()),
    ]


def test_named_for__coco_names_stay_as_models_were_trained_on_them() -> None:
    path = needs(COCO_128 / "instances_val2017_128_boxes_derived.json")
    for protocol in ("coco", "coco-48-17"):
        person = named_for(load_truth(path, protocol)).categories[0]
        assert (person.id, person.name) == (1, "person")
        assert person.synset == "person.n.01"
        assert person.synonyms == ()


def test_a_supervised_model__counts_names_that_it_lacks_as_never_found(
    folder: Path, student: Path, truth: Path
) -> None:
    from tiny_detector import BASE, WIDTH

    from vildcli.systems import SYSTEMS

    assert "supervised" in SYSTEMS
    path = supervised(folder, BASE, WIDTH)
    found = load_truth(truth, "lvis")
    opened, seen = open_subject(found, options(path))
    assert seen.is_base == {10: True, 20: True, 30: False}
    report = report_on(predict_subject(found, opened, seen, truth.parent))
    assert report.subject.predictions is not None
    assert set(report.subject.predictions.category_ids.tolist()) == {10, 20}
    assert report.results[0].metrics["APr"] == 0
    assert report.subject.notes == (
        "The model knows 2 of the 3 categories; the others are never found.",
    )


def test_open_subject__reads_the_model_file_once(
    student: Path, truth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path, **more: Any) -> Any:
        read.append(path)
        return safe_open(path, **more)

    monkeypatch.setattr(checkpoint, "safe_open", counted)
    open_subject(load_truth(truth, "lvis"), options(student))
    assert read == [student]


def supervised(folder: Path, base: Any, width: int) -> Path:
    from tiny_detector import TINY, tiny_card

    from vildcli.checkpoint import save_model
    from vildcli.detector.detector import Detector
    from vildcli.systems import SYSTEMS

    torch.manual_seed(0)
    detector = Detector(TINY, SYSTEMS["supervised"], width, len(base))
    path = folder / "supervised.safetensors"
    save_model(path, detector, {}, tiny_card("supervised", base_categories=base))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fixed_ap__is_lvis_without_a_limit_an_image(student: Path, truth: Path) -> None:
    found = load_truth(truth, "lvis")
    opened, seen = open_subject(found, options(student))
    subject = predict_subject(found, opened, seen, truth.parent, fixed=True)
    assert subject.predictions is not None
    assert subject.fixed is not None
    assert len(subject.fixed) >= len(subject.predictions)
    report = report_on(subject)
    assert [result.title for result in report.results] == [
        "Box AP",
        "Mask AP",
        "Fixed box AP",
        "Fixed mask AP",
    ]
    content = json.loads(truth.read_text())
    for result in report.results[2:]:
        official = official_lvis(content, results_of(subject.fixed), result.iou_type, max_dets=-1)
        expected = {k: v for k, v in official.results.items() if k.startswith("AP")}
        assert dict(result.metrics) == pytest.approx(expected, abs=1e-9)


def random_regions(seed: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=generator) * 40
    boxes[:, 2:] += boxes[:, :2] + 5
    return boxes, torch.randint(1, 30, (count, 3), generator=generator) / 30  # ties


def test_best_of_categories__floors_change_nothing() -> None:
    """Skipping what cannot enter a full list gives what keeping everything would."""
    ids = torch.tensor([7, 8, 9])
    limited, everything = BestOfCategories(ids, count=5), BestOfCategories(ids, count=10**6)
    for image in range(20):
        boxes, scores = random_regions(image)
        for collection in (limited, everything):
            rows, columns = collection.choose(boxes, scores)
            collection.add(
                Predictions(
                    np.full(len(rows), image, np.int64),
                    ids[columns].numpy(),
                    boxes[rows].double().numpy(),
                    scores[rows, columns].double().numpy(),
                    None,
                )
            )
    expected = everything.all()
    assert len(limited.all()) == 15
    for id_ in ids.tolist():
        own = expected.take(expected.category_ids == id_)
        best = own.take(np.argsort(-own.scores, kind="stable")[:5])
        found = limited.all().take(limited.all().category_ids == id_)
        found = found.take(np.argsort(-found.scores, kind="stable"))
        assert found.scores.tolist() == best.scores.tolist()
        assert found.image_ids.tolist() == best.image_ids.tolist()
        assert found.boxes.tolist() == best.boxes.tolist()


def test_best_of_categories__agrees_with_the_standard_choice_where_nothing_is_cut() -> None:
    boxes, scores = random_regions(0)
    standard = BestOfImages(count=10**6).choose(boxes, scores)
    rows, columns = BestOfCategories(torch.tensor([7, 8, 9])).choose(boxes, scores)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == set(
        zip(*(found.tolist() for found in standard), strict=True)
    )


def test_evaluate_fixed__cuts_each_category_over_the_data_set(student: Path, truth: Path) -> None:
    found = load_truth(truth, "lvis")
    opened, seen = open_subject(found, options(student))
    subject = predict_subject(found, opened, seen, truth.parent, fixed=True)
    assert subject.fixed is not None
    few = evaluate_fixed(found, subject.fixed, limit=3)
    all_of_them = evaluate_fixed(found, subject.fixed)
    assert few[0].metrics["AP"] <= all_of_them[0].metrics["AP"]
    assert few[0].metrics != all_of_them[0].metrics


def test_propose_subject__recalls_the_models_own_proposals(student: Path, truth: Path) -> None:
    found = load_truth(truth, "lvis")
    opened, seen = open_subject(found, options(student, regions=50))
    report = report_on(propose_subject(found, opened, seen, truth.parent))
    assert report.results == ()
    pixels = torch.from_numpy(read_image(truth.parent / "1.png").pixels).permute(2, 0, 1)
    regions: Regions = opened.detector.regions([pixels])[0]
    proposals = report.subject.proposals
    assert proposals is not None
    own = proposals.take(proposals.image_ids == 2)
    corners = own.boxes.copy()
    corners[:, 2:] += corners[:, :2]
    assert corners == pytest.approx(regions.proposals.double().numpy(), abs=1e-9)
    assert own.scores == pytest.approx(regions.objectness.numpy())
    assert {"all AR@100", "rare AR@1000", "common AR@300"} <= report.recalls.keys()
    assert report.recalls["all AR@100"] == report.recalls["all AR@1000"]
    assert report.subject.notes == (
        f"The model gives at most {len(regions)} proposals an image: recalls beyond are the same.",
    )


def test_predict__refuses_an_image_of_another_size(
    student: Path, truth: Path, tmp_path: Path
) -> None:
    def widen(content: Any) -> None:
        content["images"][1]["width"] = 61

    other = rewrite(lvis_truth(tmp_path / "world"), widen)
    with pytest.raises(DataError) as caught:
        reported(student, other, "lvis")
    assert str(caught.value) == "1.png is 60 x 50 pixels, in the annotation file 61 x 50."


def test_evaluate_model__is_what_the_demo_asks_for(student: Path, truth: Path) -> None:
    seen = []
    found = evaluate_model(
        truth, truth.parent, str(student), regions=40, advance=lambda: seen.append(1)
    )
    assert len(seen) == 3
    assert found.lvis.iou_type == "segm"
    assert found.base_ap50 == found.lvis.mean_ap50([10, 20])
    assert found.novel_ap50 == found.lvis.mean_ap50([30])
    results, _ = evaluate(load_truth(truth), Predictions(*_nothing(), None))
    assert results[1].metrics["AP"] == 0


def _nothing() -> Any:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4)), np.empty(0)
