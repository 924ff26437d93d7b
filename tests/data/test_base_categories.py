from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from vildcli.data.base_categories import base_flags
from vildcli.errors import DataError
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary

CAT = Category(1, "cat", synset="cat.n.01")
DOG = Category(2, "dog", synset="dog.n.01", synonyms=("hound",))
BAT = Category(3, "bat_(animal)")
CLUB = Category(4, "bat_(sports)")


def written(tmp_path: Path, *entries: Any) -> str:
    rows = [entry if isinstance(entry, dict) else {"name": entry} for entry in entries]
    path = tmp_path / "base.yaml"
    path.write_text(
        yaml.safe_dump({"format": "vildcli-vocabulary/1", "name": "base", "categories": rows})
    )
    return str(path)


def refusal(categories: list[Category], base: str | None) -> tuple[str, str | None]:
    with pytest.raises(DataError) as caught:
        base_flags(categories, base)
    return str(caught.value), caught.value.hint


def test_a_list__by_name_synonym_or_synset(tmp_path: Path) -> None:
    base = written(tmp_path, "hound", {"name": "kitty", "synset": "cat.n.01"}, "giraffe")
    assert base_flags([CAT, DOG, BAT], base) == [True, True, False]


@pytest.mark.parametrize(
    ("whole", "base", "count"),
    [("lvis-v1", "lvis-866", 866), ("coco", "coco-48", 48), ("coco", "coco-65", 65)],
)
def test_a_published_split__is_its_own(whole: str, base: str, count: int) -> None:
    categories = load_vocabulary(whole).categories
    flags = base_flags(categories, base)
    assert sum(flags) == count
    if whole == "lvis-v1":
        assert flags == base_flags(categories, None)  # its frequencies say the same


def test_all__makes_every_category_base() -> None:
    assert base_flags([CAT, CAT, BAT], "all") == [True] * 3
    rare = Category(5, "yak", frequency="r")
    assert base_flags([rare], "all") == [True]


def test_frequencies__decide_without_a_list() -> None:
    found = [Category(i, name, frequency=name) for i, name in enumerate("fcr", 1)]
    assert base_flags(found, None) == [True, True, False]
    assert refusal([*found, CAT], None) == (
        "The annotations have no LVIS frequencies, so base and novel are unknown.",
        "Name the base categories: --base coco-48, all, or a vocabulary file.",
    )


def test_a_list__that_names_nothing_is_refused(tmp_path: Path) -> None:
    base = written(tmp_path, "giraffe")
    assert refusal([CAT, DOG], base) == (
        f"The base list '{base}' names none of the 2 categories of the annotations.",
        "It must hold their names, synonyms or synsets; `all` makes every category base.",
    )


def test_a_name_of_two_meanings__is_refused_unless_both_are_listed(tmp_path: Path) -> None:
    base = written(tmp_path, "cat", "bat")
    assert refusal([CAT, BAT, CLUB], base) == (
        f"'bat' of the base list '{base}' means two categories of the annotations: "
        "'bat_(animal)' and 'bat_(sports)'.",
        "Give the list both names, or take out the synonym or synset that is wrong.",
    )
    base = written(tmp_path, "bat", "bat (animal)", "bat (sports)")
    assert base_flags([CAT, BAT, CLUB], base) == [False, True, True]


def test_a_category_that_is_base_and_not__is_refused(tmp_path: Path) -> None:
    base = written(tmp_path, "dog", {"name": "kitty", "synset": "cat.n.01", "base": False})
    expected = (
        f"'cat' is both: in the base list '{base}' as 'kitty', and `base: false`.",
        "Take it out of the list, or take `base: false` away.",
    )
    assert refusal([CAT, DOG], base) == expected
    base = written(tmp_path, "kitty", "dog")
    denied = Category(1, "cat", synonyms=("kitty",), base=False)
    assert refusal([denied, DOG], base) == expected


SAME = "Put both on one side. If they do differ, their synonyms or synsets must."


@pytest.mark.parametrize(
    ("base", "novel"),
    [
        (CAT, Category(9, "moggy", synset="cat.n.01")),
        (DOG, Category(9, "hound", synset="hound.n.01")),
        (Category(8, "bus"), Category(9, "bus_(vehicle)")),
    ],
    ids=["synset", "synonym", "qualified name"],
)
def test_base_and_novel_that_are_the_same__are_refused(base: Category, novel: Category) -> None:
    pairs = ((base, "f"), (novel, "r"), (BAT, "c"))
    common = [replace(category, frequency=frequency) for category, frequency in pairs]
    message = (
        f"'{base.name}' counts as base and '{novel.name}' as novel, but they are the same thing."
    )
    assert refusal(common, None) == (message, SAME)
    assert refusal(common[::-1], None) == (message, SAME)
    assert base_flags(common, "all") == [True] * 3


def test_base_and_novel_under_a_wider_synset__differ() -> None:
    """CUB's species often carry their group's synset."""
    laysan = Category(1, "Laysan Albatross", synset="albatross.n.02", frequency="f")
    sooty = Category(2, "Sooty Albatross", synset="albatross.n.02", frequency="r")
    assert base_flags([laysan, sooty], None) == [True, False]
    any_ = Category(3, "albatross", synset="albatross.n.02", frequency="f")
    assert refusal([laysan, sooty, any_], None)[0] == (
        "'albatross' counts as base and 'Sooty Albatross' as novel, but they are the same thing."
    )
