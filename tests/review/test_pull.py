"""Corrections made through FiftyOne's own API, brought back, trained on and evaluated with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from run_builder import VOCABULARY, build_run
from tiny_clip import tiny_clip, tiny_config
from tiny_detector import TINY

from vildcli import console
from vildcli.cli import run as vildcli
from vildcli.data.lvis import annotation_mask, load_annotations
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.errors import DataError, NothingToDoError, VildError, VocabularyError
from vildcli.export.checks import check_export
from vildcli.labelling.masks import object_mask
from vildcli.labelling.thresholds import view_run
from vildcli.review.fiftyone_dataset import dataset_name, write_dataset
from vildcli.review.pull import PullSummary, pull_corrections
from vildcli.text.open_clip_models import save_open_clip
from vildcli.training.inputs import TrainingOptions
from vildcli.training.session import train_system
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import save_vocabulary

pytestmark = pytest.mark.slow

COLOURED = replace(VOCABULARY, attributes={"colour": ("red", "green")})
WIDTH, HEIGHT = 96, 64  # of a.png


@pytest.fixture
def run(tmp_path: Path, fiftyone: Any) -> Any:
    folder = build_run(tmp_path / "run", tmp_path / "photos", vocabulary=COLOURED)
    write_dataset(view_run(folder))
    yield folder
    for name in fiftyone.list_datasets():
        fiftyone.delete_dataset(name)


def edit(fiftyone: Any, run: Path, image_id: int, change: Callable[[Any], None]) -> None:
    dataset = fiftyone.load_dataset(dataset_name(view_run(run)))
    sample = dataset.one(fiftyone.ViewField("vildcli_image") == image_id)
    change(sample)
    sample.save()


def relative(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1 / WIDTH, y1 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]


def correct_everything(fiftyone: Any, run: Path) -> None:
    """a.png: apple moved, pear renamed, straw deleted, a straw drawn. deep/b.jpg: fine as it is."""

    def correct(sample: Any) -> None:
        apple, pear, _ = sample.predictions.detections
        apple.bounding_box = relative(-4, 8, 32, 56)
        pear.label = "Apple"
        drawn = fiftyone.Detection(label="drinking straw", bounding_box=relative(70, 5, 90, 25))
        sample.predictions.detections = [apple, pear, drawn]

    edit(fiftyone, run, 1, correct)
    edit(fiftyone, run, 2, lambda sample: sample.tags.append("reviewed"))


def pull(run: Path, out: Path, **options: Any) -> tuple[PullSummary, dict[str, Any]]:
    summary = pull_corrections(view_run(run), out, **options)
    return summary, json.loads(out.read_text())


def test_pull__brings_every_change_back(run, tmp_path, fiftyone):
    correct_everything(fiftyone, run)
    summary, content = pull(run, tmp_path / "out.json")
    counts = {
        "images": 2, "tagged": 1, "unreviewed": 2, "foreign": 0, "labels": 4, "kept": 1, "moved": 1,
        "reshaped": 0, "relabelled": 1, "reattributed": 0, "added": 1, "deleted": 1, "approved": 0,
    }  # fmt: skip
    assert {key: getattr(summary, key) for key in counts} == counts
    rows = [(row.name, row.labels, row.right) for row in summary.categories]
    assert rows == [("apple", 2, 2), ("drinking straw", 1, 0), ("pear", 1, 0)]
    assert summary.precision == 0.5
    assert [image["file_name"] for image in content["images"]] == ["a.png", "deep/b.jpg"]
    moved, renamed, drawn, kept = content["annotations"]
    assert (moved["changes"], moved["vildcli_label"], moved["category_id"]) == (["moved"], 0, 1)
    assert moved["bbox"] == pytest.approx([0, 8, 32, 48])  # cut at the border
    assert moved["attributes"] == {"colour": "red"}
    assert (renamed["changes"], renamed["vildcli_label"]) == (["relabelled"], 1)
    assert (renamed["category_id"], renamed["bbox"]) == (1, [50.0, 10.0, 40.5, 50.25])
    assert (drawn["changes"], drawn["category_id"]) == (["added"], 90)
    assert drawn["bbox"] == pytest.approx([70, 5, 20, 20])
    assert drawn["area"] == pytest.approx(400)
    assert "vildcli_label" not in drawn
    assert (kept["changes"], kept["image_id"], kept["category_id"]) == ([], 2, 1)


def test_pull__masks_stay_or_move_with_their_box(run, tmp_path, fiftyone):
    correct_everything(fiftyone, run)
    _, content = pull(run, tmp_path / "out.json")
    moved, renamed, _, kept = (row["segmentation"] for row in content["annotations"])
    images = {image.image.image_id: image for image in view_run(run).labelled_images()}
    for segmentation, image_id, label in ((renamed, 1, 1), (kept, 2, 0)):
        image = images[image_id]
        record = image.labels[label]
        crop, (x, y) = object_mask(
            record.mask, record.mask_box, image.image.height, image.image.width
        )
        whole = np.zeros((image.image.height, image.image.width), bool)
        whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        assert (coco_mask.decode(segmentation) == whole).all()
    # An ellipse of 36 x 48 pixels about (14, 32), cut at the border.
    ellipse = coco_mask.decode(moved).astype(bool)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = ((x - 14) / 18) ** 2 + ((y - 32) / 24) ** 2 <= 0.85
    assert (ellipse & expected).sum() / (ellipse | expected).sum() > 0.9


def test_pull__lvis_says_what_nobody_looked_at(run, tmp_path, fiftyone):
    correct_everything(fiftyone, run)
    _, content = pull(run, tmp_path / "out.json")
    changed, tagged = content["images"]
    # Nobody said that a.png is finished: there may be more of what is on it; pears were taken away.
    assert changed["not_exhaustive_category_ids"] == [1, 90]
    assert changed["neg_category_ids"] == [44]
    assert tagged["not_exhaustive_category_ids"] == []
    assert tagged["neg_category_ids"] == [44, 90]
    assert check_export(tmp_path / "out.json", "lvis") == ("lvis", [])
    assert [category["id"] for category in content["categories"]] == [1, 44, 90]
    assert [category["frequency"] for category in content["categories"]] == ["f", "r", "r"]


def test_pull__coco(run, tmp_path, fiftyone, capsys):
    correct_everything(fiftyone, run)
    pull(run, tmp_path / "out.json", form="coco")
    assert check_export(tmp_path / "out.json", "coco") == ("coco", [])
    read = COCO(str(tmp_path / "out.json"))
    assert [read.loadCats(row["category_id"])[0]["name"] for row in read.loadAnns([1, 2, 3])] == [
        "apple",
        "apple",
        "drinking straw",
    ]
    annotations = load_annotations(tmp_path / "out.json")
    masks = [annotation_mask(row, HEIGHT, WIDTH) for row in annotations.annotations[1]]
    assert all(mask.any() for mask in masks)


def test_pull__tagged_only(run, tmp_path, fiftyone):
    correct_everything(fiftyone, run)
    summary, content = pull(run, tmp_path / "out.json", tagged_only=True)
    assert (summary.images, summary.tagged, summary.precision) == (1, 1, 1.0)
    assert [image["file_name"] for image in content["images"]] == ["deep/b.jpg"]


def test_pull__tags_of_labels_approve_and_reject(run, tmp_path, fiftyone):
    def judge(sample: Any) -> None:
        sample.predictions.detections[0].tags.append("approved")
        sample.predictions.detections[1].tags.append("rejected")

    edit(fiftyone, run, 1, judge)
    summary, content = pull(run, tmp_path / "out.json")
    assert (summary.approved, summary.deleted, summary.kept, summary.labels) == (1, 1, 2, 2)
    assert [row["changes"] for row in content["annotations"]] == [["approved"], []]


def test_pull__a_second_review_keeps_what_was_pulled(run, tmp_path, fiftyone):
    correct_everything(fiftyone, run)
    _, before = pull(run, tmp_path / "before.json")
    write_dataset(view_run(run))
    _, after = pull(run, tmp_path / "after.json")
    assert after == before


def test_pull__samples_of_others_are_left_out(run, tmp_path, fiftyone):
    dataset = fiftyone.load_dataset(dataset_name(view_run(run)))
    dataset.add_sample(fiftyone.Sample(filepath=str(tmp_path / "mine.png"), tags=["reviewed"]))
    edit(fiftyone, run, 4, lambda sample: sample.tags.append("approved"))
    summary, content = pull(run, tmp_path / "out.json")
    assert (summary.foreign, summary.images, summary.unreviewed) == (1, 1, 3)
    assert summary.precision is None
    assert [image["file_name"] for image in content["images"]] == ["empty.png"]
    assert content["annotations"] == []


def test_pull__a_new_name_needs_a_vocabulary(run, tmp_path, fiftyone):
    def rename(sample: Any) -> None:
        sample.predictions.detections[0].label = "quince"

    edit(fiftyone, run, 1, rename)
    out = tmp_path / "out.json"
    with pytest.raises(DataError) as error:
        pull(run, out)
    assert str(error.value) == (
        "Labels have names that the vocabulary lacks: 'quince' (1); the first is on a.png."
    )
    assert list(tmp_path.glob("*.json")) == []
    more = replace(COLOURED, categories=(*COLOURED.categories, Category(91, "quince")))
    _, content = pull(run, out, vocabulary=more)
    assert content["annotations"][0]["category_id"] == 91
    assert [row["name"] for row in content["categories"]][-1] == "quince"
    other = replace(
        COLOURED, name="other", categories=(Category(1, "quince"), Category(44, "pear"))
    )
    with pytest.raises(VocabularyError) as refused:
        pull(run, out, vocabulary=other)
    assert str(refused.value) == "Vocabulary 'other' lacks the run's category 1, 'apple'."


def test_pull__a_box_outside_its_image(run, tmp_path, fiftyone):
    def push(sample: Any) -> None:
        sample.predictions.detections[0].bounding_box = relative(100, 5, 120, 25)

    edit(fiftyone, run, 1, push)
    with pytest.raises(DataError) as error:
        pull(run, tmp_path / "out.json")
    assert str(error.value) == (
        "a.png: the box 100.0 5.0 120.0 25.0 of 'apple' covers nothing of its image of 96 x 64 "
        "pixels."
    )
    assert not (tmp_path / "out.json").exists()


def test_pull__nothing_reviewed(run, tmp_path, fiftyone):
    with pytest.raises(NothingToDoError) as error:
        pull(run, tmp_path / "out.json")
    name = dataset_name(view_run(run))
    assert str(error.value) == f"Nobody has reviewed an image of the FiftyOne dataset '{name}' yet."
    assert error.value.hint == "Tag samples 'reviewed' in the App, or correct a label."
    assert not (tmp_path / "out.json").exists()


def test_pull__dataset_is_gone(run, tmp_path, fiftyone):
    name = dataset_name(view_run(run))
    fiftyone.delete_dataset(name)
    with pytest.raises(VildError) as error:
        pull(run, tmp_path / "out.json")
    assert str(error.value) == f"There is no FiftyOne dataset '{name}'."
    assert error.value.hint == f"It was deleted, or {run} was not reviewed yet: review it first."


def test_review_pull__command(run, tmp_path, fiftyone, capsys):
    correct_everything(fiftyone, run)
    out = tmp_path / "out.json"
    assert vildcli(["review", str(run), "--pull", "--out", str(out)]) == 0
    assert capsys.readouterr().err.splitlines()[:7] == [
        "2 images are reviewed (1 tagged, 1 known by changes alone), 2 not.",
        "4 labels: 1 as the machine had them, 1 moved, 0 reshaped, 1 relabelled, 0 with other "
        "attributes, 1 added; 1 deleted.",
        "Precision on these images: 0.500 (2 of 4)",
        "category        labels  right  precision",
        "apple           2       2      1.000",
        "drinking straw  1       0      0.000",
        "pear            1       0      0.000",
    ]
    assert vildcli(["review", str(run), "--pull", "--out", str(out)]) == 1
    assert f"Error: {out} exists." in capsys.readouterr().err
    more = replace(COLOURED, categories=(*COLOURED.categories, Category(91, "quince")))
    save_vocabulary(more, tmp_path / "more.yaml")
    options = ["--to", "coco", "--vocab", str(tmp_path / "more.yaml"), "--force", "--json"]
    assert vildcli(["review", str(run), "--pull", "--out", str(out), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["images"], said["out"]) == (2, str(out))
    assert said["categories"][0] == {
        "category_id": 1, "name": "apple", "labels": 2, "right": 2, "precision": 1.0,
    }  # fmt: skip


def test_pulled_file__trains_a_step_and_evaluates(run, tmp_path, fiftyone, monkeypatch, capsys):
    correct_everything(fiftyone, run)
    out = tmp_path / "out.json"
    pull(run, out)
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(ARCHITECTURES, "small", replace(TINY, backbone="small"))
    save_open_clip(tmp_path / "clip", tiny_clip(tiny_config()), tiny_config())
    options = TrainingOptions(
        "vild-text",
        out,
        tmp_path / "photos",
        f"local-dir:{tmp_path / 'clip'}",
        base="all",
        overrides={"steps": 1, "batch": 2, "regions": 16, "proposals": 24, "warmup_steps": 1},
        offline=True,
        device="cpu",
    )
    model = train_system(options, tmp_path / "trained", force=False, progress=console.progress)
    assert model.is_file()
    (line,) = (tmp_path / "trained" / "metrics.jsonl").read_text().splitlines()
    losses = json.loads(line)
    assert losses["step"] == 0
    assert len(losses) > 2
    assert all(np.isfinite(value) for value in losses.values())
    capsys.readouterr()
    assert vildcli(["evaluate", str(run), "--truth", str(out), "--json"]) == 0
    (boxes, *_) = json.loads(capsys.readouterr().out)["results"].values()
    # One apple is where people left it, the other one was moved.
    assert 0 < boxes["AP50"] < 1
