from __future__ import annotations

from dataclasses import replace

import pytest

from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.differences import Difference, differences
from vildcli.vocabulary.files import load_vocabulary

BEFORE = Vocabulary(
    "fruit",
    (Category(1, "apple"), Category(2, "pear"), Category(3, "fig", threshold=0.5)),
    {"colour": ("red", "green"), "size": ("big",)},
    ("leaf",),
)


def test_equal_vocabularies_differ_in_nothing_whatever_their_order() -> None:
    assert differences(BEFORE, BEFORE) == []
    turned = replace(BEFORE, categories=BEFORE.categories[::-1], name="other")
    assert differences(BEFORE, turned) == []


def test_each_kind_of_change() -> None:
    after = Vocabulary(
        "fruit",
        (
            Category(1, "eating apple", synonyms=("apple",)),  # renamed: its id stayed
            Category(7, "pear", parent="fruit"),  # its name stayed
            Category(4, "plum"),
        ),
        {"colour": ("red", "blue"), "taste": ("sweet",)},
        ("bark",),
        parents=(Category(9, "fruit"),),
    )
    assert differences(BEFORE, after) == [
        Difference("category", "changed", "eating apple", "name", "apple", "eating apple"),
        Difference("category", "changed", "eating apple", "synonyms", [], ["apple"]),
        Difference("category", "changed", "pear", "id", 2, 7),
        Difference("category", "changed", "pear", "parent", None, "fruit"),
        Difference("category", "removed", "fig"),
        Difference("category", "added", "plum"),
        Difference("parent", "added", "fruit"),
        Difference("attribute set", "removed", "size"),
        Difference("attribute set", "added", "taste"),
        Difference("attribute of colour", "removed", "green"),
        Difference("attribute of colour", "added", "blue"),
        Difference("negative", "removed", "leaf"),
        Difference("negative", "added", "bark"),
    ]


@pytest.mark.parametrize(
    ("a", "b"), [("coco", "coco-48"), ("lvis-v1", "lvis-866"), ("coco", "voc")]
)
def test_going_back_undoes_it(a: str, b: str) -> None:
    first, second = load_vocabulary(a), load_vocabulary(b)
    there = [
        (d.what, d.change, d.name) for d in differences(first, second) if d.change != "changed"
    ]
    back = [(d.what, d.change, d.name) for d in differences(second, first) if d.change != "changed"]
    turned = {"added": "removed", "removed": "added"}
    assert sorted((w, turned[c], n) for w, c, n in back) == sorted(there)


def test_the_split_of_coco_is_a_part_of_it() -> None:
    found = differences(load_vocabulary("coco"), load_vocabulary("coco-48"))
    assert {(d.change, d.field) for d in found if d.change != "changed"} == {("removed", None)}
    assert sum(d.change == "removed" for d in found) == 32
