from __future__ import annotations

import pytest

from vildcli.data.matching import ImageFile, match_categories, match_images
from vildcli.vocabulary.category import Category


def files(*paths: str, start: int = 1) -> list[ImageFile]:
    return [ImageFile(i, (path,)) for i, path in enumerate(paths, start)]


def test_match_images__by_path_and_never_by_id() -> None:
    mine = files("b.jpg", "a.jpg", "deep/c.jpg")
    assert match_images(mine, files("a.jpg", "b.jpg", "deep/c.jpg")) == {1: 2, 2: 1, 3: 3}


def test_match_images__by_a_file_name_that_is_there_once() -> None:
    mine = files("1.jpg", "2.jpg")
    assert match_images(mine, files("val2017/2.jpg", "val2017/1.jpg")) == {1: 2, 2: 1}


def test_match_images__leaves_out_a_name_that_is_there_twice() -> None:
    truth = files("x/1.jpg", "y/1.jpg", start=7)
    assert match_images(files("1.jpg"), truth) == {}
    assert match_images(files("x/1.jpg", "z/1.jpg"), truth) == {1: 7}


def test_match_images__by_a_second_spelling_where_sources_share_paths() -> None:
    mine = [ImageFile(1, ("1.jpg", "left/1.jpg")), ImageFile(2, ("1.jpg", "right/1.jpg"))]
    assert match_images(mine, files("right/1.jpg", "left/1.jpg")) == {1: 2, 2: 1}


def test_match_images__by_hash_only_where_names_fail() -> None:
    asked: list[int] = []

    def hash_of_truth(image_id: int) -> str | None:
        asked.append(image_id)
        return {11: "aa", 12: "bb", 13: None}[image_id]

    found = match_images(
        files("same.jpg", "renamed.jpg", "gone.jpg"),
        files("same.jpg", "b.jpg", "c.jpg", "d.jpg", start=10),
        hash_of_image=lambda i: {2: "bb", 3: "cc"}[i],
        hash_of_truth=hash_of_truth,
    )
    assert found == {1: 10, 2: 12}
    assert asked == [11, 12, 13]


def test_match_images__gives_no_truth_twice() -> None:
    mine = [ImageFile(1, ("a.jpg",)), ImageFile(2, ("copy/a2.jpg",))]
    found = match_images(
        mine, files("a.jpg", start=5), hash_of_image=lambda i: "aa", hash_of_truth=lambda i: "aa"
    )
    assert found == {1: 5}
    mine = [ImageFile(1, ("left/1.jpg",)), ImageFile(2, ("1.jpg", "left/1.jpg"))]
    assert match_images(mine, files("left/1.jpg", start=5)) == {1: 5}


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (Category(3, "Car"), [Category(3, "car"), Category(4, "car (railway)")], 3),
        (Category(9, "car"), [Category(3, "car"), Category(9, "dog")], 3),
        (Category(1, "tv"), [Category(8, "television_set", synonyms=("tv",))], 8),
        (Category(1, "bat"), [Category(8, "bat_(animal)"), Category(9, "bat_(sport)")], None),
        (Category(1, "plum"), [Category(1, "pear")], None),
    ],
    ids=["id-and-name", "name", "synonym", "in-doubt", "same-id-only"],
)
def test_match_categories(mine: Category, theirs: list[Category], expected: int | None) -> None:
    assert match_categories([mine], theirs).get(mine.id) == expected
