from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from run_builder import VOCABULARY, DrawnImage, DrawnLabel, build_run

from vildcli import runs
from vildcli.cli import run as vildcli
from vildcli.errors import DataError, RunError
from vildcli.export.coco import export_coco
from vildcli.export.selection import Selection
from vildcli.labelling.masks import full_frame, object_mask
from vildcli.labelling.thresholds import view_run


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "run", tmp_path / "photos")


def read_coco(path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def export(run, out, *, geometry="rle", images_root=None, max_per_image=None, **asked):
    selection = Selection(
        view_run(run, **asked), images_root=images_root, max_per_image=max_per_image
    )
    return export_coco(selection, out, geometry=geometry)


def stored(run, conf=None):
    """(image record, label record) of what is shown, in order."""
    view = view_run(run, conf=conf)
    return [(im.image, label) for im in view.labelled_images() for label in view.shown(im)]


@pytest.mark.parametrize("conf", [None, 0.0])
def test_export_coco__label_by_label(run, tmp_path, conf):
    export(run, tmp_path / "coco.json", conf=conf)
    coco = read_coco(tmp_path / "coco.json")
    expected = stored(run, conf)
    annotations = coco.dataset["annotations"]
    assert len(annotations) == len(expected) == (4 if conf is None else 6)
    for number, (annotation, (image, label)) in enumerate(zip(annotations, expected, strict=True)):
        x1, y1, x2, y2 = label.box
        frame = full_frame(
            *object_mask(label.mask, label.box, image.height, image.width),
            image.height,
            image.width,
        )
        assert annotation["id"] == number + 1
        assert annotation["image_id"] == image.image_id
        assert annotation["category_id"] == label.category_id
        assert annotation["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-4)
        assert np.float32(annotation["score"]) == np.float32(label.score)
        assert (annotation["vildcli_label"], annotation["is_base"]) == (label.label, label.is_base)
        assert annotation["iscrowd"] == 0
        assert annotation["area"] == frame.sum()
        assert (coco.annToMask(annotation).astype(bool) == frame).all()


def test_export_coco__images_and_ids(run, tmp_path):
    summary = export(run, tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text())
    assert content["images"] == [
        {"id": 1, "file_name": "a.png", "width": 96, "height": 64},
        {"id": 2, "file_name": "deep/b.jpg", "width": 64, "height": 96},
        {"id": 4, "file_name": "empty.png", "width": 32, "height": 32},
    ]
    assert content["categories"] == [
        {"id": 1, "name": "apple", "supercategory": "", "synset": "apple.n.01", "frequency": "f"},
        {"id": 44, "name": "pear", "supercategory": "pome"},
        {"id": 90, "name": "drinking straw", "supercategory": ""},
    ]
    assert [a["category_id"] for a in content["annotations"]] == [1, 44, 90, 1]
    assert content["annotations"][0]["attributes"] == {"colour": "red"}
    assert content["annotations"][0]["attribute_scores"] == {"colour": 0.75}
    assert content["annotations"][0]["joint_scores"] == {"colour": 0.675}
    assert "attributes" not in content["annotations"][1]
    assert (summary.images, summary.failed, summary.labels, summary.hidden) == (3, 1, 4, 2)
    assert (summary.units_done, summary.units_total) == (2, 2)
    assert {"info", "licenses"} <= content.keys()


def test_export_coco__polygons_and_boxes(run, tmp_path):
    for geometry in ("rle", "polygon", "box"):
        export(run, tmp_path / f"{geometry}.json", geometry=geometry)
    by_rle, by_polygon, by_box = (
        read_coco(tmp_path / f"{geometry}.json") for geometry in ("rle", "polygon", "box")
    )
    for number in by_rle.anns:
        mask, filled = (c.annToMask(c.anns[number]).astype(bool) for c in (by_rle, by_polygon))
        assert (mask & filled).sum() / (mask | filled).sum() > 0.9
        assert by_polygon.anns[number]["area"] == by_rle.anns[number]["area"]
        x, y, w, h = by_box.anns[number]["bbox"]
        assert by_box.anns[number]["segmentation"] == [
            pytest.approx([x, y, x + w, y, x + w, y + h, x, y + h], abs=1e-4)
        ]
        assert by_box.anns[number]["area"] == pytest.approx(w * h)


def test_export_coco__boxes_are_cut_and_never_empty(tmp_path):
    outside = (
        DrawnLabel(1, 0.9, (-10.0, -10.0, 20.0, 20.0)),
        DrawnLabel(1, 0.8, (5.0, 5.0, 5.0, 5.0)),
    )
    run = build_run(tmp_path / "run", tmp_path / "photos", [DrawnImage("a.png", labels=outside)])
    for geometry in ("rle", "polygon", "box"):
        export(run, tmp_path / "coco.json", geometry=geometry)
        coco = read_coco(tmp_path / "coco.json")
        assert coco.anns[1]["bbox"] == [0.0, 0.0, 20.0, 20.0]
        assert coco.anns[2]["bbox"] == [5.0, 5.0, 1.0, 1.0]
        rles = [coco.annToRLE(annotation) for annotation in coco.dataset["annotations"]]
        assert (coco_mask.area(rles) > 0).all()


def test_export_coco__max_per_image(run, tmp_path):
    summary = export(run, tmp_path / "coco.json", conf=0, max_per_image=1)
    content = json.loads((tmp_path / "coco.json").read_text())
    assert [a["score"] for a in content["annotations"]] == [0.9, 0.8]
    assert (summary.labels, summary.hidden) == (2, 4)


def test_export_coco__joint_scores_take_the_place_of_scores(tmp_path):
    labels = (
        DrawnLabel(1, 0.9, (4, 6, 40, 50), attributes=(("colour", "red", 0.5),)),
        DrawnLabel(1, 0.8, (50, 6, 90, 50), attributes=(("colour", "red", 0.75),)),
        DrawnLabel(1, 0.7, (50, 6, 90, 50), attributes=(("colour", "blue", 1.0),)),
        DrawnLabel(1, 0.2, (4, 6, 40, 50), attributes=(("colour", "red", 1.0),)),
    )
    vocabulary = replace(VOCABULARY, attributes={"colour": ("red", "blue")})
    images = [DrawnImage("a.png", labels=labels)]
    run = build_run(tmp_path / "run", tmp_path / "photos", images, vocabulary=vocabulary)
    out = tmp_path / "coco.json"
    summary = export(run, out, where=["colour=red"], joint=True)
    first, second = json.loads(out.read_text())["annotations"]
    assert (first["vildcli_label"], first["score"], first["category_score"]) == (1, 0.6, 0.8)
    assert (second["vildcli_label"], second["score"], second["category_score"]) == (0, 0.45, 0.9)
    assert first["joint_scores"] == {"colour": 0.6}
    assert (summary.labels, summary.hidden) == (2, 2)
    assert vildcli(["export", str(run), "--to", "coco", "--where", "colour=blue"]) == 0
    (only,) = json.loads((run / "coco.json").read_text())["annotations"]
    assert (only["attributes"], only["score"]) == ({"colour": "blue"}, 0.7)
    assert "category_score" not in only


def test_export_coco__is_byte_identical(run, tmp_path):
    export(run, tmp_path / "a.json")
    export(run, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_export_coco__exports_the_finished_units(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", finished=1)
    summary = export(run, tmp_path / "coco.json")
    assert (summary.images, summary.units_done, summary.units_total) == (2, 1, 2)


def test_export_coco__failure_leaves_the_old_file(run, tmp_path):
    out = tmp_path / "coco.json"
    out.write_text("old")
    (run / "labels" / "000001.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError):
        export(run, out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_export_coco__is_never_seen_half_written(run, tmp_path, monkeypatch):
    seen = []
    replace = runs.os.replace
    monkeypatch.setattr(
        runs.os,
        "replace",
        lambda a, b: (seen.append((tmp_path / "coco.json").exists()), replace(a, b)),
    )
    export(run, tmp_path / "coco.json")
    assert seen == [False]
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"]


def test_export_coco__images_root(run, tmp_path):
    (tmp_path / "photos").rename(tmp_path / "moved")
    export(run, tmp_path / "coco.json", images_root=tmp_path / "moved")
    assert (
        json.loads((tmp_path / "coco.json").read_text())["images"][1]["file_name"] == "deep/b.jpg"
    )
    with pytest.raises(DataError) as error:
        export(run, tmp_path / "coco.json", images_root=tmp_path / "run")
    assert str(error.value) == f"{tmp_path / 'run'} has no a.png."


def test_export_coco__several_sources_do_not_share_names(tmp_path):
    run = build_run(
        tmp_path / "run",
        tmp_path / "photos",
        arguments={"sources": {"photos": str(tmp_path / "photos"), "more": str(tmp_path)}},
    )
    export(run, tmp_path / "coco.json")
    names = [im["file_name"] for im in json.loads((tmp_path / "coco.json").read_text())["images"]]
    assert names == ["photos/a.png", "photos/deep/b.jpg", "photos/empty.png"]


def test_export_coco__out_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as error:
        export(run, tmp_path / "file" / "coco.json")
    assert str(error.value) == f"{tmp_path / 'file' / 'coco.json'} cannot be written: File exists."


def test_export__imports_no_torch():
    code = "import sys, vildcli.export, vildcli.commands.export; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
