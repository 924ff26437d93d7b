from __future__ import annotations

import csv

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from export_run import build_odd_run, select, shown
from pycocotools import mask as coco_mask
from run_builder import DrawnImage, build_run

from vildcli.export import parquet
from vildcli.export.csv import export_csv
from vildcli.export.parquet import export_parquet
from vildcli.export.split import Split
from vildcli.labelling.masks import full_frame, object_mask


@pytest.fixture
def run(tmp_path):
    return build_odd_run(tmp_path)


def test_export_parquet__holds_what_the_csv_holds(run, tmp_path):
    export_csv(select(run), tmp_path / "labels.csv")
    export_parquet(select(run), tmp_path / "labels.parquet", geometry="box")
    from_csv = pd.read_csv(tmp_path / "labels.csv")
    table = pd.read_parquet(tmp_path / "labels.parquet")
    assert list(table.columns) == list(from_csv.columns)
    same = table.astype(from_csv.dtypes.to_dict())
    pd.testing.assert_frame_equal(same, from_csv, check_exact=False, rtol=1e-7)


def test_export_parquet__types(run, tmp_path):
    export_parquet(select(run), tmp_path / "labels.parquet")
    schema = pq.read_schema(tmp_path / "labels.parquet")
    types = {field.name: str(field.type) for field in schema}
    assert types["image_id"] == types["category_id"] == "int64"
    assert types["score"] == types["x1"] == types["colour_joint"] == "float"
    assert types["is_base"] == "bool"
    assert schema.metadata[b"run"] == select(run).view.fingerprint.encode()


def test_export_parquet__scores_are_bit_equal(run, tmp_path):
    export_parquet(select(run), tmp_path / "labels.parquet")
    scores = pq.read_table(tmp_path / "labels.parquet").column("score").to_pylist()
    assert scores == [label.score for _, label in shown(run)]


def test_export_parquet__masks(run, tmp_path):
    export_parquet(select(run), tmp_path / "labels.parquet", geometry="rle")
    for row, (image, label) in zip(
        ds.dataset(tmp_path / "labels.parquet").to_table().to_pylist(), shown(run), strict=True
    ):
        size = image.height, image.width
        frame = full_frame(*object_mask(label.mask, label.box, *size), *size)
        assert (coco_mask.decode(row["segmentation"]) == frame).all()


def test_export_parquet__row_groups_bound_the_memory(run, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_ROW_GROUP", 3)
    export_parquet(select(run), tmp_path / "labels.parquet", geometry="polygon")
    file = pq.ParquetFile(tmp_path / "labels.parquet")
    assert (file.num_row_groups, file.metadata.num_rows) == (3, 7)


def test_export_parquet__a_run_without_labels(tmp_path):
    run = build_run(tmp_path / "run", tmp_path / "photos", [DrawnImage("a.png")])
    export_parquet(select(run), tmp_path / "labels.parquet")
    table = pq.read_table(tmp_path / "labels.parquet")
    assert table.num_rows == 0
    assert "score" in table.column_names


def test_csv_and_parquet__name_the_part_of_a_split(run, tmp_path):
    split = Split((("train", 0.2), ("val", 0.8)))
    export_csv(select(run, split=split), tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="") as file:
        parts = {int(row["image_id"]): row["split"] for row in csv.DictReader(file)}
    images = {image.image_id: image for image, _ in shown(run)}
    assert parts == {number: split.part_of(image) for number, image in images.items()}
    assert set(parts.values()) == {"train", "val"}
