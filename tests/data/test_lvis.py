from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vildcli.data.lvis import Annotation, annotation_mask, load_annotations
from vildcli.errors import DataError


def content(**changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 3,
                "bbox": [4, 5, 10, 20],
                "area": 150,
                "segmentation": [[4, 5, 14, 5, 14, 25, 4, 25]],
                "iscrowd": 0,
            }
        ],
    } | changes


def written(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "set.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_load_annotations__coco(tmp_path: Path) -> None:
    found = load_annotations(written(tmp_path, content()))
    (image,) = found.images
    assert (image.id, image.file_name, image.width, image.height) == (7, "a.jpg", 40, 30)
    assert image.negative_ids == frozenset()
    assert found.categories[0].name == "cat"
    (annotation,) = found.annotations[7]
    assert annotation.box == (4, 5, 14, 25)
    assert annotation.area == 150
    assert not annotation.iscrowd


def test_load_annotations__lvis(tmp_path: Path) -> None:
    image = {
        "id": 7,
        "coco_url": "http://images.example/val2017/000000000007.jpg",
        "width": 40,
        "height": 30,
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [4],
    }
    category = {
        "id": 3,
        "name": "cat",
        "synset": "cat.n.01",
        "synonyms": ["cat", "house cat"],
        "def": "a pet",
        "frequency": "f",
    }
    found = load_annotations(written(tmp_path, content(images=[image], categories=[category])))
    assert found.images[0].file_name == "val2017/000000000007.jpg"
    assert found.images[0].negative_ids == {3}
    assert found.images[0].not_exhaustive_ids == {4}
    assert found.categories[0].synonyms == ("house cat",)
    assert found.categories[0].frequency == "f"


def annotation_with(**changes: Any) -> list[dict[str, Any]]:
    return [content()["annotations"][0] | changes]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": annotation_with(image_id=8)},
         "annotations[0] has the image_id 8, which the file does not define."),
        ({"annotations": annotation_with(category_id=9)},
         "annotations[0] has the category_id 9, which the file does not define."),
        ({"annotations": annotation_with(bbox=[1, 2, 3])},
         "annotations[0] has the bbox [1, 2, 3], not four numbers x, y, width, height."),
        ({"annotations": annotation_with(bbox=[1, 2, 3, float("nan")])},
         "annotations[0] has the bbox [1, 2, 3, nan], not four numbers x, y, width, height."),
        ({"annotations": annotation_with(id="x")},
         "annotations[0] has the id 'x', not a whole number."),
        ({"annotations": [5]}, "annotations[0] is not an object."),
        ({"images": [{"id": 7, "width": 4, "height": 3}]}, "images[0] has no 'coco_url'."),
        ({"categories": [{"id": 3}]}, "categories[0] has no 'name'."),
    ],
)  # fmt: skip
def test_load_annotations__names_file_and_record(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, content(**changes))
    with pytest.raises(DataError) as caught:
        load_annotations(path)
    assert str(caught.value) == f"{path}, {message}"


def test_load_annotations__refuses_an_id_twice(tmp_path: Path) -> None:
    path = written(tmp_path, content(categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]))
    with pytest.raises(DataError) as caught:
        load_annotations(path)
    assert str(caught.value) == f"{path} has the category id 3 more than once."


@pytest.mark.parametrize("value", [[], {"images": []}], ids=["list", "no annotations"])
def test_load_annotations__refuses_other_json(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match="is not an annotation file: it has no list") as caught:
        load_annotations(written(tmp_path, value))
    assert caught.value.hint == "Name a COCO or LVIS file with images, annotations and categories."


def test_load_annotations__refuses_what_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.json is not JSON: Expecting value"):
        load_annotations(written(tmp_path, "images:"))


def test_load_annotations__says_that_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_annotations(tmp_path / "no.json")
    assert str(caught.value) == f"{tmp_path / 'no.json'} cannot be read: No such file or directory."


def annotation(segmentation: Any) -> Annotation:
    return Annotation(1, 7, 3, (4, 5, 14, 25), 200, segmentation, iscrowd=False)


def expected_mask() -> np.ndarray[Any, Any]:
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:25, 4:14] = True
    return mask


def run_lengths(*, compressed: bool) -> dict[str, Any]:
    mask = np.asfortranarray(expected_mask(), dtype=np.uint8)
    if compressed:
        encoded = coco_mask.encode(mask)
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat))
    return {"size": [30, 40], "counts": np.diff(np.concatenate([[0], edges])).tolist()}


@pytest.mark.parametrize(
    "segmentation",
    [
        [[4, 5, 14, 5, 14, 25, 4, 25]],
        [[4, 5, 9, 5, 9, 25, 4, 25], [9, 5, 14, 5, 14, 25, 9, 25]],
        run_lengths(compressed=True),
        run_lengths(compressed=False),
    ],
    ids=["polygon", "two polygons", "compressed", "run lengths"],
)
def test_annotation_mask__reads_every_form(segmentation: Any) -> None:
    assert np.array_equal(annotation_mask(annotation(segmentation), 30, 40), expected_mask())


def test_annotation_mask__of_a_polygon_of_two_points_is_empty() -> None:
    assert not annotation_mask(annotation([[1, 1, 5, 5]]), 30, 40).any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "Annotation 1 has no segmentation."),
        (run_lengths(compressed=True) | {"size": [9, 9]},
         "The mask of annotation 1 is [9, 9], its image [30, 40]."),
        ({"counts": "x"}, "The segmentation of annotation 1 cannot be read: 'size'."),
    ],
)  # fmt: skip
def test_annotation_mask__refuses(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        annotation_mask(annotation(segmentation), 30, 40)
    assert str(caught.value) == message


def test_reading_needs_no_torch() -> None:
    code = "import sys, vildcli.data.lvis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
