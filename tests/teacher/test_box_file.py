from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vildcli.data.lvis import AnnotatedImage, AnnotationSet
from vildcli.errors import DataError
from vildcli.teacher.box_file import read_boxes

HINT = "Give a COCO results list (image_id, bbox, score) or a COCO annotation file."
DATA = AnnotationSet(
    Path("data.json"),
    (AnnotatedImage(7, "train/a.jpg", 60, 50), AnnotatedImage(9, "train/b.jpg", 60, 50)),
    (),
    {},
)


def row(image_id: int, bbox: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": image_id, "bbox": bbox, **more}


RESULTS = [
    row(7, [1, 2, 10, 20], score=0.2, category_id=5),
    row(9, [0, 0, 5, 5], score=0.3),
    row(7, [3, 4, 30, 40], score=0.9),
    row(7, [5, 6, 0.5, 0.25], score=0.5),
]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def refusal(path: Path, content: Any) -> DataError:
    with pytest.raises(DataError) as error:
        read_boxes(write(path, content), DATA, count=300)
    return error.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "boxes.json"


def test_results__by_id_best_first(path: Path) -> None:
    boxes = read_boxes(write(path, RESULTS), DATA, count=300)
    assert boxes[7].tolist() == [[3, 4, 33, 44], [5, 6, 5.5, 6.25], [1, 2, 11, 22]]
    assert boxes[9].tolist() == [[0, 0, 5, 5]]


def test_results__at_most_so_many(path: Path) -> None:
    boxes = read_boxes(write(path, RESULTS), DATA, count=2)
    assert boxes[7].tolist() == [[3, 4, 33, 44], [5, 6, 5.5, 6.25]]


def test_annotations__by_file_name_whatever_the_ids(path: Path) -> None:
    content = {
        "images": [
            {"id": 9, "file_name": "train/a.jpg"},  # the data's 7
            {"id": 7, "coco_url": "http://images.cocodataset.org/train/b.jpg"},
            {"id": 3, "file_name": "train/unasked.jpg"},
        ],
        "annotations": [
            row(9, [1, 1, 2, 2]),
            row(9, [2, 2, 2, 2]),
            row(9, [9, 9, 9, 9], iscrowd=1),
            row(3, [8, 8, 8, 8]),
            row(9, [3, 3, 2, 2], score=0.5),
        ],
    }
    boxes = read_boxes(write(path, content), DATA, count=300)
    assert boxes[7].tolist() == [[1, 1, 3, 3], [2, 2, 4, 4], [3, 3, 5, 5]]
    assert boxes[9].shape == (0, 4)  # listed, and nothing found on it
    assert set(boxes) == {7, 9}


def test_annotations__by_a_unique_last_part(path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "elsewhere/b.jpg"}],
        "annotations": [row(1, [1, 1, 2, 2]), row(2, [2, 2, 2, 2])],
    }
    boxes = read_boxes(write(path, content), DATA, count=300)
    assert boxes[7].tolist() == [[1, 1, 3, 3]]


@pytest.mark.parametrize(
    "bbox",
    [
        None,
        "wide",
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, float("nan"), 4],
        [float("inf"), 2, 3, 4],
        [1, 2, -3, 4],
        [1, 2, "a", 4],
        7,
    ],
)
def test_a_bbox_that_is_none(path: Path, bbox: Any) -> None:
    error = refusal(path, [RESULTS[0], row(9, bbox, score=0.5)])
    assert str(error) == (
        f"{path}, row 1 has the bbox {bbox!r}, not four numbers x, y, width, height."
    )
    assert error.hint == HINT


@pytest.mark.parametrize("score", [None, float("nan"), "high"])
def test_a_score_that_is_none(path: Path, score: Any) -> None:
    error = refusal(path, [row(7, [1, 2, 3, 4], score=score)])
    assert str(error) == f"{path}, row 0 has the score {score!r}, not a number."


def test_results_need_scores(path: Path) -> None:
    assert str(refusal(path, [row(7, [1, 2, 3, 4])])) == (
        f"{path}, row 0 has the score None, not a number."
    )


@pytest.mark.parametrize("bad", [5, {"bbox": [1, 2, 3, 4]}, {"image_id": "7"}])
def test_a_row_without_an_image(path: Path, bad: Any) -> None:
    assert str(refusal(path, [bad])) == (f"{path}, row 0 has no image_id that is a whole number.")
    found = refusal(path, {"images": [], "annotations": [bad]})
    assert str(found) == f"{path}, annotations[0] has no image_id that is a whole number."
    assert str(refusal(path, {"images": [5], "annotations": []})) == (
        f"{path}, images[0] has no id that is a whole number."
    )


def test_results_of_other_data(path: Path) -> None:
    error = refusal(path, [*RESULTS, row(8, [1, 2, 3, 4], score=1), row(10, [1, 2, 3, 4], score=1)])
    assert str(error) == (
        f"{path} has boxes of 2 images that data.json does not have (first: image_id 8)."
    )
    assert error.hint == "A results list is matched by image id: give one that was made for --data."


def test_images_without_boxes(path: Path) -> None:
    error = refusal(path, RESULTS[:1])
    assert str(error) == f"{path} has no box of 1 of 2 images of data.json (first: train/b.jpg)."
    assert error.hint == "Make boxes for all; an annotation file may list an image that has none."
    listed = {"images": [{"id": 1, "file_name": "b.jpg"}], "annotations": [row(1, [1, 2, 3, 4])]}
    assert "has no box of 1 of 2 images of data.json (first: train/a.jpg)" in str(
        refusal(path, listed)
    )


@pytest.mark.parametrize("content", [[], {"images": [], "annotations": []}])
def test_no_boxes_at_all(path: Path, content: Any) -> None:
    error = refusal(path, content)
    assert str(error) == f"{path} has no box of an image of data.json."
    assert error.hint == HINT


@pytest.mark.parametrize(("content", "lacking"), [({}, "images"), (3, "images"), ("x", "images")])
def test_a_file_of_something_else(path: Path, content: Any, lacking: str) -> None:
    error = refusal(path, content)
    assert str(error) == f"{path} is not a file of boxes: it has no list '{lacking}'."
    assert str(refusal(path, {"images": []})) == (
        f"{path} is not a file of boxes: it has no list 'annotations'."
    )


def test_a_file_that_cannot_be_read(path: Path) -> None:
    path.write_text("{")
    with pytest.raises(DataError, match="is not JSON: "):
        read_boxes(path, DATA, count=300)
    with pytest.raises(DataError, match="cannot be read: No such file or directory"):
        read_boxes(path.with_name("none.json"), DATA, count=300)
