from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from stub_model import draw_images

from vildcli.errors import DataError
from vildcli.labelling.human_files import HumanLabels, match_human_labels
from vildcli.labelling.human_labels import human_boxes
from vildcli.labelling.plan import make_plan
from vildcli.labelling.sources import find_images

Box = tuple[float, float, float, float]


def write_labels(path: Path, boxes: Mapping[str, list[Box]], crowds: int = 0) -> Path:
    """A COCO file: x y w h of each file name; the last `crowds` are crowds."""
    images = [
        {"id": 70 + i, "file_name": name, "width": 24, "height": 16} for i, name in enumerate(boxes)
    ]
    rows = [
        {"image_id": 70 + i, "category_id": 5, "bbox": box, "area": box[2] * box[3]}
        for i, drawn in enumerate(boxes.values())
        for box in drawn
    ]
    first_crowd = len(rows) - crowds
    annotations = [
        {"id": 1 + i, **row, "iscrowd": int(i >= first_crowd)} for i, row in enumerate(rows)
    ]
    content = {"images": images, "annotations": annotations}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "categories": [{"id": 5, "name": "thing"}]}))
    return path


BOX: Box = (1, 2, 10, 5)


def matched(labels: HumanLabels) -> dict[str, str]:
    return {path: image.file_name for (_, path), image in labels.found.items()}


def test_match_human_labels__by_path_from_the_source_or_above_it(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        draw_images(tmp_path / "photos" / folder, 2)
    names = ["a/0000.png", "photos/b/0000.png", "b/0001.png", "gone.png"]
    file = write_labels(tmp_path / "labels.json", {name: [BOX] for name in names})
    labels = match_human_labels(file, find_images([str(tmp_path / "photos")]))
    assert matched(labels) == {
        "a/0000.png": "a/0000.png",
        "b/0000.png": "photos/b/0000.png",
        "b/0001.png": "b/0001.png",
    }
    assert labels.unmatched == 1


def test_match_human_labels__by_a_name_that_is_unique(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos" / "a", 2)
    draw_images(tmp_path / "photos" / "b", 1)
    names = ["/data/0000.png", "/data/0001.png"]
    file = write_labels(tmp_path / "labels.json", {name: [BOX] for name in names})
    labels = match_human_labels(file, find_images([str(tmp_path / "photos")]))
    assert matched(labels) == {"a/0001.png": "/data/0001.png"}  # two are called 0000.png
    assert labels.unmatched == 1


def test_match_human_labels__by_the_bytes_of_files_beside_the_labels(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 3)
    file = write_labels(tmp_path / "people" / "labels.json", {"mine.png": [BOX], "b.png": [BOX]})
    (file.parent / "images").mkdir()
    shutil.copyfile(photos / "0001.png", file.parent / "images" / "mine.png")
    shutil.copyfile(photos / "0002.png", file.parent / "b.png")
    labels = match_human_labels(file, find_images([str(photos)]))
    assert matched(labels) == {"0001.png": "mine.png", "0002.png": "b.png"}


def test_match_human_labels__in_an_archive(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(photos / "0001.png", "in/0001.png")
    file = write_labels(tmp_path / "labels.json", {"in/0001.png": [BOX]})
    labels = match_human_labels(file, find_images([str(tmp_path / "x.tar")]))
    assert matched(labels) == {"x.tar#in/0001.png": "in/0001.png"}


def test_match_human_labels__an_image_without_boxes_is_not_labelled(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2)
    file = write_labels(tmp_path / "labels.json", {"0000.png": [BOX, BOX], "0001.png": []})
    labels = match_human_labels(file, find_images([str(photos)]))
    assert [labels.is_labelled(("photos", f"000{i}.png")) for i in range(2)] == [True, False]
    assert len(labels.drawn(("photos", "0000.png"))) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"x.png": [BOX]}, "None of the 1 labelled images of {} is among the 2 images found."),
        ({"0000.png": []}, "{} has no annotations."),
    ],
)
def test_match_human_labels__nothing_matched_is_an_error(
    tmp_path: Path, names: dict[str, list[Box]], message: str
) -> None:
    file = write_labels(tmp_path / "labels.json", names)
    found = find_images([str(draw_images(tmp_path / "photos", 2))])
    with pytest.raises(DataError) as caught:
        match_human_labels(file, found)
    assert str(caught.value) == message.format(file)


def test_human_boxes__of_a_plan(tmp_path: Path) -> None:
    found = find_images([str(draw_images(tmp_path / "photos", 3))])
    file = write_labels(
        tmp_path / "labels.json", {"0002.png": [BOX, (0, 0, 4, 4)], "0001.png": []}, crowds=1
    )
    boxes = human_boxes(match_human_labels(file, found), make_plan(found.images))
    assert list(boxes) == [3]
    assert torch.equal(boxes[3].boxes, torch.tensor([[1.0, 2, 11, 7], [0, 0, 4, 4]]))
    assert boxes[3].is_crowd.tolist() == [False, True]
    assert boxes[3].size == (24, 16)
