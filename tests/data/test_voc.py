from __future__ import annotations

from pathlib import Path

import pytest

from vildcli.data.voc import is_voc, read_voc
from vildcli.errors import DataError

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def write(folder: Path, stem: str, *objects: tuple[object, ...], size: str = "40 30") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size.split()
    body = "".join(OBJECT.format(*found) for found in objects)
    path = folder / f"{stem}.xml"
    path.write_text(
        f"<annotation><filename>{stem}.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{body}</annotation>"
    )
    return path


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    annotations = tmp_path / "VOC2007" / "Annotations"
    write(annotations, "000002", ("dog", 0, 1, 1, 40, 30))
    write(annotations, "000001", ("person", 1, 5, 6, 14, 25), ("dog", 0, 2, 2, 2, 2))
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("000002\n")
    (lists / "dog_val.txt").write_text("000001 -1\n000002  1\n")
    return tmp_path / "VOC2007"


def test_read_voc__boxes_cover_their_last_pixel(devkit: Path) -> None:
    content = read_voc(devkit)
    assert [row["file_name"] for row in content["images"]] == ["000001.jpg", "000002.jpg"]
    assert content["images"][0] == {"id": 1, "file_name": "000001.jpg", "width": 40, "height": 30}
    rows = content["annotations"]
    assert [row["bbox"] for row in rows] == [[4, 5, 10, 20], [1, 1, 1, 1], [0, 0, 40, 30]]
    assert [row["area"] for row in rows] == [200, 1, 1200]
    assert [row["difficult"] for row in rows] == [1, 0, 0]
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert [row["image_id"] for row in rows] == [1, 1, 2]


def test_read_voc__has_the_twenty_categories_of_voc(devkit: Path) -> None:
    content = read_voc(devkit)
    assert len(content["categories"]) == 20
    assert {12: "dog", 15: "person"}.items() <= {
        row["id"]: row["name"] for row in content["categories"]
    }.items()
    assert [row["category_id"] for row in content["annotations"]] == [15, 12, 12]


def test_read_voc__numbers_other_names_itself(tmp_path: Path) -> None:
    write(tmp_path, "a", ("WBC", 0, 1, 1, 2, 2), ("RBC", 0, 1, 1, 2, 2))
    content = read_voc(tmp_path)
    assert content["categories"] == [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}]


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("Annotations", ["000001.jpg", "000002.jpg"]),
        ("ImageSets/Main/val.txt", ["000002.jpg"]),
        ("ImageSets/Main/dog_val.txt", ["000001.jpg", "000002.jpg"]),
        ("Annotations/000002.xml", ["000002.jpg"]),
    ],
)
def test_read_voc__of_a_folder_a_list_or_one_file(
    devkit: Path, part: str, names: list[str]
) -> None:
    assert is_voc(devkit / part)
    assert [row["file_name"] for row in read_voc(devkit / part)["images"]] == names


def test_read_voc__says_what_is_wrong(devkit: Path, tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            read_voc(path)
        return str(caught.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty) == f"{empty} holds no VOC annotations."
    lists = devkit / "ImageSets" / "Main"
    (lists / "gone.txt").write_text("000009\n")
    missing = devkit / "Annotations" / "000009.xml"
    assert refusal(lists / "gone.txt") == f"{missing} cannot be read: No such file or directory."
    (lists / "none.txt").write_text("\n")
    assert refusal(lists / "none.txt") == f"{lists / 'none.txt'} lists no image."
    bad = write(empty, "a", ("dog", 0, 5, 1, 3, 2))
    assert refusal(bad) == f"{bad}: the box of a dog ends before it begins."
    bad = write(empty, "a", ("dog", 0, "x", 1, 3, 2))
    assert refusal(bad) == f"{bad}: bndbox/xmin is 'x', not a number."
    bad = write(empty, "a", ("", 0, 1, 1, 3, 2))
    assert refusal(bad) == f"{bad}: an object has no name."
    bad = write(empty, "a", size="wide 3")
    assert refusal(bad) == f"{bad}: size/width is 'wide', not a number."
    bad.write_text("<annotation>")
    assert refusal(bad).startswith(f"{bad} is not XML: no element found")
