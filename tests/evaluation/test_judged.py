from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from official_evaluation import (
    SIDE,
    Content,
    Results,
    official_coco,
    official_lvis,
    random_case,
)
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.evaluation.agreement import Agreement, group_agreements
from vildcli.evaluation.judged import (
    JudgedLabels,
    agreements_of_run,
    frequency_groups,
    judge_labels,
)
from vildcli.evaluation.run import match_run
from vildcli.evaluation.truth import load_truth
from vildcli.vocabulary.category import Category, Vocabulary

WORDS = Vocabulary(
    "fruit", (Category(1, "apple"), Category(2, "pear", threshold=0.6), Category(3, "plum"))
)
BOX, FAR = (10.0, 10.0, 30.0, 30.0), (50.0, 10.0, 80.0, 40.0)
HALF = (10.0, 10.0, 30.0, 20.0)  # IoU 0.5 with BOX
LESS = (10.0, 10.0, 30.0, 19.0)


def row(image: int, category: int, box: tuple[float, ...], **more: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    area = (x2 - x1) * (y2 - y1)
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": image, "category_id": category, "bbox": bbox, "area": area, **more}


def judge(
    tmp_path: Path,
    labels: list[tuple[int, float, tuple[float, ...]]],
    rows: list[dict[str, Any]],
    *,
    lists: dict[str, list[int]] | None = None,
    names: dict[int, str] | None = None,
    frequency: str | None = None,
) -> tuple[JudgedLabels, tuple[Agreement, ...], dict[int, str]]:
    """One image; the truth's ids are ten times the run's."""
    drawn = [DrawnImage("a.png", (96, 64), [DrawnLabel(*label) for label in labels])]
    run = build_run(tmp_path / "run", tmp_path / "photos", drawn, vocabulary=WORDS)
    image = {"id": 7, "file_name": "a.png", "width": 96, "height": 64, **(lists or {})}
    names = names or {10: "apple", 20: "pear", 30: "plum"}
    extra = {} if frequency is None else {"frequency": frequency}
    content = {
        "images": [image],
        "categories": [{"id": i, "name": name, **extra} for i, name in names.items()],
        "annotations": [
            {"id": i, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9]], **r}
            for i, r in enumerate(rows, start=1)
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    matched = match_run(run, load_truth(path))
    return judge_labels(matched), agreements_of_run(matched), frequency_groups(matched)


def verdicts(judged: JudgedLabels) -> list[tuple[int, float, bool]]:
    columns = (judged.terms.tolist(), judged.scores.round(3).tolist(), judged.right.tolist())
    return sorted(zip(*columns, strict=True), key=lambda found: (found[0], -found[1]))


def test_judge_labels__the_surest_takes_the_object(tmp_path: Path) -> None:
    labels = [(1, 0.4, BOX), (1, 0.9, HALF), (1, 0.8, LESS), (2, 0.7, BOX), (1, 0.3, FAR)]
    judged, _, _ = judge(tmp_path, labels, [row(7, 10, BOX), row(7, 10, FAR)])
    assert verdicts(judged) == [
        (1, 0.9, True),
        (1, 0.8, False),  # IoU below a half
        (1, 0.4, False),  # taken
        (1, 0.3, True),
        (2, 0.7, False),  # the other name
    ]
    assert judged.object_terms.tolist() == [1, 1]
    assert judged.images.tolist() == [1] * 5
    assert judged.unjudged == 0


def test_judge_labels__a_sure_label_takes_the_object_it_overlaps_most(tmp_path: Path) -> None:
    near = (12.0, 10.0, 32.0, 30.0)
    judged, _, _ = judge(
        tmp_path, [(1, 0.9, near), (1, 0.8, BOX)], [row(7, 10, BOX), row(7, 10, near)]
    )
    assert judged.right.tolist() == [True, True]


def test_judge_labels__crowds_and_difficult_objects_judge_nobody(tmp_path: Path) -> None:
    crowd = row(7, 10, (0.0, 0.0, 96.0, 64.0), iscrowd=1)
    difficult = row(7, 20, BOX, ignore=1)
    labels = [(1, 0.9, BOX), (2, 0.8, HALF), (2, 0.7, FAR)]
    judged, _, _ = judge(tmp_path, labels, [crowd, difficult])
    assert verdicts(judged) == [(2, 0.7, False)]
    assert judged.unjudged == 2
    assert len(judged.object_terms) == 0


def test_judge_labels__an_object_comes_before_the_crowd_around_it(tmp_path: Path) -> None:
    crowd = row(7, 10, (0.0, 0.0, 96.0, 64.0), iscrowd=1)
    judged, _, _ = judge(tmp_path, [(1, 0.9, BOX)], [crowd, row(7, 10, BOX)])
    assert verdicts(judged) == [(1, 0.9, True)]


def test_judge_labels__a_federated_truth_knows_what_it_checked(tmp_path: Path) -> None:
    labels = [
        (1, 0.9, BOX),  # annotated
        (1, 0.8, FAR),  # surplus, and not all apples are annotated
        (2, 0.7, BOX),  # known to be absent
        (3, 0.6, BOX),  # never checked
    ]
    lists = {"neg_category_ids": [20], "not_exhaustive_category_ids": [10]}
    judged, _, groups = judge(tmp_path, labels, [row(7, 10, BOX)], lists=lists, frequency="c")
    assert verdicts(judged) == [(1, 0.9, True), (2, 0.7, False)]
    assert judged.unjudged == 2
    assert groups == {1: "common", 2: "common", 3: "common"}


def test_judge_labels__without_lists_everything_was_checked(tmp_path: Path) -> None:
    judged, _, groups = judge(tmp_path, [(3, 0.6, BOX)], [row(7, 10, BOX)])
    assert verdicts(judged) == [(3, 0.6, False)]
    assert groups == {1: "rare", 2: "rare", 3: "rare"}  # one image


def test_judge_labels__no_label_at_all(tmp_path: Path) -> None:
    judged, rows, _ = judge(tmp_path, [], [row(7, 10, BOX)])
    assert (len(judged.scores), len(judged.object_terms)) == (0, 1)
    assert (rows[0].precision, rows[0].recall, rows[0].f1) == (-1, 0, 0)
    assert (rows[1].precision, rows[1].recall, rows[1].f1) == (-1, -1, -1)


def test_judge_labels__names_that_are_not_in_the_truth_are_left_out(tmp_path: Path) -> None:
    judged, rows, _ = judge(
        tmp_path, [(1, 0.9, BOX), (3, 0.8, BOX)], [row(7, 10, BOX)], names={10: "apple"}
    )
    assert verdicts(judged) == [(1, 0.9, True)]
    assert [r.name for r in rows] == ["apple"]


def judge_case(tmp_path: Path, content: Content, results: Results, protocol: str) -> JudgedLabels:
    words = Vocabulary("c", tuple(Category(c["id"], c["name"]) for c in content["categories"]))
    drawn = []
    for image in content["images"]:
        rows = [row for row in results if row["image_id"] == image["id"]]
        labels = [
            DrawnLabel(row["category_id"], row["score"], (x, y, x + w, y + h))
            for row in rows
            for x, y, w, h in [row["bbox"]]
        ]
        drawn.append(DrawnImage(image["file_name"], (SIDE, SIDE), labels))
    run = build_run(tmp_path / "run", tmp_path / "photos", drawn, vocabulary=words)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return judge_labels(match_run(run, load_truth(path, protocol)))


def counted(judged: JudgedLabels) -> Counter[tuple[int, int, float, bool]]:
    """Images of the run are numbered as the truth's are."""
    columns = (judged.images, judged.terms, judged.scores, judged.right)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return Counter((image, term, round(score, 3), right) for image, term, score, right in rows)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lvis calls logger.warn
@pytest.mark.parametrize("seed", range(3))
def test_judge_labels__as_lvis_does(tmp_path: Path, seed: int) -> None:
    content, results = random_case(seed, 30)
    judged = judge_case(tmp_path, content, results, "lvis")
    official = official_lvis(content, results, "bbox")
    expected: Counter[tuple[int, int, float, bool]] = Counter()
    for row in official.eval_imgs:
        if row is None or list(row["area_rng"]) != list(official.params.area_rng[0]):
            continue
        at_half = zip(row["dt_scores"], row["dt_matches"][0], row["dt_ignore"][0], strict=True)
        for score, match, is_ignored in at_half:
            if not is_ignored:
                place = row["image_id"], row["category_id"]
                expected[(*place, round(float(score), 3), bool(match))] += 1
    assert len({right for *_, right in expected}) == 2
    assert counted(judged) == expected


@pytest.mark.parametrize("seed", range(3))
def test_judge_labels__as_pycocotools_does(tmp_path: Path, seed: int) -> None:
    """Every third annotation is a crowd."""
    content, results = random_case(seed, 30)
    for row in content["annotations"][::3]:
        row["iscrowd"] = 1
    judged = judge_case(tmp_path, content, results, "coco")
    official = official_coco(content, results, "bbox")
    expected: Counter[tuple[int, int, float, bool]] = Counter()
    for row in official.evalImgs:
        if row is None or row["aRng"] != official.params.areaRng[0]:
            continue
        at_half = zip(row["dtScores"], row["dtMatches"][0], row["dtIgnore"][0], strict=True)
        for score, match, is_ignored in at_half:
            if not is_ignored:
                place = row["image_id"], row["category_id"]
                expected[(*place, round(float(score), 3), bool(match))] += 1
    assert judged.unjudged > 0
    assert counted(judged) == expected
    assert len(judged.object_terms) == sum(not row["iscrowd"] for row in content["annotations"])


def test_agreements__count_what_reaches_the_threshold_of_its_term(tmp_path: Path) -> None:
    labels = [
        (1, 0.9, BOX),
        (1, 0.35, FAR),  # wrong, and above 0.3
        (1, 0.2, FAR),
        (2, 0.59, FAR),  # right, and below the pear's own 0.6
    ]
    truth = [row(7, 10, BOX), row(7, 10, (60.0, 40.0, 90.0, 60.0)), row(7, 20, FAR)]
    _, rows, _ = judge(tmp_path, labels, truth)
    apple, pear, plum = rows
    assert (apple.threshold, apple.objects, apple.shown, apple.right) == (0.3, 2, 2, 1)
    assert (apple.precision, apple.recall, apple.f1) == (0.5, 0.5, 0.5)
    assert (pear.threshold, pear.objects, pear.shown, pear.recall) == (0.6, 1, 0, 0)
    assert plum.objects == 0
    rare, every = group_agreements(rows)
    assert (rare.name, rare.objects, rare.shown, rare.right) == ("rare", 3, 2, 1)
    assert every.recall == pytest.approx(1 / 3)
    assert every.f1 == pytest.approx(2 / 5)


def test_frequency_groups__by_images_where_the_truth_does_not_say(tmp_path: Path) -> None:
    count = 101
    drawn = [DrawnImage(f"{i}.png", (8, 8)) for i in range(count)]
    run = build_run(tmp_path / "run", tmp_path / "photos", drawn, vocabulary=WORDS)
    box = (1.0, 1.0, 5.0, 5.0)
    rows = [row(i, 10, box) for i in range(count)]
    rows += [row(i, 20, box) for i in range(11)] + [row(0, 20, box)] * 200
    rows += [row(i, 30, box) for i in range(10)] * 20
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 8, "height": 8} for i in range(count)
        ],
        "categories": [{"id": 10 * c.id, "name": c.name} for c in WORDS.categories],
        "annotations": [{"id": i, **r} for i, r in enumerate(rows)],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    groups = frequency_groups(match_run(run, load_truth(path)))
    assert groups == {1: "frequent", 2: "common", 3: "rare"}
