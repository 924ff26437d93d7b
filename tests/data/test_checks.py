from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from tiny_training import COLUMNS, NOVEL_ID, rewrite, write_images

from vildcli.data.checks import check_training_data
from vildcli.data.lvis import load_annotations
from vildcli.errors import DataError

SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
CORRECT = "Masks are trained on: correct it, or take the annotation out."


def checked(path: Path, *, drop: bool = False, folder: Path | None = None) -> tuple[Any, int]:
    return check_training_data(
        load_annotations(path), folder or path.parent, COLUMNS, drop_degenerate=drop
    )


def refusal(path: Path, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        checked(path, **options)
    return caught.value


def changed(path: Path, number: int, **values: Any) -> Path:
    """Set values of the annotation with an id; 1 is base, 3 novel, all of image 1."""

    def change(content: dict[str, Any]) -> None:
        content["annotations"][number - 1] |= values

    return rewrite(path, change)


def run_lengths(height: int = 50, width: int = 60, *, compressed: bool = True) -> dict[str, Any]:
    mask = np.asfortranarray(np.ones((height, width), np.uint8))
    encoded = coco_mask.encode(mask)
    counts = encoded["counts"].decode() if compressed else [0, height * width]
    return {"size": [height, width], "counts": counts}


def test_sound_data__keeps_what_is_trained_on(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    changed(path, 4, iscrowd=1, bbox=[0, 0, 0, 0], segmentation=run_lengths())
    before = load_annotations(path)
    found, dropped = checked(path)
    assert dropped == 0
    assert (found.images, found.categories, found.path) == (
        before.images,
        before.categories,
        before.path,
    )
    kept = {i: [a.id for a in group] for i, group in found.annotations.items()}
    assert kept == {1: [1, 2], 2: [5], 3: [7, 8], 4: [10, 11]}


def test_novel_annotations__may_hold_anything(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    expected = checked(path)
    wrecks: list[dict[str, Any]] = [
        {"bbox": [0, 0, 0, 0]},
        {"bbox": [-9e9, 5, -1, 9e9], "segmentation": None},
        {"segmentation": [[1, 2, 3], "x"]},
        {"segmentation": {"size": [1, 2], "counts": "?"}},
    ]

    def nonsense(content: dict[str, Any]) -> None:
        novel = [row for row in content["annotations"] if row["category_id"] == NOVEL_ID]
        for row, wreck in zip(novel, wrecks, strict=True):
            row |= wreck

    assert checked(rewrite(path, nonsense)) == expected
    # The same nonsense in base annotations is refused, each of them.
    for wreck in wrecks:
        assert str(refusal(changed(write_images(tmp_path), 1, **wreck))).startswith(f"{path}: ")


def test_missing_files__are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    for name in ("1.png", "3.png"):
        (tmp_path / name).unlink()
    error = refusal(path)
    assert str(error) == (
        f"{path}: 2 of 4 image files are not in {tmp_path}; the first is 1.png (image 2)."
    )
    assert error.hint == "Name the folder that the annotations' file names start from."


def named_in(folder: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = f"{folder}/{image['file_name']}"

    return change


def test_missing_files__says_where_they_are(tmp_path: Path) -> None:
    path = write_images(tmp_path / "train")
    error = refusal(path, folder=tmp_path)
    assert error.hint == "Name the folder that the annotations' file names start from."
    rewrite(path, named_in("train"))
    checked(path, folder=tmp_path)
    error = refusal(path)
    assert str(error) == (
        f"{path}: 4 of 4 image files are not in {tmp_path / 'train'}; "
        "the first is train/0.png (image 1)."
    )
    assert error.hint == f"It is in {tmp_path}: name that folder."
    rewrite(path, named_in("elsewhere"))
    assert refusal(path).hint == "It is there as 0.png: correct the file names."


def test_missing_files__are_looked_up_by_listing_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_images(tmp_path, count=20)
    listed: list[Path] = []
    list_folder = os.listdir
    monkeypatch.setattr(os, "listdir", lambda p: listed.append(p) or list_folder(p))
    monkeypatch.setattr(Path, "exists", lambda self: pytest.fail(f"asked for {self}"))
    checked(path)
    assert listed == [tmp_path]


def test_missing_files__another_spelling_that_the_disk_knows_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_images(tmp_path)
    monkeypatch.setattr(os, "listdir", lambda p: ["0.PNG", "1.png", "2.png", "3.png"])
    checked(path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"bbox": [4, 5, 0, 20]}, "whose box is 0 x 20 pixels"),
        ({"bbox": [4, 5, 10, -0.5]}, "whose box is 10 x -0.5 pixels"),
        ({"bbox": [4, 5, 10, 0], "segmentation": None}, "whose box is 10 x 0 pixels"),
        ({"segmentation": [[1, 1, 5, 5]]}, "whose polygons have fewer than three points"),
        ({"segmentation": []}, "whose polygons have fewer than three points"),
    ],
)
def test_objects_without_area__are_refused_or_dropped(
    tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    path = changed(write_images(tmp_path), 7, bbox=[1, 1, 0, 0])
    changed(path, 2, **values)
    error = refusal(path)
    assert str(error) == (
        f"{path}: objects of base categories without area: 2; the first is annotation 2 of "
        f"image 1 (0.png), {reason}."
    )
    assert error.hint == "Give --drop-degenerate to leave them out, or correct the file."
    found, dropped = checked(path, drop=True)
    assert dropped == 2
    assert [a.id for group in found.annotations.values() for a in group] == [1, 4, 5, 8, 10, 11]
    assert len(found.images) == 4


@pytest.mark.parametrize(
    ("segmentation", "fault"),
    [
        (None, "is missing"),
        ("abc", "is neither a list of polygons nor a run-length encoding"),
        ([4, 5, 14, 5, 14, 25], "has a polygon that is not a list of numbers"),
        ([["4", 5, 14, 5, 14, 25]], "has a polygon that is not a list of numbers"),
        ([[4, 5, 14, 5, 14, 25], [1, 2, 3, 4, 5, 6, 7]],
         "has a polygon of 7 numbers, which are not pairs of x and y"),
        ([[4, 5, 14, 5, 14, float("nan")]], "has a polygon with a number that is not finite"),
        (run_lengths(60, 50), "is of [60, 50] pixels, its image of [50, 60]"),
        ({"counts": "abc"}, "is of None pixels, its image of [50, 60]"),
        ({"size": [50, 60]}, "has no run lengths"),
        ({"size": [50, 60], "counts": [7, 2992]},
         "has run lengths of 2999 pixels in all, its image has 3000"),
        ({"size": [50, 60], "counts": [3001, -1]}, "has run lengths that are not whole numbers"),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_read__are_refused(
    tmp_path: Path, segmentation: Any, fault: str
) -> None:
    path = changed(write_images(tmp_path), 5, segmentation=segmentation)
    error = refusal(path, drop=True)
    assert str(error) == (f"{path}: the segmentation of annotation 5 of image 2 (1.png) {fault}.")
    assert error.hint == CORRECT


@pytest.mark.parametrize(
    "segmentation",
    [
        run_lengths(),
        run_lengths(compressed=False),
        [[4, 5, 14.5, 5, 14, 25]],
        [[1, 1, 5, 5], [4, 5, 14, 5, 14, 25]],  # a line beside a polygon, as COCO has them
    ],
    ids=["compressed", "run lengths", "polygon", "polygon and line"],
)
def test_masks__of_every_readable_form_pass(tmp_path: Path, segmentation: Any) -> None:
    checked(changed(write_images(tmp_path), 5, segmentation=segmentation))


def test_no_base_annotation__is_refused(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"] = [content["annotations"][2]]

    path = rewrite(write_images(tmp_path), change)
    error = refusal(path)
    assert str(error) == f"{path} has no annotation of a base category."
    assert error.hint == "See --base: it says which categories are trained on."


def test_no_base_annotation__is_left_after_dropping(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            row["bbox"] = [0, 0, 0, 0]

    path = rewrite(write_images(tmp_path), change)
    assert str(refusal(path, drop=True)) == f"{path} has no annotation of a base category."


@pytest.mark.parametrize(
    "place", ["lvis/lvis_val_100.json", "images/coco128/coco_json/instances_train2017_128.json"]
)
def test_real_annotations__pass(tmp_path: Path, place: str) -> None:
    path = SHARED / place
    if not path.exists():
        pytest.skip(f"no shared data at {SHARED}; set VILDCLI_SHARED_DATA")
    annotations = load_annotations(path)
    for image in annotations.images:
        (tmp_path / image.file_name).touch()
    ids = [category.id for category in annotations.categories]
    found, dropped = check_training_data(annotations, tmp_path, ids, drop_degenerate=False)
    assert dropped == 0
    assert sum(map(len, found.annotations.values())) > 900


def test_checking_needs_no_torch() -> None:
    modules = "vildcli.data.checks, vildcli.data.base_categories"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
