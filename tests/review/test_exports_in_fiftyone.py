"""What is exported, read back by FiftyOne's own importers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_run import ODD, build_odd_run, cut, name_of, select, shown

from vildcli.export.attributes import DETECTION_FIELDS
from vildcli.export.coco import export_coco
from vildcli.export.cvat import export_cvat
from vildcli.export.fiftyone import export_fiftyone
from vildcli.export.labelstudio import export_labelstudio
from vildcli.export.split import Split
from vildcli.export.voc import export_voc
from vildcli.export.yolo import export_yolo
from vildcli.labelling.thresholds import view_run
from vildcli.review.fiftyone_dataset import write_dataset

pytestmark = pytest.mark.slow
FILES = {1: "a.png", 2: "a.jpg", 4: "deep/a.png", 5: "empty.png", 6: "images/in the dark, é&ü.png"}


@pytest.fixture
def run(tmp_path, fiftyone):
    yield build_odd_run(tmp_path)
    for name in fiftyone.list_datasets():
        fiftyone.delete_dataset(name)


def expected(run):
    found = {number: [] for number in FILES}
    for image, label in shown(run):
        found[image.image_id].append((image, label))
    return found


def corners(detection, image):
    x, y, w, h = detection.bounding_box
    size = image.width, image.height
    return np.array([x, y, x + w, y + h]) * (*size, *size)


def compare(detections, labels, tolerance=1e-3):
    """Box by box; FiftyOne keeps the order."""
    assert len(detections) == len(labels)
    for detection, (image, label) in zip(detections, labels, strict=True):
        assert detection.label == name_of(label.category_id)
        assert np.abs(corners(detection, image) - cut(image, label)).max() <= tolerance


def by_file(dataset, root):
    return {sample.filepath.removeprefix(f"{root}/"): sample for sample in dataset}


@pytest.mark.parametrize("images", [None, "link", "copy"])
def test_fiftyone__own_format(run, tmp_path, fiftyone, images):
    out = tmp_path / "out"
    summary = export_fiftyone(select(run), out, images=images)
    dataset = fiftyone.Dataset.from_dir(str(out), dataset_type=fiftyone.types.FiftyOneDataset)
    assert len(dataset) == summary.images == 5
    assert dataset.default_classes == [category.name for category in ODD.categories]
    for sample in dataset:
        labels = expected(run)[sample.vildcli_image]
        detections = sample.predictions.detections
        compare(detections, labels)
        original = tmp_path / "photos" / FILES[sample.vildcli_image]
        assert original.read_bytes() == Path(sample.filepath).read_bytes()
        for detection, (image, label) in zip(detections, labels, strict=True):
            assert (sample.metadata.width, sample.metadata.height) == (image.width, image.height)
            for key, value in (
                ("confidence", label.score),
                ("text_score", label.text_score),
                ("objectness", label.objectness),
            ):
                assert np.float32(detection[key]) == np.float32(value)
            assert detection.image_score is None
            assert (detection.category_id, detection.is_base) == (label.category_id, label.is_base)
            assert detection.vildcli_label == label.label
            for a in label.attributes:
                own = "attribute_label" if a.set == "label" else a.set
                assert detection[own] == a.name
                assert np.float32(detection[f"{own}_score"]) == np.float32(a.score)
                assert np.float32(detection[f"{own}_joint"]) == np.float32(a.joint)
    assert (dataset.first().filepath.startswith(str(out))) == (images is not None)


def test_fiftyone__is_what_review_shows(run, tmp_path, fiftyone):
    export_fiftyone(select(run), tmp_path / "out")
    exported = fiftyone.Dataset.from_dir(
        str(tmp_path / "out"), dataset_type=fiftyone.types.FiftyOneDataset
    )
    name = write_dataset(view_run(run)).dataset
    reviewed = {s.vildcli_image: s for s in fiftyone.load_dataset(name)}
    fields = set(fiftyone.load_dataset(name).get_field_schema(flat=True))
    fields -= {"reason", "vildcli_labels", "duplicate_group", "selection_rank"}
    assert set(exported.get_field_schema(flat=True)) == fields
    for sample in exported:
        there = reviewed[sample.vildcli_image]
        assert (sample.filepath, sample.sha256) == (there.filepath, there.sha256)
        both = zip(sample.predictions.detections, there.predictions.detections, strict=True)
        for one, other in both:
            assert (one.mask == other.mask).all()
            values, others = one.to_dict(), other.to_dict()
            for key in set(values) - {"_id", "mask"}:
                assert values[key] == pytest.approx(others[key]), key


def test_fiftyone__parts_are_tags_and_boxes_have_no_mask(run, tmp_path, fiftyone):
    split = Split((("train", 0.2), ("val", 0.8)))
    selection = select(run, split=split, max_per_image=1)
    export_fiftyone(selection, tmp_path / "out", geometry="box")
    dataset = fiftyone.Dataset.from_dir(
        str(tmp_path / "out"), dataset_type=fiftyone.types.FiftyOneDataset
    )
    parts = {image.image_id: split.part_of(image) for image in selection.images()}
    assert {s.vildcli_image: s.tags for s in dataset} == {i: [p] for i, p in parts.items()}
    assert dataset.count("predictions.detections") == 4
    assert all(d.mask is None for s in dataset for d in s.predictions.detections)
    assert dataset.count("predictions.detections.mask") == 0


def test_fiftyone__no_attribute_takes_the_name_of_a_detections_own_field(fiftyone):
    known = {name for name in dir(fiftyone.Detection) if not name.startswith("_")}
    assert {name for name in known if name.islower()} <= DETECTION_FIELDS | {"get_text_score"}


def test_fiftyone__reads_coco(run, tmp_path, fiftyone):
    export_coco(select(run), tmp_path / "coco.json")
    dataset = fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.COCODetectionDataset,
        data_path=str(tmp_path / "photos"),
        labels_path=str(tmp_path / "coco.json"),
        label_types=["segmentations"],
        label_field="predictions",
        include_id=True,
    )
    samples = by_file(dataset, tmp_path / "photos")
    assert set(samples) == set(FILES.values())
    for number, file in FILES.items():
        labels = expected(run)[number]
        sample = samples[file]
        found = sample["predictions_segmentations"]
        detections = found.detections if found else []
        compare(detections, labels)
        for detection, (_, label) in zip(detections, labels, strict=True):
            assert np.float32(detection.confidence) == np.float32(label.score)


def test_fiftyone__reads_yolo(run, tmp_path, fiftyone):
    out = tmp_path / "yolo"
    export_yolo(select(run), out, images="link", save_conf=True)
    dataset = fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.YOLOv5Dataset,
        yaml_path=str(out / "data.yaml"),
        split="train",
        label_field="predictions",
    )
    samples = by_file(dataset, out / "images")
    names = {
        1: "a.png",
        2: "a-2.jpg",
        4: "deep/a.png",
        5: "empty.png",
        6: "images_/in the dark, é&ü.png",
    }
    assert set(samples) == set(names.values())
    for number, file in names.items():
        detections = samples[file].predictions.detections
        labels = expected(run)[number]
        compare(detections, labels)
        for detection, (_, label) in zip(detections, labels, strict=True):
            assert np.float32(detection.confidence) == np.float32(label.score)


def test_fiftyone__reads_voc(run, tmp_path, fiftyone):
    out = tmp_path / "voc"
    export_voc(select(run), out, images="link")
    dataset = fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.VOCDetectionDataset,
        data_path=str(out / "JPEGImages"),
        labels_path=str(out / "Annotations"),
        label_field="predictions",
    )
    samples = by_file(dataset, out / "JPEGImages")
    names = {**FILES, 2: "a-2.jpg"}
    assert set(samples) == set(names.values())
    for number, file in names.items():
        detections = samples[file].predictions.detections
        labels = expected(run)[number]
        compare(detections, labels, tolerance=1.5)  # FiftyOne does not count pixels from 1
        for detection, (_, label) in zip(detections, labels, strict=True):
            assert np.float32(detection["score"]) == np.float32(label.score)
            assert detection["vildcli_label"] == label.label
            for a in label.attributes:
                own = "attribute_label" if a.set == "label" else a.set
                assert detection[own] == a.name


def test_fiftyone__reads_cvat(run, tmp_path, fiftyone):
    export_cvat(select(run), tmp_path / "cvat.xml")
    dataset = fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.CVATImageDataset,
        data_path=str(tmp_path / "photos"),
        labels_path=str(tmp_path / "cvat.xml"),
        label_field="predictions",
    )
    samples = by_file(dataset, tmp_path / "photos")
    for number, file in FILES.items():
        labels = expected(run)[number]
        found = samples[file]["predictions_detections"]
        detections = found.detections if found else []
        compare(detections, labels, tolerance=1)  # FiftyOne rounds
        for detection, (_, label) in zip(detections, labels, strict=True):
            assert np.float32(detection["score"]) == np.float32(label.score)
            for a in label.attributes:
                own = "attribute_label" if a.set == "label" else a.set
                assert detection[own] == a.name


def test_fiftyone__reads_label_studio(run, tmp_path, fiftyone):
    from fiftyone.utils.labelstudio import import_label_studio_annotation

    for geometry in ("box", "polygon"):
        export_labelstudio(select(run), tmp_path / "ls.json", geometry=geometry)
        for task in json.loads((tmp_path / "ls.json").read_text()):
            labels = expected(run)[task["data"]["image_id"]]
            results = task["predictions"][0]["result"]
            read = [import_label_studio_annotation(r) for r in results if r["type"] != "choices"]
            assert {field for field, _ in read} <= {"label"}
            if geometry == "box":
                compare([region for _, region in read], labels)
                continue
            for (_, region), (image, label) in zip(read, labels, strict=True):
                assert region.label == name_of(label.category_id)
                points = np.array(region.points[0]) * (image.width, image.height)
                inside = np.append(points.min(0) + 2, points.max(0) - 2)
                box = cut(image, label)
                assert (inside[:2] >= box[:2]).all()
                assert (inside[2:] <= box[2:]).all()
