"""Exports held to the forms that CVAT and Label Studio publish, written down here as they say them.

CVAT: docs.cvat.ai, "XML annotation format", version 1.1, image tasks. Label Studio: labelstud.io,
"Import pre-annotated data" and the tags RectangleLabels, PolygonLabels, BrushLabels.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from export_run import build_odd_run, select

from vildcli.export.cvat import export_cvat
from vildcli.export.labelstudio import export_labelstudio

NUMBER = r"-?\d+(\.\d+)?"
WHOLE, FLAG = r"\d+", r"[01]"
SHAPE = {"label": r".+", "source": "manual|auto", "occluded": FLAG, "z_order": WHOLE}
CVAT = {
    "image": {"id": WHOLE, "name": r".+", "width": WHOLE, "height": WHOLE},
    "box": {**SHAPE, **dict.fromkeys(("xtl", "ytl", "xbr", "ybr"), NUMBER)},
    "polygon": {**SHAPE, "points": rf"{NUMBER},{NUMBER}(;{NUMBER},{NUMBER}){{2,}}"},
    "mask": {
        **SHAPE,
        "rle": rf"{WHOLE}(, {WHOLE})*",
        **dict.fromkeys(("left", "top", "width", "height"), WHOLE),
    },
    "attribute": {"name": r".+"},
}
INPUT_TYPES = {"select", "checkbox", "radio", "number", "text"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build_odd_run(tmp_path)


@pytest.mark.parametrize("geometry", ["box", "polygon", "rle"])
def test_cvat__elements_and_attributes(run: Path, tmp_path: Path, geometry: Any) -> None:
    export_cvat(select(run), tmp_path / "cvat.xml", geometry=geometry)
    root = ElementTree.parse(tmp_path / "cvat.xml").getroot()
    assert (root.tag, root.findtext("version")) == ("annotations", "1.1")
    assert [child.tag for child in root][:2] == ["version", "meta"]
    images = root.findall("image")
    assert len(images) == 5
    assert {child.tag for child in root} == {"version", "meta", "image"}
    kind = {"box": "box", "polygon": "polygon", "rle": "mask"}[geometry]
    assert {shape.tag for image in images for shape in image} == {kind}
    for image in images:
        for node in image.iter():
            form = CVAT[node.tag]
            assert set(node.keys()) == set(form), node.tag
            for name, pattern in form.items():
                assert re.fullmatch(pattern, node.get(name, ""), re.S), (node.tag, name)


@pytest.mark.parametrize("geometry", ["box", "rle"])
def test_cvat__labels_of_the_meta_block(run: Path, tmp_path: Path, geometry: Any) -> None:
    export_cvat(select(run), tmp_path / "cvat.xml", geometry=geometry)
    root = ElementTree.parse(tmp_path / "cvat.xml").getroot()
    labels = {label.findtext("name"): label for label in root.iterfind(".//labels/label")}
    for label in labels.values():
        for attribute in label.iterfind("attributes/attribute"):
            assert attribute.findtext("input_type") in INPUT_TYPES
            assert attribute.findtext("mutable") in ("True", "False")
            assert attribute.find("values") is not None
    for shape in (shape for image in root.iterfind("image") for shape in image):
        known = labels[shape.get("label")]
        declared = {a.findtext("name"): a for a in known.iterfind("attributes/attribute")}
        for value in shape:
            attribute = declared[value.get("name")]
            choices = (attribute.findtext("values") or "").split("\n")
            if attribute.findtext("input_type") in ("select", "radio"):
                assert value.text in choices


PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1}
VALUES: dict[str, dict[str, Any]] = {
    "rectanglelabels": {
        **dict.fromkeys(("x", "y", "width", "height"), PERCENT),
        "rotation": {"type": "number"},
    },
    "polygonlabels": {
        "points": {
            "type": "array",
            "minItems": 3,
            "items": {"type": "array", "items": PERCENT, "minItems": 2, "maxItems": 2},
        },
        "closed": {"type": "boolean"},
    },
    "brushlabels": {
        "format": {"const": "rle"},
        "rle": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
    },
    "choices": {},
}
REQUIRED = {
    "rectanglelabels": ["x", "y", "width", "height"],
    "polygonlabels": ["points"],
    "brushlabels": ["format", "rle"],
    "choices": [],
}


def result_of(kind: str) -> dict[str, Any]:
    """The schema of one entry of `result`; of a region, its value lies where its kind says."""
    value = {**VALUES[kind], kind: NAMES}
    if kind == "choices":  # of a region, beside its own geometry
        value |= VALUES["rectanglelabels"] | VALUES["polygonlabels"] | VALUES["brushlabels"]
    return {
        "type": "object",
        "required": ["id", "type", "from_name", "to_name", "value"],
        "properties": {
            "id": {"type": "string"},
            "type": {"const": kind},
            "from_name": {"type": "string"},
            "to_name": {"type": "string"},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "original_width": {"type": "integer", "minimum": 1},
            "original_height": {"type": "integer", "minimum": 1},
            "image_rotation": {"const": 0},
            "value": {
                "type": "object",
                "required": [*REQUIRED[kind], kind],
                "properties": value,
                "additionalProperties": False,
            },
        },
    }


LABEL_STUDIO = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "properties": {
            "data": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "string", "minLength": 1}},
            },
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["result"],
                    "properties": {
                        "model_version": {"type": "string"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "result": {
                            "type": "array",
                            "items": {"oneOf": [result_of(kind) for kind in VALUES]},
                        },
                    },
                },
            },
        },
    },
}


@pytest.mark.parametrize("geometry", ["box", "polygon", "rle"])
def test_label_studio__tasks(run: Path, tmp_path: Path, geometry: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="comes with FiftyOne")
    export_labelstudio(select(run), tmp_path / "ls.json", geometry=geometry)
    tasks = json.loads((tmp_path / "ls.json").read_text(encoding="utf-8"))
    jsonschema.validate(tasks, LABEL_STUDIO)
    config = ElementTree.parse(tmp_path / "ls-config.xml").getroot()
    controls = {node.get("name"): node for node in config.iter() if node.get("toName")}
    objects = {node.get("name") for node in config.iter("Image")}
    kind = {"box": "RectangleLabels", "polygon": "PolygonLabels", "rle": "BrushLabels"}[geometry]
    assert kind in {node.tag for node in controls.values()}
    for result in (r for task in tasks for r in task["predictions"][0]["result"]):
        control = controls[result["from_name"]]
        assert control.tag.lower() == result["type"]
        assert control.get("toName") == result["to_name"]
        assert result["to_name"] in objects
        values = {node.get("value") for node in control}
        assert set(result["value"][result["type"]]) <= values
