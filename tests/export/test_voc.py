from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import supervision
from export_run import ODD_NAME, build_odd_run, cut, name_of, select, shown
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.data.voc import read_voc
from vildcli.export.split import Split
from vildcli.export.voc import export_voc
from vildcli.vocabulary.category import Category, Vocabulary

STEMS = {1: "a", 2: "a-2", 4: "deep/a", 5: "empty", 6: "images/in the dark, é&ü"}


@pytest.fixture
def run(tmp_path):
    return build_odd_run(tmp_path)


def by_image(run):
    found = defaultdict(list)
    for image, label in shown(run):
        found[image.image_id].append((image, label))
    return found


def parse(out, stem) -> ElementTree.Element:
    return ElementTree.parse(out / "Annotations" / f"{stem}.xml").getroot()


def corners(node) -> list[int]:
    return [int(node.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]


def test_export_voc__label_by_label(run, tmp_path):
    out = tmp_path / "voc"
    summary = export_voc(select(run), out)
    seen = 0
    for image_id, stem in STEMS.items():
        root = parse(out, stem)
        assert int(root.findtext("image_id")) == image_id
        expected = by_image(run)[image_id]
        nodes = root.findall("object")
        assert len(nodes) == len(expected)
        for node, (image, label) in zip(nodes, expected, strict=True):
            assert int(root.findtext("size/width")) == image.width
            assert int(root.findtext("size/height")) == image.height
            assert node.findtext("name") == name_of(label.category_id)
            xmin, ymin, xmax, ymax = corners(node)
            x1, y1, x2, y2 = cut(image, label)
            assert (
                np.abs(np.subtract([xmin - 1, ymin - 1, xmax, ymax], [x1, y1, x2, y2])).max() <= 0.5
            )
            assert 1 <= xmin <= xmax <= image.width
            assert 1 <= ymin <= ymax <= image.height
            said = {a.findtext("name"): a.findtext("value") for a in node.iter("attribute")}
            assert np.float32(said["score"]) == np.float32(label.score)
            assert int(said["category_id"]) == label.category_id
            assert int(said["vildcli_label"]) == label.label
            for a in label.attributes:
                key = "attribute_label" if a.set == "label" else a.set
                assert said[key] == a.name
                assert np.float32(said[f"{key}_score"]) == np.float32(a.score)
            seen += 1
    assert seen == summary.labels == 7
    assert len(list(out.rglob("*.xml"))) == len(STEMS)


def test_export_voc__supervision_reads_it(run, tmp_path):
    out = tmp_path / "voc"
    export_voc(select(run), out, images="link")
    seen = 0
    for folder in ("", "deep", "images"):
        found = supervision.DetectionDataset.from_pascal_voc(
            str(out / "JPEGImages" / folder), str(out / "Annotations" / folder)
        )
        for path, _, detections in found:
            stem = Path(path).relative_to(out / "JPEGImages").with_suffix("").as_posix()
            (image_id,) = (number for number, name in STEMS.items() if name == stem)
            expected = by_image(run)[image_id]
            assert len(detections) == len(expected)
            for box, number, (image, label) in zip(
                detections.xyxy, detections.class_id, expected, strict=True
            ):
                assert np.abs(box - cut(image, label)).max() <= 0.5
                assert found.classes[number] == name_of(label.category_id)
                seen += 1
    assert seen == 7


def test_export_voc__our_own_reader_reads_it(run, tmp_path):
    export_voc(select(run), tmp_path / "voc")

    def boxes(path):
        content = read_voc(path)
        files = {image["id"]: image["file_name"] for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        found = content["annotations"]
        return set(files.values()), {
            (files[a["image_id"]], names[a["category_id"]], *a["bbox"]) for a in found
        }

    files, found = boxes(tmp_path / "voc" / "ImageSets" / "Main" / "trainval.txt")
    assert (files, found) == boxes(tmp_path / "voc")
    assert files == {"a.png", "a-2.jpg", "deep/a.png", "empty.png", f"{STEMS[6]}.png"}
    assert len(found) == 7
    assert ("a-2.jpg", ODD_NAME, 10, 12, 40, 58) in found


def test_export_voc__lists(run, tmp_path):
    export_voc(select(run), tmp_path / "all")
    lists = {f.name: f.read_text().splitlines() for f in (tmp_path / "all").rglob("Main/*.txt")}
    assert lists == {"trainval.txt": list(STEMS.values())}
    split = Split((("train", 0.2), ("val", 0.8)))
    export_voc(select(run, split=split), tmp_path / "two")
    lists = {f.name: f.read_text().splitlines() for f in (tmp_path / "two").rglob("Main/*.txt")}
    assert sorted(lists) == ["train.txt", "val.txt"]
    assert sorted(stem for stems in lists.values() for stem in stems) == sorted(STEMS.values())
    assert all(lists.values())


def test_export_voc__labelmap(run, tmp_path):
    export_voc(select(run), tmp_path / "voc")
    lines = (tmp_path / "voc" / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["apple:::", "poire d'été:::", f"{ODD_NAME}:::", "never seen:::"]
    names = Vocabulary("v", (Category(1, "colon: the organ"),))
    run = build_run(tmp_path / "2", tmp_path / "p", [DrawnImage("a.png")], vocabulary=names)
    export_voc(select(run), tmp_path / "voc")
    assert not (tmp_path / "voc" / "labelmap.txt").exists()


def test_export_voc__names_that_xml_cannot_hold(tmp_path):
    names = Vocabulary("v", (Category(1, "bell\x07 <&>\n\"'"),))
    labels = [DrawnLabel(1, 0.9, (1, 1, 6, 6))]
    run = build_run(
        tmp_path / "run", tmp_path / "p", [DrawnImage("a.png", (8, 8), labels)], vocabulary=names
    )
    export_voc(select(run), tmp_path / "voc")
    assert parse(tmp_path / "voc", "a").findtext("object/name") == "bell\ufffd <&>\n\"'"


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0.0, 0.0, 8.0, 8.0), [1, 1, 8, 8]),
        ((2.0, 3.0, 4.0, 5.0), [3, 4, 4, 5]),
        ((5.2, 5.2, 5.4, 5.4), [6, 6, 6, 6]),
        ((7.6, 7.6, 8.0, 8.0), [8, 8, 8, 8]),
        ((0.0, 0.0, 0.3, 0.3), [1, 1, 1, 1]),
        ((3.0, 3.0, 3.0, 3.0), [4, 4, 4, 4]),
        ((-4.0, -4.0, 20.0, 20.0), [1, 1, 8, 8]),
    ],
)
def test_export_voc__whole_pixels_from_one(tmp_path, box, pixels):
    images = [DrawnImage("a.png", (8, 8), [DrawnLabel(1, 0.9, box)])]
    run = build_run(tmp_path / "run", tmp_path / "p", images)
    export_voc(select(run), tmp_path / "voc")
    (node,) = parse(tmp_path / "voc", "a").iter("object")
    assert corners(node) == pixels
