from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from run_builder import IMAGES, VOCABULARY, DrawnImage, DrawnLabel, build_run

from vildcli.cli import run as vildcli
from vildcli.errors import DataError, VildError
from vildcli.labelling import records
from vildcli.labelling.masks import paste_mask
from vildcli.labelling.thresholds import view_run
from vildcli.review import fiftyone_dataset
from vildcli.review.fiftyone_dataset import dataset_name, write_dataset
from vildcli.review.fiftyone_views import MANY_BOXES, save_asked_view

pytestmark = pytest.mark.slow

# The colour of run_builder's apple is in no vocabulary there.
COLOURED = replace(VOCABULARY, attributes={"colour": ("red", "green")})


@pytest.fixture
def run(tmp_path, fiftyone):
    folder = build_run(tmp_path / "run", tmp_path / "photos", vocabulary=COLOURED)
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
        "replaced": 0,
        "extended": 0,
        "failed": 1,
        "labels": 4,
        "similarity": [],
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
    offered = fiftyone.load_dataset(dataset_name(view)).label_schemas["predictions"]
    assert offered["classes"] == ["apple", "pear", "drinking straw"]
    colour = {"name": "colour", "type": "str", "component": "dropdown", "values": ["red", "green"]}
    assert colour in offered["attributes"]
    schema = fiftyone.load_dataset(dataset_name(view)).get_field_schema(flat=True)
    assert {"predictions.detections.colour", "predictions.detections.colour_joint"} <= set(schema)
    assert vildcli(["review", str(painted), "--no-launch", "--where", "colour=green"]) == 0
    dataset = fiftyone.load_dataset(dataset_name(view))
    dataset.reload()
    asked = dataset.load_saved_view("asked-for")
    assert asked.values("predictions.detections.vildcli_label") == [[1]]


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
    growing = {"photos": tmp_path / "photos", "vocabulary": COLOURED}
    run = build_run(tmp_path / "growing", finished=1, **growing)
    assert write_dataset(view_run(run)).samples == 2
    build_run(run, **growing)
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
    changed = [
        DrawnImage("a.png", IMAGES[0].size, IMAGES[0].labels[:1], sha256="1" * 64),
        *IMAGES[1:],
    ]
    build_run(run, tmp_path / "photos", changed, vocabulary=COLOURED)
    again = write_dataset(view_run(run))
    assert (again.samples, again.added, again.replaced, again.labels) == (4, 1, 1, 2)


def test_write_dataset__name_of_another_dataset(run, fiftyone):
    fiftyone.Dataset("mine", persistent=True)
    with pytest.raises(VildError) as error:
        write_dataset(view_run(run), name="mine")
    assert str(error.value) == "The FiftyOne dataset 'mine' is not of this run."
    assert len(fiftyone.load_dataset("mine")) == 0


def test_write_dataset__a_deleted_sample_does_not_return(run, fiftyone):
    write_dataset(view_run(run), max_samples=2)
    dataset = fiftyone.load_dataset(dataset_name(view_run(run)))
    dataset.delete_samples(by_image(dataset)[2].id)
    again = write_dataset(view_run(run))
    assert (again.samples, again.added) == (3, 2)
    assert write_dataset(view_run(run)).samples == 3


def test_write_dataset__killed_and_started_again(run, fiftyone, monkeypatch):
    view = view_run(run)
    images = list(view.labelled_images())

    def killed_after_the_second(*_):
        yield images[:2]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fiftyone_dataset, "batches", killed_after_the_second)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(view)
    again = write_dataset(view)
    assert (again.samples, again.added, again.labels) == (4, 2, 4)


def test_write_dataset__killed_while_it_was_made(run, fiftyone, monkeypatch):
    view = view_run(run)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fiftyone_dataset, "_offer_names", killed)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(view)
    assert write_dataset(view).samples == 4
    dataset = fiftyone.load_dataset(dataset_name(view))
    assert dataset.persistent
    assert dataset.active_label_schemas == ["predictions"]
    assert dataset.get_index_information()["vildcli_image"]["unique"]


def test_write_dataset__deleted_while_it_is_written(run, fiftyone, monkeypatch):
    view = view_run(run)
    images = list(view.labelled_images())

    def deleted_after_the_first(*_):
        yield images[:1]
        fiftyone.delete_dataset(dataset_name(view))
        yield images[1:]

    monkeypatch.setattr(fiftyone_dataset, "batches", deleted_after_the_first)
    with pytest.raises(VildError) as error:
        write_dataset(view)
    assert str(error.value) == (
        f"The FiftyOne dataset '{dataset_name(view)}' was deleted while it was written."
    )
    assert error.value.hint == "Review again to make it anew."


def test_write_dataset__database_goes_away(run, fiftyone, monkeypatch):
    from pymongo.errors import ServerSelectionTimeoutError

    def gone(*_, **__):
        raise ServerSelectionTimeoutError("127.0.0.1:9: connection refused")

    monkeypatch.setattr(fiftyone.Dataset, "add_samples", gone)
    with pytest.raises(VildError) as error:
        write_dataset(view_run(run))
    assert str(error.value) == "MongoDB stopped answering."


def test_write_dataset__views_of_crowds_duplicates_and_a_selection(tmp_path, run, fiftyone):
    crowd = [DrawnLabel(1, 0.5, (5, 5, 50, 50))] * MANY_BOXES
    images = [
        DrawnImage("a.png", labels=crowd[1:], sha256="a" * 64),
        DrawnImage("b.png", labels=crowd, sha256="b" * 64),
        DrawnImage("c.png", sha256="a" * 64),
    ]
    crowded = build_run(tmp_path / "crowded", tmp_path / "photos", images)
    (crowded / "selection.json").write_text('{"strategy": "isal", "image_ids": [3, 1]}')
    write_dataset(view_run(crowded))
    dataset = fiftyone.load_dataset(dataset_name(view_run(crowded)))
    seen = {name: dataset.load_saved_view(name) for name in dataset.list_saved_views()}
    assert seen["many-boxes"].values("path") == ["b.png"]
    assert seen["near-duplicates"].values("path") == ["a.png", "c.png"]
    assert seen["selected"].values("path") == ["c.png", "a.png"]
    (crowded / "selection.json").write_text('{"strategy": "isal", "image_ids": [2]}')
    write_dataset(view_run(crowded))
    dataset.reload()
    assert dataset.load_saved_view("selected").values("path") == ["b.png"]


def test_write_dataset__what_was_asked_for_is_a_view(run, fiftyone):
    view = view_run(run)
    write_dataset(view)
    dataset = fiftyone.load_dataset(dataset_name(view))
    sample = by_image(dataset)[2]
    drawn = fiftyone.Detection(label="pear", bounding_box=[0.1, 0.1, 0.2, 0.2])
    sample.predictions.detections.append(drawn)
    sample.save()
    assert save_asked_view(dataset.name, view, None, None) is None
    assert save_asked_view(dataset.name, view, 0.85, 2) == "asked-for"
    dataset.reload()
    shown = dataset.load_saved_view("asked-for")
    assert shown.values("predictions.detections.label") == [["apple"], ["pear"]]


@pytest.mark.parametrize("side", ["text_side", "image_side"])
def test_write_dataset__regions_can_be_sorted_by_likeness(tmp_path, run, fiftyone, side):
    kept = build_run(tmp_path / "kept", tmp_path / "photos", IMAGES[:2], vocabulary=COLOURED)
    table = records.read_part(kept, "regions", 0)
    # The embedding of a region turns with its number: neighbours in number are alike.
    angles = np.arange(len(table)) * 0.2
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float16)
    place = table.column_names.index(side)
    column = pa.array(list(rows), pa.list_(pa.float16()))
    records.write_part_table(kept, "regions", 0, table.set_column(place, side, column))
    view = view_run(kept)
    assert write_dataset(view).similarity == ("regions",)
    dataset = fiftyone.load_dataset(dataset_name(view))
    patches = dataset.to_patches("predictions")
    apple = next(p for p in patches if p.predictions.label == "apple")
    alike = patches.sort_by_similarity(apple.id, brain_key="region_similarity", k=3)
    assert [p.predictions.vildcli_label for p in alike] == [0, 1, 3]
    assert write_dataset(view_run(kept, conf=0.0)).similarity == ("regions",)
    dataset.reload()
    assert dataset.load_brain_results("region_similarity").total_index_size == 6


def test_spans():
    spans: list[list[int]] = []
    for ids in ([4, 5], [1], [9, 2], [3]):
        fiftyone_dataset._join(spans, ids)
    assert spans == [[1, 5], [9, 9]]
    assert [i for i in range(12) if fiftyone_dataset._within(spans, i)] == [1, 2, 3, 4, 5, 9]
