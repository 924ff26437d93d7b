from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from official_evaluation import COCO_128, annotate, needs, truth

from vildcli.errors import DataError
from vildcli.evaluation.protocols import PROTOCOLS
from vildcli.evaluation.truth import load_truth
from vildcli.vocabulary.files import load_vocabulary

COCO_VAL = COCO_128 / "instances_val2017_128_boxes_derived.json"


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_protocols__name_shipped_vocabularies() -> None:
    for protocol in PROTOCOLS.values():
        assert load_vocabulary(protocol.vocabulary)
        assert protocol.novel is None or protocol.novel in protocol.groups


def test_load_truth__takes_the_rules_that_a_file_is_made_for(tmp_path: Path) -> None:
    content = truth(1, 3)
    assert load_truth(write(tmp_path / "lvis.json", content)).protocol.name == "lvis"
    del content["images"][0]["neg_category_ids"]
    assert load_truth(write(tmp_path / "coco.json", content)).protocol.name == "coco"
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(
        "<annotation><size><width>4</width><height>3</height></size></annotation>"
    )
    assert load_truth(tmp_path).protocol.name == "voc"


def test_load_truth__refuses_a_file_without_images(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.json", truth(0, 3))
    with pytest.raises(DataError) as caught:
        load_truth(path)
    assert str(caught.value) == f"{path} has no images."


def test_load_truth__of_lvis_groups_by_frequency(tmp_path: Path) -> None:
    found = load_truth(write(tmp_path / "lvis.json", truth(1, 4)))
    assert found.groups == {
        "rare": frozenset({3}),
        "common": frozenset({1, 4}),
        "frequent": frozenset({2}),
    }
    assert found.novel_ids == {3}


def test_load_truth__refuses_coco_as_lvis() -> None:
    path = needs(COCO_VAL)
    with pytest.raises(DataError) as caught:
        load_truth(path, "lvis")
    assert str(caught.value) == f"{path} is not an LVIS file: an image has no 'neg_category_ids'."


def test_load_truth__48_17_keeps_65_names_and_images_with_one_of_them() -> None:
    content = json.loads(needs(COCO_VAL).read_text())
    found = load_truth(COCO_VAL, "coco-48-17")
    assert {name: len(ids) for name, ids in found.groups.items()} == {"novel": 17, "base": 48}
    names = {row["id"]: row["name"] for row in content["categories"]}
    kept = {names[i] for ids in found.groups.values() for i in ids}
    assert {"cat", "umbrella", "person"} <= kept
    assert not {"tennis racket", "wine glass", "hot dog"} & kept  # three of the 15 that nobody uses
    assert len(found.annotations.categories) == 65
    there = {row["image_id"] for row in content["annotations"] if names[row["category_id"]] in kept}
    assert {image.id for image in found.annotations.images} == there
    assert 100 < len(there) < len(content["images"])
    assert all(row["category_id"] in found.groups["novel"] | found.groups["base"]
               for row in found.content["annotations"])  # fmt: skip
    assert found.novel_ids == found.groups["novel"]


def test_load_truth__65_15_keeps_everything() -> None:
    content = json.loads(needs(COCO_VAL).read_text())
    found = load_truth(COCO_VAL, "coco-65-15")
    assert {name: len(ids) for name, ids in found.groups.items()} == {"unseen": 15, "seen": 65}
    assert found.content == content
    assert found.novel_ids == found.groups["unseen"]


def test_load_truth__counts_missing_names_of_a_split(tmp_path: Path) -> None:
    content = truth(1, 2)
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 5, "name": "Airplane"}]
    annotate(content, 1, 1, [1, 1, 5, 5])
    path = write(tmp_path / "few.json", content)
    found = load_truth(path, "coco-48-17")
    assert found.groups == {"novel": frozenset({5}), "base": frozenset({1})}
    assert found.notes == (
        f"{path} has 1 of the 17 novel categories of coco-48-17.",
        f"{path} has 1 of the 48 base categories of coco-48-17.",
    )
    path = write(tmp_path / "none.json", truth(1, 2))
    with pytest.raises(DataError) as caught:
        load_truth(path, "coco-48-17")
    assert str(caught.value) == f"{path} has none of the 17 novel categories of coco-48-17."
    assert caught.value.hint == "Name an annotation file of COCO's 80 categories."


def test_iou_types__masks_where_every_annotation_has_one(tmp_path: Path) -> None:
    content = truth(1, 2)
    annotate(content, 1, 1, [1, 1, 5, 5])
    path = write(tmp_path / "a.json", content)
    assert load_truth(path).iou_types == ("bbox", "segm")
    assert load_truth(path, "objects365").iou_types == ("bbox",)
    annotate(content, 1, 1, [1, 1, 5, 5])
    content["annotations"][1]["segmentation"] = []
    assert load_truth(write(path, content)).iou_types == ("bbox",)


def test_restricted__leaves_no_trace_of_what_is_left_out(tmp_path: Path) -> None:
    content = truth(3, 3)
    content["images"][0]["neg_category_ids"] = [2, 3]
    for image, category in ((1, 1), (1, 2), (2, 1), (3, 3)):
        annotate(content, image, category, [1, 1, 5, 5])
    found = load_truth(write(tmp_path / "a.json", content)).restricted([1, 2], [1, 3])
    assert [row["id"] for row in found.content["images"]] == [1, 2]
    assert found.content["images"][0]["neg_category_ids"] == [3]
    assert found.annotations.images[0].negative_ids == {3}
    assert [row["id"] for row in found.content["categories"]] == [1, 3]
    assert [(r["image_id"], r["category_id"]) for r in found.content["annotations"]] == [
        (1, 1),
        (2, 1),
    ]
    assert found.groups["common"] == {1}
    assert found.groups["frequent"] == frozenset()
