from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from export_run import build_odd_run, select
from official_evaluation import COCO_128, LVIS_100, needs
from pycocotools import mask as coco_mask

from vildcli.export.checks import check_export
from vildcli.export.checks.coco import _uncompressed
from vildcli.export.coco import export_coco
from vildcli.export.lvis import export_lvis


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run = build_odd_run(folder)
    export_coco(select(run), folder / "coco.json", geometry="rle")
    export_lvis(select(run), folder / "lvis.json", geometry="polygon")
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("coco", "lvis")}


def problems(content, tmp_path, form=None):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return [f"{p.where} {p.what}" for p in check_export(path, form)[1]]


def put(content, place, value):
    """Set `annotations.0.bbox` and the like; without a value, take it away."""
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    for part in path:
        content = content[part]
    if value is ...:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("images", ..., "images is missing"),
        ("categories", {}, "categories is no list"),
        ("images.1", 7, "images[1] is no object"),
        ("images.1.id", ..., "images[1] has no id"),
        ("images.1.id", "2", "images[1] (id 2) has the id '2', not a whole number"),
        ("images.1.id", True, "images[1] (id True) has the id True, not a whole number"),
        ("images.1.id", 1, "images[1] (id 1) has the id 1, as images[0] (id 1) has"),
        ("images.1.file_name", "", "images[1] (id 2) has no file_name"),
        (
            "images.1.file_name",
            "a.png",
            "images[1] (id 2) has the file_name 'a.png', as images[0] (id 1) has",
        ),
        ("images.1.width", 0, "images[1] (id 2) has the width 0, not a number of pixels"),
        ("images.1.height", "9", "images[1] (id 2) has the height '9', not a number of pixels"),
        ("categories.1.name", " ", "categories[1] (id 3) has no name"),
        (
            "categories.1.name",
            "apple",
            "categories[1] (id 3) has the name 'apple', as categories[0] (id 7) has",
        ),
        (
            "categories.1.id",
            0,
            "categories[1] (id 0) has the id 0, which several readers take for the background",
        ),
        (
            "annotations.1.id",
            0,
            "annotations[1] (id 0) has the id 0, which pycocotools takes for unmatched",
        ),
        ("annotations.1.id", 1, "annotations[1] (id 1) has the id 1, as annotations[0] (id 1) has"),
        (
            "annotations.1.image_id",
            99,
            "annotations[1] (id 2) has the image_id 99, which no image has",
        ),
        (
            "annotations.1.category_id",
            None,
            "annotations[1] (id 2) has the category_id None, which no category has",
        ),
        ("annotations.1.iscrowd", ..., "annotations[1] (id 2) has the iscrowd None, not 0 or 1"),
        ("annotations.1.area", 0, "annotations[1] (id 2) has the area 0, not a number above 0"),
        ("annotations.1.bbox", ..., "annotations[1] (id 2) has no bbox"),
        (
            "annotations.1.bbox",
            [1, 2, 3],
            "annotations[1] (id 2) has the bbox [1, 2, 3], not x y width height",
        ),
        (
            "annotations.1.bbox",
            [1, 2, 0, 4],
            "annotations[1] (id 2) has a box without area (1 2 1 6)",
        ),
        (
            "annotations.1.bbox",
            [1, 2, 99, 4],
            "annotations[1] (id 2) has a box (1 2 100 6) that leaves its image of 96 x 64",
        ),
        (
            "annotations.1.score",
            1.5,
            "annotations[1] (id 2) has the score 1.5, not 0 to 1",
        ),
        ("annotations.1.segmentation", [], "annotations[1] (id 2) has an empty segmentation"),
        (
            "annotations.1.segmentation",
            "x",
            "annotations[1] (id 2) has a segmentation of no known form",
        ),
        (
            "annotations.1.segmentation",
            [[1, 1, 5, 1]],
            "annotations[1] (id 2) has a polygon of 4 numbers, not of 3 points or more",
        ),
        (
            "annotations.1.segmentation",
            [[1, 1, 5, 1, 9, 1]],
            "annotations[1] (id 2) has a polygon without area",
        ),
        (
            "annotations.1.segmentation",
            [[1, 1, 5, 1, 9, "9"]],
            "annotations[1] (id 2) has a polygon that is no list of numbers",
        ),
        (
            "annotations.1.segmentation",
            [[1, 1, 5, 1, 99, 9]],
            "annotations[1] (id 2) has a polygon (1 1 99 9) that leaves its image of 96 x 64",
        ),
        (
            "annotations.1.segmentation.size",
            [96, 64],
            "annotations[1] (id 2) has a mask of 64 x 96 in an image of 96 x 64",
        ),
        (
            "annotations.1.segmentation",
            {"size": [64, 96], "counts": [64 * 96]},
            "annotations[1] (id 2) has an empty mask",
        ),
        (
            "annotations.1.segmentation",
            {"size": [64, 96], "counts": [10, 5]},
            "annotations[1] (id 2) has a mask whose counts add up to 15, not 6144",
        ),
        (
            "annotations.1.segmentation",
            {"size": [64, 96], "counts": "o"},
            "annotations[1] (id 2) has a mask whose counts are no run lengths",
        ),
    ],
)
def test_check_coco__one_thing_wrong(contents, tmp_path, place, value, said):
    content = copy.deepcopy(contents["coco"])
    put(content, place, value)
    assert said in problems(content, tmp_path, "coco")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("images.0.neg_category_ids", ..., "images[0] (id 1) has no neg_category_ids"),
        (
            "images.0.not_exhaustive_category_ids",
            [5],
            "images[0] (id 1) has 5 in not_exhaustive_category_ids, which no category has",
        ),
        (
            "images.0.neg_category_ids",
            [12, 7],
            "images[0] (id 1) has 7 in neg_category_ids and an annotation of it",
        ),
        (
            "categories.0.frequency",
            "x",
            "categories[0] (id 7) has the frequency 'x', not r, c or f",
        ),
        (
            "categories.0.instance_count",
            9,
            "categories[0] (id 7) has the instance_count 9; there are 3",
        ),
        ("categories.0.image_count", 9, "categories[0] (id 7) has the image_count 9; there are 2"),
    ],
)
def test_check_lvis__one_thing_wrong(contents, tmp_path, place, value, said):
    content = copy.deepcopy(contents["lvis"])
    put(content, place, value)
    assert problems(content, tmp_path) == [said]


def test_check_coco__only_what_is_wrong_is_said(contents, tmp_path):
    content = copy.deepcopy(contents["coco"])
    assert problems(content, tmp_path) == []
    content["annotations"][3]["bbox"] = [0, 0, 0, 0]
    content["annotations"][5]["iscrowd"] = 2
    assert problems(content, tmp_path) == [
        "annotations[3] (id 4) has a box without area (0 0 0 0)",
        "annotations[5] (id 6) has the iscrowd 2, not 0 or 1",
    ]


def test_check_coco__results(contents, tmp_path):
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")
    results = [{key: a[key] for key in keys} for a in contents["coco"]["annotations"]]
    assert problems(results, tmp_path) == []
    results[1]["score"] = None
    results[2]["image_id"] = "7"
    del results[3]["bbox"], results[3]["segmentation"]
    assert problems(results, tmp_path) == [
        "results[1] has the score None, not a number",
        "results[2] has the image_id '7', not a whole number",
        "results[3] has neither bbox nor segmentation",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images": [', "file.json, line 1 column 13 is no JSON: Expecting value"),
        ("[1, 2]", None),
        ("[" * 100_000, "file.json is no JSON to read: maximum recursion depth exceeded"),
        ('{"images": ' + "1" * 5000, "file.json is no JSON to read: Exceeds the limit"),
        ("3", "file.json is neither an annotation file nor a list of results"),
    ],
)
def test_check_coco__no_annotation_file(tmp_path, text, said):
    found = problems(text, tmp_path, "coco")
    assert len(found) == (said is not None)
    assert all(problem.startswith(said) for problem in found)


def test_check_coco__bytes_that_are_no_text(tmp_path):
    (tmp_path / "file.json").write_bytes(b'{"images": "\xff"}')
    (problem,) = check_export(tmp_path / "file.json", "coco")[1]
    assert (problem.where, problem.what) == ("file.json", "is not UTF-8 at byte 12")


def test_check_coco__real_files_are_right():
    assert check_export(needs(LVIS_100)) == ("lvis", [])
    for path in sorted(needs(COCO_128).glob("*.json")):
        assert check_export(path) == ("coco", [])


def test_run_lengths__are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for density in (0.001, 0.5, 0.999):
        for _ in range(20):
            mask = np.asfortranarray(rng.random((int(rng.integers(1, 80)), 50)) < density)
            counts = coco_mask.encode(mask.astype(np.uint8))["counts"]
            symbols = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
            pixels = mask.ravel(order="F")
            bounds = np.flatnonzero(np.diff(pixels, prepend=False))
            runs = np.diff(bounds, prepend=0, append=pixels.size).tolist()
            assert _uncompressed(symbols).tolist() == (runs if runs[-1] else runs[:-1])
