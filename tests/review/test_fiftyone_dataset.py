from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from run_builder import IMAGES, VOCABULARY, DrawnImage, DrawnLabel, build_run

from vildcli.cli import run as vildcli
from vildcli.errors import DataError, VildError
from vildcli.labelling.masks import paste_mask
from vildcli.labelling.thresholds import view_run
from vildcli.review.fiftyone_dataset import dataset_name, write_dataset

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, fiftyone):
    folder = build_run(tmp_path / "run", tmp_path / "photos")
    yield folder
    for name in fiftyone.list_datasets():
        fiftyone.delete_dataset(name)


def by_image(dataset):
    return {sample.vildcli_image: sample for sample in dataset}


def test_review__dataset_holds_the_run(run, fiftyone, capsys):
    assert vildcli(["review", str(run), "--no-launch", "--json"]) == 0
    said = capsys.readouterr()
    view = view_run(run)
    name = f"run-{view.fingerprint[:8]}"
    assert json.loads(said.out) == {
        "dataset": name,
        "samples": 4,
        "added": 4,
        "extended": 0,
        "failed": 1,
        "labels": 4,
    }
    assert said.err == f"Dataset {name}: 4 images (4 new, 1 failed), 4 labels.\n"
    dataset = fiftyone.load_dataset(name)
    assert dataset.persistent
    samples = by_image(dataset)
    for image in view.labelled_images():
        if image.image.status != "ok":
            continue
        sample, width, height = samples[image.image.image_id], image.image.width, image.image.height
        assert (sample.metadata.width, sample.metadata.height) == (width, height)
        shown = view.shown(image)
        assert len(sample.predictions.detections) == len(shown)
        for detection, label in zip(sample.predictions.detections, shown, strict=True):
            x, y, w, h = detection.bounding_box
            corners = (x * width, y * height, (x + w) * width, (y + h) * height)
            assert corners == pytest.approx(label.box)
            assert detection.label == view.categories[label.category_id].name
            assert detection.confidence == pytest.approx(label.score)
            assert detection.text_score == pytest.approx(label.text_score)
            assert detection.image_score is None
            assert detection.objectness == 0.75
            assert (detection.category_id, detection.is_base) == (label.category_id, label.is_base)
            assert detection.vildcli_label == label.label


def test_write_dataset__masks_fill_their_boxes(run, fiftyone):
    view = view_run(run)
    write_dataset(view)
    sample = by_image(fiftyone.load_dataset(dataset_name(view)))[2]
    detection = sample.predictions.detections[0]
    (label,) = next(im for im in view.labelled_images() if im.image.image_id == 2).labels
    crop, _ = paste_mask(label.mask, label.box, 96, 64)  # this box has whole pixels
    assert detection.mask.shape == (58, 40)
    assert (np.asarray(detection.mask, bool) == crop).all()


def test_write_dataset__failures_and_saved_views(run, fiftyone):
    view = view_run(run)
    write_dataset(view)
    dataset = fiftyone.load_dataset(dataset_name(view))
    (failure,) = dataset.load_saved_view("failures")
    assert failure.vildcli_image == 3
    assert failure.reason == "broken.jpg: not an image."
    assert failure.predictions is None
    novel = dataset.load_saved_view("novel-categories")
    assert novel.values("predictions.detections.label", unwind=True) == ["pear"]
    low = dataset.load_saved_view("low-confidence")
    assert low.values("predictions.detections.label", unwind=True) == ["drinking straw"]
    assert by_image(dataset)[1].predictions.detections[0].colour == "red"


def test_write_dataset__attributes_are_fields_that_clash_with_none(tmp_path, fiftyone, run):
    sets = ("colour", "text", "tags", "2nd colour", "main-colour", "main colour")
    values = tuple((name, "red", 0.5) for name in sets)
    labels = (
        DrawnLabel(1, 0.8, (4, 6, 40, 50), attributes=values),
        DrawnLabel(1, 0.7, (4, 6, 40, 50), attributes=(("colour", "green", 0.75),)),
    )
    vocabulary = replace(VOCABULARY, attributes=dict.fromkeys(sets, ("red", "green")))
    images = [DrawnImage("a.png", labels=labels)]
    painted = build_run(tmp_path / "painted", tmp_path / "photos", images, vocabulary=vocabulary)
    view = view_run(painted)
    write_dataset(view)
    first, second = by_image(fiftyone.load_dataset(dataset_name(view)))[1].predictions.detections
    assert (first.colour, first.colour_score) == ("red", 0.5)
    assert first.colour_joint == pytest.approx(0.4)
    assert (second.colour, second.colour_score) == ("green", 0.75)
    assert first.text_score == pytest.approx(0.4)  # the text side's, as everywhere
    for field in ("text", "tags", "2nd_colour", "main_colour"):
        assert first[f"attribute_{field}"] == "red", field
    assert first.main_colour == "red"
    assert first.tags == []
    schema = fiftyone.load_dataset(dataset_name(view)).get_field_schema(flat=True)
    assert {"predictions.detections.colour", "predictions.detections.colour_joint"} <= set(schema)
    assert vildcli(["review", str(painted), "--no-launch", "--where", "colour=green"]) == 0


def test_write_dataset__second_call_keeps_corrections(run, fiftyone):
    view = view_run(run)
    write_dataset(view)
    dataset = fiftyone.load_dataset(dataset_name(view))
    sample = by_image(dataset)[1]
    sample.predictions.detections[0].label = "quince"
    del sample.predictions.detections[2]
    sample.tags.append("checked")
    sample.save()

    again = write_dataset(view)

    assert (again.samples, again.added, again.extended, again.labels) == (4, 0, 0, 3)
    dataset.reload()
    sample = by_image(dataset)[1]
    assert [d.label for d in sample.predictions.detections] == ["quince", "pear"]
    assert sample.tags == ["checked"]


def test_write_dataset__lower_threshold_adds_but_nothing_deleted_returns(run, fiftyone):
    write_dataset(view_run(run))
    dataset = fiftyone.load_dataset(dataset_name(view_run(run)))
    sample = by_image(dataset)[1]
    del sample.predictions.detections[0]
    sample.save()

    again = write_dataset(view_run(run, conf=0.0))

    assert (again.added, again.extended) == (0, 1)
    dataset.reload()
    numbers = [d.vildcli_label for d in by_image(dataset)[1].predictions.detections]
    assert numbers == [1, 3, 2, 4]


def test_write_dataset__grows_with_the_run(tmp_path, fiftyone):
    run = build_run(tmp_path / "growing", tmp_path / "photos", finished=1)
    assert write_dataset(view_run(run)).samples == 2
    build_run(run, tmp_path / "photos")
    again = write_dataset(view_run(run))
    assert (again.samples, again.added) == (4, 2)


def test_write_dataset__max_samples_then_all(run, fiftyone):
    assert write_dataset(view_run(run), max_samples=1).samples == 1
    assert write_dataset(view_run(run)).samples == 4


def test_write_dataset__moved_images(run, tmp_path, fiftyone):
    view = view_run(run)
    write_dataset(view)
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(DataError) as error:
        write_dataset(view)
    assert str(error.value) == f"{tmp_path / 'photos' / 'a.png'} is not there."
    write_dataset(view, images_root=tmp_path / "moved")
    dataset = fiftyone.load_dataset(dataset_name(view))
    assert by_image(dataset)[1].filepath == str(tmp_path / "moved" / "a.png")


def test_write_dataset__another_picture_under_the_same_name(run, tmp_path, fiftyone):
    write_dataset(view_run(run))
    changed = [DrawnImage("a.png", IMAGES[0].size, IMAGES[0].labels[:1], sha256="new"), *IMAGES[1:]]
    build_run(run, tmp_path / "photos", changed)
    again = write_dataset(view_run(run))
    assert (again.samples, again.added, again.labels) == (4, 1, 2)


def test_write_dataset__name_of_another_dataset(run, fiftyone):
    fiftyone.Dataset("mine", persistent=True)
    with pytest.raises(VildError) as error:
        write_dataset(view_run(run), name="mine")
    assert str(error.value) == "The FiftyOne dataset 'mine' is not of this run."
    assert len(fiftyone.load_dataset("mine")) == 0
