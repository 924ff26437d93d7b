from __future__ import annotations

import shutil

import pytest
from wrong_exports import edit, said


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("data.yaml", "train: images\n", "", "data.yaml has no train, which Ultralytics needs"),
        (
            "data.yaml",
            "  0: apple",
            "  9: apple",
            "data.yaml has names that do not count from 0 on",
        ),
        ("data.yaml", "names:", "nc: 7\nnames:", "data.yaml has nc 7 for 4 names"),
        ("data.yaml", "names:", "other:", "data.yaml has no names"),
        ("data.yaml", "- 1203\n", "", "data.yaml has vildcli_ids that are not 4"),
        ("data.yaml", "val: images", "val: [", "data.yaml is no YAML: "),
        ("labels/a.txt", "0 ", "4 ", "labels/a.txt:1 has the class '4' of 4 from 0 on"),
        ("labels/a.txt", "0 ", "-1 ", "labels/a.txt:1 has the class '-1' of 4 from 0 on"),
        ("labels/a.txt", "0 0.234375", "0 x", "labels/a.txt:1 has 'x', not a number"),
        ("labels/a.txt", "0 0.234375", "0 nan", "labels/a.txt:1 has 'nan', not a number"),
        ("labels/a.txt", "0 0.234375", "0 1.5", "labels/a.txt:1 has 1.5, not a share in 0 to 1"),
        ("labels/a.txt", "0 0.234375", "0 1", "labels/a.txt:1 has a box that leaves its image"),
        (
            "labels/a.txt",
            "0 0.234375",
            "0",
            "labels/a.txt:1 has 4 columns: neither a box nor a polygon",
        ),
        (
            "labels/deep/a.txt",
            "1 ",
            "1 0.1 0.1 0 0.2\n1 ",
            "labels/deep/a.txt:1 has a box without area",
        ),
        (
            "labels/deep/a.txt",
            "1 ",
            "1 0 0 .1 0 .1 .1\n1 ",
            "labels/deep/a.txt has boxes and polygons, which Ultralytics takes for polygons all",
        ),
        (
            "labels/deep/a.txt",
            "1 ",
            "1 0 0 .1 .1 .2 .2\n1 ",
            "labels/deep/a.txt:1 has a polygon without area",
        ),
    ],
)
def test_check_yolo__one_thing_wrong(copied, file, old, new, problem):
    path = copied("yolo-box")
    edit(path / file, old, new)
    assert any(found.startswith(problem) for found in said(path))


def test_check_yolo__files(copied, tmp_path):
    path = copied("yolo-box")
    (path / "images" / "deep" / "a.png").unlink()
    (path / "labels" / "stray.txt").write_bytes(b"\xff")
    assert said(path) == [
        "labels/deep/a.txt has no image",
        "labels/stray.txt has no image",
        "labels/stray.txt is not UTF-8 at byte 0",
    ] or said(path) == [
        "labels/stray.txt has no image",
        "labels/stray.txt is not UTF-8 at byte 0",
        "labels/deep/a.txt has no image",
    ]
    shutil.rmtree(path / "images")
    assert said(path / "data.yaml") == ["labels/stray.txt is not UTF-8 at byte 0"]
    shutil.rmtree(path / "labels")
    assert said(path) == ["labels is no folder"]


def test_check_yolo__whatever_yaml_stands_there(copied):
    path = copied("yolo-box")
    for value in ("[]", "3", "{names: 3}", "{names: [1, 2], nc: x}", "{names: {a: b}}", "a: !!x b"):
        (path / "data.yaml").write_text(value)
        assert said(path)
