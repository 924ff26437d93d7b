from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_evaluation import official_coco
from pycocotools import mask as coco_mask
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.errors import DataError
from vildcli.evaluation.evaluate import evaluate
from vildcli.evaluation.run import EvaluatedRun, iter_stored_regions, read_evaluated_run
from vildcli.evaluation.truth import load_truth
from vildcli.vocabulary.category import Category, Vocabulary

WORDS = Vocabulary(
    "fruit", (Category(1, "apple"), Category(2, "pear"), Category(3, "plum", synonyms=("prune",)))
)
IMAGES = (
    DrawnImage(
        "a.png",
        (96, 64),
        (
            DrawnLabel(1, 0.9, (4.0, 6.0, 40.0, 50.0)),
            DrawnLabel(2, 0.2, (50.0, 10.0, 90.0, 60.0), is_base=False),
        ),
    ),
    DrawnImage("b.png", (96, 64), (DrawnLabel(3, 0.6, (10.0, 12.0, 50.0, 60.0)),)),
    DrawnImage("c.png", (96, 64), (DrawnLabel(1, 0.7, (0.0, 0.0, 30.0, 30.0)),)),
)
POLICY = (
    "Labels are not the publication's detections (one name a region, scores from 0.01 on, at most "
    "any number of labels an image): this is the average precision of run, not its model's; that "
    "is evaluate --model."
)


def write_truth(
    path: Path, names: tuple[str, ...], categories: dict[int, str], *rows: tuple[Any, ...]
) -> Path:
    """COCO JSON: image ids from 100 on, rows of image, category and x1 y1 x2 y2, with masks."""
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 96, "height": 64}
            for i, name in enumerate(names, start=100)
        ],
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": category,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                "iscrowd": 0,
            }
            for i, (image, category, (x1, y1, x2, y2)) in enumerate(rows, start=1)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def read(
    tmp_path: Path, truth: Path, drawn: Any = IMAGES, *, build: Any = None, **options: Any
) -> EvaluatedRun:
    build = {"vocabulary": WORDS, **(build or {})}
    run = build_run(tmp_path / "run", tmp_path / "photos", drawn, **build)
    return read_evaluated_run(run, load_truth(truth, "coco"), **options)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """The same images and names under other ids."""
    return write_truth(
        tmp_path / "truth.json",
        ("val/c.png", "val/a.png", "val/b.png"),
        {7: "prune", 8: "apple", 9: "pear"},
        (101, 8, (4, 6, 40, 50)),
        (101, 9, (50, 10, 90, 60)),
        (102, 7, (12, 12, 50, 60)),
        (100, 8, (60, 30, 96, 64)),
    )


def test_read_evaluated_run__in_the_truths_ids(tmp_path: Path, truth: Path) -> None:
    found = read(tmp_path, truth)
    rows = found.predictions
    assert rows.image_ids.tolist() == [101, 101, 102, 100]
    assert rows.category_ids.tolist() == [8, 9, 7, 8]
    assert rows.boxes.tolist() == [
        [4, 6, 36, 44],
        [50, 10, 40, 50],
        [10, 12, 40, 48],
        [0, 0, 30, 30],
    ]
    assert rows.scores == pytest.approx([0.9, 0.2, 0.6, 0.7])
    assert found.is_base == {8: True, 9: False, 7: True}
    assert found.notes == (POLICY,)


def test_a_run__has_the_numbers_that_pycocotools_gives_its_labels(
    tmp_path: Path, truth: Path
) -> None:
    found = read(tmp_path, truth)
    results, warnings = evaluate(found.truth, found.predictions)
    assert warnings == ()
    assert [result.iou_type for result in results] == ["bbox", "segm"]
    content = json.loads(truth.read_text())
    rows = found.predictions
    assert rows.masks is not None
    table = [
        {"image_id": i, "category_id": c, "bbox": b, "score": s, "segmentation": m}
        for i, c, b, s, m in zip(
            rows.image_ids.tolist(),
            rows.category_ids.tolist(),
            rows.boxes.tolist(),
            rows.scores.tolist(),
            rows.masks,
            strict=True,
        )
    ]
    for result in results:
        official = official_coco(content, table, result.iou_type)
        assert list(result.metrics.values()) == pytest.approx(official.stats.tolist(), abs=1e-9)
    assert results[0].metrics["AP50"] == pytest.approx((0.5 + 1 + 1) / 3, abs=0.01)
    # The builder's masks are ellipses of 0.85 of the area that fits.
    assert coco_mask.area(rows.masks[0]) == pytest.approx(0.85 * 36 * 44 * np.pi / 4, rel=0.02)


def test_read_evaluated_run__counts_what_is_left_out(tmp_path: Path) -> None:
    truth = write_truth(
        tmp_path / "truth.json",
        ("a.png", "b.png", "x.png"),
        {8: "apple", 9: "pear", 10: "fig", 11: "kiwi"},
        (100, 8, (4, 6, 40, 50)),
        (102, 8, (4, 6, 40, 50)),
        (100, 10, (4, 6, 40, 50)),
    )
    found = read(tmp_path, truth)
    assert found.notes == (
        "1 of 3 images of the run have no truth and are left out.",
        "1 of 3 images of the truth are not in the run and are left out.",
        "1 of 3 names of the run are not in the truth; their labels are left out: plum.",
        "2 of 4 categories of the truth were not looked for by the run and are left out: fig, "
        "kiwi.",
        POLICY,
    )
    assert len(found.predictions) == 2
    assert [row["id"] for row in found.truth.content["categories"]] == [8, 9]
    assert [row["image_id"] for row in found.truth.content["annotations"]] == [100]
    results, _ = evaluate(found.truth, found.predictions)
    assert results[0].metrics["AP"] == pytest.approx(1)


def test_read_evaluated_run__of_unfinished_runs_and_failed_images(
    tmp_path: Path, truth: Path
) -> None:
    images = (*IMAGES[:2], DrawnImage("c.png", None), DrawnImage("d.png"), DrawnImage("e.png"))
    found = read(tmp_path, truth, images, build={"finished": 2})
    assert found.notes[:3] == (
        f"{tmp_path / 'run'} is not complete: 2 of 3 units are done.",
        "1 of 4 images of the run have no truth and are left out.",
        "1 failed images count as images without labels.",
    )
    results, _ = evaluate(found.truth, found.predictions)
    assert results[0].categories[8].recall50 == pytest.approx(0.5)  # that on the failed image


def test_read_evaluated_run__with_a_threshold_says_so(tmp_path: Path, truth: Path) -> None:
    found = read(tmp_path, truth, conf=0.5)
    assert found.predictions.category_ids.tolist() == [8, 7, 8]
    assert "scores from 0.5 on" in found.notes[-1]


def test_read_evaluated_run__by_hash_where_names_differ(tmp_path: Path) -> None:
    folder = tmp_path / "annotated"
    folder.mkdir()
    (folder / "renamed.png").write_bytes(b"the bytes of a")
    digest = hashlib.sha256(b"the bytes of a").hexdigest()
    truth = write_truth(
        tmp_path / "truth.json", ("renamed.png",), {8: "apple"}, (100, 8, (4, 6, 40, 50))
    )
    images = (DrawnImage("a.png", (96, 64), IMAGES[0].labels, sha256=digest), IMAGES[1])
    found = read(tmp_path, truth, images, images=folder)
    assert found.image_ids == {1: 100}
    with pytest.raises(DataError) as caught:
        read_evaluated_run(tmp_path / "run", load_truth(truth))
    assert str(caught.value) == f"None of the 2 images of {tmp_path / 'run'} is in {truth}."
    assert caught.value.hint == (
        "Images match by relative path, by file name or, with --images DIR, by the hash of the "
        "file."
    )


def test_read_evaluated_run__refuses_names_that_nobody_annotated(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "t.json", ("a.png",), {1: "fig"}, (100, 1, (1, 1, 9, 9)))
    with pytest.raises(DataError) as caught:
        read(tmp_path, truth)
    assert str(caught.value) == f"None of the 3 names of {tmp_path / 'run'} is in {truth}."


def test_read_evaluated_run__refuses_scaled_copies(tmp_path: Path, truth: Path) -> None:
    images = (DrawnImage("a.png", (48, 32), ()), *IMAGES[1:])
    with pytest.raises(DataError) as caught:
        read(tmp_path, truth, images)
    assert str(caught.value) == f"a.png is 48 x 32 pixels in the run, and 96 x 64 in {truth}."


def test_an_empty_run__is_zero_and_not_an_error(tmp_path: Path, truth: Path) -> None:
    found = read(tmp_path, truth, [DrawnImage(image.name, image.size) for image in IMAGES])
    assert len(found.predictions) == 0
    results, warnings = evaluate(found.truth, found.predictions)
    assert [result.metrics["AP"] for result in results] == [0, 0]
    assert warnings == ("There is not one prediction: every number is 0.",)


def test_provenance__of_the_run_or_of_its_proposals(tmp_path: Path, truth: Path) -> None:
    arguments = {"arguments": {"provenance": {"init": "coco"}}}
    assert read(tmp_path, truth, build=arguments).provenance == {"init": "coco"}
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    del header["arguments"]["provenance"]
    header["settings"]["proposals"] = "torchvision maskrcnn.pth"
    (tmp_path / "run" / "run.json").write_text(json.dumps(header))
    found = read_evaluated_run(tmp_path / "run", load_truth(truth))
    assert found.provenance == {"proposals": "torchvision maskrcnn.pth"}


def test_iter_stored_regions__of_images_with_truth(tmp_path: Path) -> None:
    truth = write_truth(
        tmp_path / "t.json", ("a.png", "b.png"), {8: "apple"}, (100, 8, (4, 6, 40, 50))
    )
    regions = list(iter_stored_regions(read(tmp_path, truth)))
    assert [r.image_id for r in regions] == [100, 101]
    assert regions[0].boxes.tolist() == [[4, 6, 40, 50], [50, 10, 90, 60]]
    assert regions[0].proposals.tolist() == regions[0].boxes.tolist()
    assert regions[0].objectness.tolist() == [0.75, 0.75]
