from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from export_run import ODD, build_odd_run, cut, name_of, select, shown
from pycocotools import mask as coco_mask
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.export.cvat import export_cvat
from vildcli.export.split import Split
from vildcli.labelling.masks import full_frame, object_mask
from vildcli.vocabulary.category import Category, Vocabulary


@pytest.fixture
def run(tmp_path):
    return build_odd_run(tmp_path)


def read(path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()


def shapes(root):
    """(image element, shape element) in the order of the file."""
    return [(image, shape) for image in root.iter("image") for shape in image]


def frame_of(image, label):
    size = image.height, image.width
    return full_frame(*object_mask(label.mask, label.box, *size), *size)


def test_export_cvat__box_by_box(run, tmp_path):
    summary = export_cvat(select(run), tmp_path / "cvat.xml")
    root = read(tmp_path / "cvat.xml")
    assert root.findtext("version") == "1.1"
    found = shapes(root)
    assert len(found) == len(shown(run)) == summary.labels == 7
    for (image_node, box), (image, label) in zip(found, shown(run), strict=True):
        assert int(image_node.get("id")) == image.image_id
        assert image_node.get("name") == image.path
        assert image_node.get("width") == str(image.width)
        assert image_node.get("height") == str(image.height)
        assert (box.tag, box.get("label")) == ("box", name_of(label.category_id))
        assert (box.get("source"), box.get("occluded"), box.get("z_order")) == ("auto", "0", "0")
        corners = [float(box.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")]
        assert corners == pytest.approx(cut(image, label), abs=1e-5)
        said = {a.get("name"): a.text for a in box}
        assert np.float32(said["score"]) == np.float32(label.score)
        assert int(said["vildcli_label"]) == label.label
        for a in label.attributes:
            own = "attribute_label" if a.set == "label" else a.set
            assert said[own] == a.name
            assert np.float32(said[f"{own}_score"]) == np.float32(a.score)
    names = [image.get("name") for image in root.iter("image")]
    assert names == ["a.png", "a.jpg", "deep/a.png", "empty.png", "images/in the dark, é&ü.png"]


def test_export_cvat__masks_are_run_lengths_along_rows(run, tmp_path):
    export_cvat(select(run), tmp_path / "cvat.xml", geometry="rle")
    for (_, mask), (image, label) in zip(
        shapes(read(tmp_path / "cvat.xml")), shown(run), strict=True
    ):
        assert mask.tag == "mask"
        left, top, width, height = (int(mask.get(k)) for k in ("left", "top", "width", "height"))
        runs = [int(text) for text in mask.get("rle").split(",")]
        assert sum(runs) == width * height
        assert all(run > 0 for run in runs[1:])
        pixels = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
        frame = np.zeros((image.height, image.width), int)
        frame[top : top + height, left : left + width] = pixels
        assert (frame == frame_of(image, label)).all()


def test_export_cvat__polygons(run, tmp_path):
    export_cvat(select(run), tmp_path / "cvat.xml", geometry="polygon")
    for (_, polygon), (image, label) in zip(
        shapes(read(tmp_path / "cvat.xml")), shown(run), strict=True
    ):
        assert polygon.tag == "polygon"
        points = [
            [float(v) for v in point.split(",")] for point in polygon.get("points").split(";")
        ]
        flat = [v for point in points for v in point]
        drawn = coco_mask.decode(coco_mask.frPyObjects([flat], image.height, image.width))[:, :, 0]
        frame = frame_of(image, label)
        assert (drawn & frame).sum() / (drawn | frame).sum() > 0.9


def test_export_cvat__labels_of_the_task(run, tmp_path):
    export_cvat(select(run), tmp_path / "cvat.xml")
    specs = json.loads((tmp_path / "cvat-labels.json").read_text(encoding="utf-8"))
    assert [spec["name"] for spec in specs] == [category.name for category in ODD.categories]
    for spec in specs:
        by_name = {a["name"]: a for a in spec["attributes"]}
        assert list(by_name) == [
            "score",
            "vildcli_label",
            "colour",
            "colour_score",
            "attribute_label",
            "attribute_label_score",
        ]
        assert by_name["colour"]["values"] == ["red", "green & blue"]
        assert by_name["colour"]["input_type"] == "select"
        assert by_name["score"] == {
            "name": "score",
            "mutable": False,
            "input_type": "text",
            "default_value": "",
            "values": [""],
        }
    task = read(tmp_path / "cvat.xml").find("meta/task")
    assert (task.findtext("size"), task.findtext("mode")) == ("5", "annotation")
    in_xml = [
        {
            "name": label.findtext("name"),
            "attributes": [
                (a.findtext("name"), a.findtext("values")) for a in label.iter("attribute")
            ],
        }
        for label in task.iter("label")
    ]
    assert in_xml == [
        {
            "name": spec["name"],
            "attributes": [(a["name"], "\n".join(a["values"])) for a in spec["attributes"]],
        }
        for spec in specs
    ]


def test_export_cvat__everything_used_is_declared(run, tmp_path):
    export_cvat(select(run, where=["colour=red"], joint=True), tmp_path / "cvat.xml")
    root = read(tmp_path / "cvat.xml")
    declared = {
        label.findtext("name"): {a.findtext("name") for a in label.iter("attribute")}
        for label in root.iter("label")
    }
    found = shapes(root)
    assert len(found) == 2
    for _, shape in found:
        assert {a.get("name") for a in shape} <= declared[shape.get("label")]
    assert [a.text for a in found[0][1] if a.get("name") == "category_score"] == ["0.9"]


def test_export_cvat__a_file_a_part(run, tmp_path):
    split = Split((("train", 0.2), ("val", 0.8)))
    export_cvat(select(run, split=split), tmp_path / "cvat.xml")
    names = [
        {image.get("name") for image in read(tmp_path / f"cvat-{part}.xml").iter("image")}
        for part in split.names
    ]
    assert all(names)
    assert len(names[0] | names[1]) == len(names[0]) + len(names[1]) == 5
    assert (tmp_path / "cvat-labels.json").exists()
    assert not (tmp_path / "cvat.xml").exists()


def test_export_cvat__names_that_xml_cannot_hold(tmp_path):
    names = Vocabulary("v", (Category(1, "bell\x07 <&>\n\"'"),))
    images = [DrawnImage("tab\tand\nline.png", (8, 8), [DrawnLabel(1, 0.9, (1, 1, 6, 6))])]
    run = build_run(tmp_path / "run", tmp_path / "p", images, vocabulary=names)
    export_cvat(select(run), tmp_path / "cvat.xml")
    ((image, box),) = shapes(read(tmp_path / "cvat.xml"))
    assert image.get("name") == "tab\tand\nline.png"
    assert box.get("label") == "bell\ufffd <&>\n\"'"
