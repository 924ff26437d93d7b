from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import supervision
import yaml
from export_run import ODD, build_odd_run, cut, name_of, select, shown
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.errors import DataError, RunError
from vildcli.export.split import Split
from vildcli.export.yolo import export_yolo
from vildcli.labelling.masks import full_frame, object_mask

STEMS = {1: "a", 2: "a-2", 4: "deep/a", 5: "empty", 6: "images_/in the dark, é&ü"}
SUFFIXES = {1: ".png", 2: ".jpg", 4: ".png", 5: ".png", 6: ".png"}


@pytest.fixture
def run(tmp_path):
    return build_odd_run(tmp_path)


def lines(out: Path, stem: str) -> list[list[float]]:
    text = (out / "labels" / f"{stem}.txt").read_text(encoding="utf-8")
    return [[float(value) for value in line.split()] for line in text.splitlines()]


def by_image(run, conf=None):
    found = defaultdict(list)
    for image, label in shown(run, conf):
        found[image.image_id].append((image, label))
    return found


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_export_yolo__supervision_reads_every_box(run, tmp_path):
    out = tmp_path / "yolo"
    summary = export_yolo(select(run), out, images="link")
    expected, seen = by_image(run), 0
    for folder in ("", "deep", "images_"):
        found = supervision.DetectionDataset.from_yolo(
            str(out / "images" / folder), str(out / "labels" / folder), str(out / "data.yaml")
        )
        assert found.classes == [category.name for category in ODD.categories]
        for path, _, detections in found:
            stem = Path(path).relative_to(out / "images").with_suffix("").as_posix()
            (image_id,) = (number for number, name in STEMS.items() if name == stem)
            assert len(detections) == len(expected[image_id])
            for box, number, (image, label) in zip(
                detections.xyxy, detections.class_id, expected[image_id], strict=True
            ):
                assert box == pytest.approx(cut(image, label), abs=1e-3)
                assert found.classes[number] == name_of(label.category_id)
                seen += 1
    assert seen == summary.labels == 7


def test_export_yolo__supervision_reads_the_outlines(run, tmp_path):
    out = tmp_path / "yolo"
    export_yolo(select(run), out, geometry="polygon", images="link")
    found = supervision.DetectionDataset.from_yolo(
        str(out / "images"), str(out / "labels"), str(out / "data.yaml")
    )
    expected, seen = by_image(run), 0
    for path, _, detections in found:
        (image_id,) = (n for n, name in STEMS.items() if name == Path(path).stem)
        for place, (image, label) in enumerate(expected[image_id]):
            size = image.height, image.width
            frame = full_frame(*object_mask(label.mask, label.box, *size), *size)
            mask = detections.mask[place]
            assert (mask & frame).sum() / (mask | frame).sum() > 0.85
            seen += 1
    assert seen == 5


def test_export_yolo__a_mask_of_two_parts_is_one_line(tmp_path):
    run = build_run(
        tmp_path / "run",
        tmp_path / "p",
        [DrawnImage("a.png", (56, 56), [DrawnLabel(1, 0.9, (0, 0, 56, 56))])],
    )
    regions = run / "regions" / "000000.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    two = np.zeros((28, 28), np.uint8)
    two[2:10, 2:10] = two[18:26, 16:27] = 255
    content = pq.read_table(regions)
    place = content.schema.get_field_index("mask")
    masks = pa.array([two.tobytes()], content.schema.field("mask").type)
    pq.write_table(content.set_column(place, content.schema.field("mask"), masks), regions)
    out = tmp_path / "yolo"
    export_yolo(select(run), out, geometry="polygon", images="copy")
    assert len(lines(out, "a")) == 1
    found = supervision.DetectionDataset.from_yolo(
        str(out / "images"), str(out / "labels"), str(out / "data.yaml")
    )
    ((_, _, detections),) = found
    frame = two.repeat(2, axis=0).repeat(2, axis=1) > 127
    mask = detections.mask[0]
    assert (mask & frame).sum() / (mask | frame).sum() > 0.8
    assert not mask[:, 24:30].any() or mask[:, 24:30].sum() < 20  # a bridge has no width


def test_export_yolo__no_two_images_share_a_file(run, tmp_path):
    export_yolo(select(run), tmp_path / "yolo")
    files = sorted((tmp_path / "yolo" / "labels").rglob("*.txt"))
    names = {f.relative_to(tmp_path / "yolo" / "labels").with_suffix("").as_posix() for f in files}
    assert names == set(STEMS.values())
    assert not (tmp_path / "yolo" / "images").exists()
    assert lines(tmp_path / "yolo", "empty") == []
    rows = {int(row["image_id"]): row for row in table(tmp_path / "yolo" / "images.csv")}
    for image_id, stem in STEMS.items():
        assert rows[image_id]["file"] == f"images/{stem}{SUFFIXES[image_id]}"
    assert (rows[2]["source"], rows[2]["path"], rows[2]["width"]) == ("photos", "a.jpg", "64")


def test_export_yolo__no_score_and_no_id_is_lost(run, tmp_path):
    export_yolo(select(run), tmp_path / "yolo")
    rows = table(tmp_path / "yolo" / "scores.csv")
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert content["vildcli_ids"] == [7, 3, 1203, 12]
    for row, (image, label) in zip(rows, shown(run), strict=True):
        assert (int(row["image_id"]), int(row["label"])) == (image.image_id, label.label)
        assert np.float32(row["score"]) == np.float32(label.score)
        stem = row["file"].removeprefix("labels/").removesuffix(".txt")
        line = lines(tmp_path / "yolo", stem)[int(row["line"]) - 1]
        assert content["vildcli_ids"][int(line[0])] == label.category_id == int(row["category_id"])


def test_export_yolo__data_yaml_without_a_split(run, tmp_path):
    export_yolo(select(run), tmp_path / "yolo")
    text = (tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8")
    assert text.startswith("# train and val are the same images: --split would part them.\n")
    content = yaml.safe_load(text)
    assert content["train"] == content["val"] == "images"
    assert content["names"] == {place: c.name for place, c in enumerate(ODD.categories)}
    assert "path" not in content  # a relative one would be looked for elsewhere


def test_export_yolo__split(run, tmp_path):
    split = Split((("train", 0.2), ("val", 0.8)))
    out = tmp_path / "yolo"
    summary = export_yolo(select(run, split=split), out, images="copy")
    content = yaml.safe_load((out / "data.yaml").read_text())
    assert (content["train"], content["val"]) == ("images/train", "images/val")
    files = {f.relative_to(out / "labels").as_posix() for f in out.glob("labels/**/*.txt")}
    view = select(run).view
    parts = {im.image_id: split.part_of(im) for im in view.images() if im.status == "ok"}
    assert files == {f"{parts[i]}/{stem}.txt" for i, stem in STEMS.items()}
    assert set(parts.values()) == {"train", "val"}
    assert (out / f"images/{parts[4]}/deep/a.png").is_file()
    assert (summary.images, summary.labels) == (5, 7)


def test_export_yolo__a_part_without_images_is_a_folder(run, tmp_path):
    split = Split((("train", 1.0), ("val", 0.0)))
    export_yolo(select(run, split=split), tmp_path / "yolo", images="link")
    for kind in ("images", "labels"):
        assert list((tmp_path / "yolo" / kind / "val").iterdir()) == []


def test_export_yolo__save_conf_is_the_last_column(run, tmp_path):
    export_yolo(select(run), tmp_path / "yolo", save_conf=True)
    scores = [row[5] for row in lines(tmp_path / "yolo", "a")]
    assert scores == [0.9, 0.7, 0.6, 0.33333334]
    export_yolo(select(run), tmp_path / "yolo", save_conf=False)
    assert {len(row) for row in lines(tmp_path / "yolo", "a")} == {5}


def test_export_yolo__images_are_linked_or_copied(run, tmp_path):
    export_yolo(select(run), tmp_path / "yolo", images="link")
    link = tmp_path / "yolo" / "images" / "deep" / "a.png"
    assert link.is_symlink()
    original = tmp_path / "photos" / "deep" / "a.png"
    assert link.read_bytes() == original.read_bytes()
    export_yolo(select(run), tmp_path / "yolo", images="copy")
    assert not link.is_symlink()
    assert link.read_bytes() == original.read_bytes()
    original.unlink()
    with pytest.raises(DataError) as error:
        export_yolo(select(run), tmp_path / "yolo", images="copy")
    assert str(error.value) == f"{original} is not there."
    assert link.is_file()  # the old export is whole


def test_export_yolo__replaces_its_own_kind_only(run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear")
    for folder in (mine, run):
        with pytest.raises(RunError) as error:
            export_yolo(select(run), folder)
        assert str(error.value) == (
            f"{folder} is no export that vildcli made, so it is not replaced."
        )
    assert (mine / "diary.txt").read_text() == "dear"
    out = tmp_path / "yolo"
    out.mkdir()
    export_yolo(select(run, conf=0.0), out)
    assert len(lines(out, "a")) == 5
    export_yolo(select(run), out)
    assert len(lines(out, "a")) == 4
    assert json.loads((out / "run.json").read_text())["kind"] == "export"
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_export_yolo__a_failure_leaves_the_old_export(run, tmp_path):
    export_yolo(select(run), tmp_path / "yolo")
    before = {p: p.read_bytes() for p in (tmp_path / "yolo").rglob("*") if p.is_file()}
    (run / "labels" / "000001.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError):
        export_yolo(select(run), tmp_path / "yolo")
    assert before == {p: p.read_bytes() for p in (tmp_path / "yolo").rglob("*") if p.is_file()}
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_export_yolo__a_link_to_another_disk_stays_one(run, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "yolo").symlink_to(tmp_path / "disk")
    export_yolo(select(run), tmp_path / "yolo")
    assert (tmp_path / "yolo").is_symlink()
    assert (tmp_path / "disk" / "data.yaml").is_file()
