from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
from export_run import ODD_NAME, build_odd_run, cut, name_of, select, shown
from pycocotools import mask as coco_mask
from run_builder import DrawnImage, build_run

from vildcli.errors import DataError
from vildcli.export.csv import export_csv
from vildcli.labelling.masks import full_frame, object_mask


@pytest.fixture
def run(tmp_path):
    return build_odd_run(tmp_path)


def read(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.mark.parametrize("conf", [None, 0.0])
def test_export_csv__label_by_label(run, tmp_path, conf):
    out = tmp_path / "labels.csv"
    summary = export_csv(select(run, conf=conf), out)
    rows, expected = read(out), shown(run, conf)
    assert len(rows) == len(expected) == summary.labels == (7 if conf is None else 8)
    assert (summary.images, summary.failed, summary.hidden) == (5, 1, 8 - len(rows))
    for row, (image, label) in zip(rows, expected, strict=True):
        assert (int(row["image_id"]), row["file_name"]) == (image.image_id, image.path)
        assert (int(row["width"]), int(row["height"])) == (image.width, image.height)
        assert (int(row["label"]), int(row["category_id"])) == (label.label, label.category_id)
        assert row["category"] == name_of(label.category_id)
        assert row["is_base"] == ("true" if label.is_base else "false")
        for key in ("score", "text_score", "objectness"):
            assert np.float32(row[key]) == np.float32(getattr(label, key))
        assert row["image_score"] == ""
        box = [float(row[key]) for key in ("x1", "y1", "x2", "y2")]
        assert box == pytest.approx(cut(image, label), abs=1e-5)
        for a in label.attributes:
            own = "attribute_label" if a.set == "label" else a.set
            assert row[own] == a.name
            assert np.float32(row[f"{own}_score"]) == np.float32(a.score)
            assert np.float32(row[f"{own}_joint"]) == np.float32(a.joint)


def test_export_csv__numbers_are_the_shortest_that_are_the_same(run, tmp_path):
    export_csv(select(run), tmp_path / "labels.csv")
    scores = [row["score"] for row in read(tmp_path / "labels.csv")]
    assert scores == ["0.9", "0.7", "0.6", "0.33333334", "0.8", "0.5", "0.4"]


def test_export_csv__pandas_reads_types_and_odd_names(run, tmp_path):
    export_csv(select(run), tmp_path / "labels.csv")
    table = pd.read_csv(tmp_path / "labels.csv")
    assert table["is_base"].dtype == bool
    assert table["image_id"].dtype == np.int64
    assert ODD_NAME in set(table["category"])
    assert table["file_name"].iloc[-1] == "images/in the dark, é&ü.png"
    assert table["colour"].isna().sum() == 3


def test_export_csv__masks_as_json(run, tmp_path):
    for geometry in ("rle", "polygon"):
        export_csv(select(run), tmp_path / f"{geometry}.csv", geometry=geometry)
    by_rle, by_polygon = (read(tmp_path / f"{g}.csv") for g in ("rle", "polygon"))
    for rle_row, polygon_row, (image, label) in zip(by_rle, by_polygon, shown(run), strict=True):
        size = image.height, image.width
        frame = full_frame(*object_mask(label.mask, label.box, *size), *size)
        assert (coco_mask.decode(json.loads(rle_row["segmentation"])) == frame).all()
        polygons = json.loads(polygon_row["segmentation"])
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))
        assert (drawn & frame).sum() / (drawn | frame).sum() > 0.9


def test_export_csv__joint_scores(run, tmp_path):
    export_csv(select(run, where=["colour=red"], joint=True), tmp_path / "labels.csv")
    rows = read(tmp_path / "labels.csv")
    scores = [(float(row["score"]), float(row["category_score"])) for row in rows]
    assert scores == [pytest.approx((0.675, 0.9)), pytest.approx((0.45, 0.6))]


def test_export_csv__a_run_without_labels_is_a_header(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", [DrawnImage("a.png")])
    summary = export_csv(select(run), tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text().count("\n") == 1
    assert (summary.images, summary.labels) == (1, 0)


def test_export_csv__attributes_that_the_vocabulary_lost(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos")
    with pytest.raises(DataError) as error:
        export_csv(select(run), tmp_path / "labels.csv")
    assert str(error.value) == (
        f"{run / 'vocabulary.yaml'} lacks the attributes 'colour' of labels."
    )
    assert not (tmp_path / "labels.csv").exists()


def test_export_csv__an_incomplete_run(tmp_path):
    run = build_odd_run(tmp_path, finished=1)
    summary = export_csv(select(run), tmp_path / "labels.csv")
    assert (summary.images, summary.labels, summary.units_done, summary.units_total) == (2, 5, 1, 3)
