from __future__ import annotations

from pathlib import Path

import pytest

from vildcli.errors import DataError
from vildcli.teacher.known_names import known_names
from vildcli.vocabulary.category import Category

CATEGORIES = (
    Category(1, "apple"),
    Category(2, "pear", synonyms=("anjou",)),
    Category(3, "plum"),
)
IS_BASE = (True, True, False)


def listed(path: Path, *names: str) -> str:
    path.write_text("\n".join(names) + "\n")
    return str(path)


def test_base_and_all() -> None:
    base = known_names("base", CATEGORIES, IS_BASE)
    assert [c.name for c in base.categories] == ["apple", "pear"]
    assert base.is_base == (True, True)
    every = known_names("all", CATEGORIES, IS_BASE)
    assert (every.categories, every.is_base) == (CATEGORIES, IS_BASE)
    assert every.as_settings() | {"fingerprint": ""} == {
        "which": "all",
        "count": 3,
        "beyond_base": 1,
        "fingerprint": "",
    }
    assert every.as_settings()["fingerprint"] != base.as_settings()["fingerprint"]


def test_a_file_may_hold_more_names_and_other_spellings(tmp_path: Path) -> None:
    found = known_names(
        listed(tmp_path / "n.txt", "kiwi", "Anjou", "apple", "fig"), CATEGORIES, IS_BASE
    )
    assert [c.name for c in found.categories] == ["kiwi", "Anjou", "apple", "fig"]
    assert found.is_base == (False, True, True, False)
    assert found.which == str(tmp_path / "n.txt")


def test_a_file_that_misses_base_categories_is_refused(tmp_path: Path) -> None:
    reference = listed(tmp_path / "n.txt", "plum", "pear")
    with pytest.raises(DataError) as error:
        known_names(reference, CATEGORIES, IS_BASE)
    assert str(error.value) == f"The names '{reference}' miss 1 of 2 base categories: apple."
    assert error.value.hint == (
        "What is known at training time holds the base categories at least: add them, or give "
        "--names base or all."
    )


def test_many_missing_names_are_cut_short(tmp_path: Path) -> None:
    categories = [Category(i, f"thing{i}x") for i in range(1, 9)]
    reference = listed(tmp_path / "n.txt", "thing1x")
    with pytest.raises(DataError, match=r"miss 7 of 8 .*: thing2x, .*, thing6x, …\.$"):
        known_names(reference, categories, [True] * 8)


def test_one_name_is_no_choice() -> None:
    with pytest.raises(DataError) as error:
        known_names("base", CATEGORIES, (True, False, False))
    assert str(error.value) == (
        "The names 'base' are 1, and a teacher without a choice is sure of everything."
    )
