from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.tree import branches, circles


def test_entries_stand_behind_their_parents_with_counts() -> None:
    categories = (
        Category(1, "gull", parent="bird"),
        Category(2, "sofa"),
        Category(3, "Herring Gull", parent="gull"),
        Category(4, "tern", parent="bird"),
        Category(5, "lost", parent="nowhere"),
    )
    parents = (Category(6, "animal"), Category(7, "bird", parent="animal"))
    found = branches(Vocabulary("v", categories, parents=parents))
    assert [(b.entry.name, b.depth, b.below, b.is_parent) for b in found] == [
        ("sofa", 0, 0, False),
        ("lost", 0, 0, False),
        ("animal", 0, 3, True),
        ("bird", 1, 3, True),
        ("gull", 2, 1, False),
        ("Herring Gull", 3, 0, False),
        ("tern", 2, 0, False),
    ]


def test_circles_are_found_once_each() -> None:
    above = {"a": "b", "b": "c", "c": "b", "self": "self", "free": None, "x": "free"}
    entries = [Category(i, n, parent=p) for i, (n, p) in enumerate(above.items(), 1)]
    assert circles(entries) == [("b", "c"), ("self",)]


@given(st.lists(st.integers(-1, 11), min_size=1, max_size=12))
def test_every_entry_has_one_place_whatever_the_parents(above: list[int]) -> None:
    categories = tuple(
        Category(i + 1, str(i), parent=None if p < 0 else str(p)) for i, p in enumerate(above)
    )
    found = branches(Vocabulary("v", categories))
    assert sorted(b.entry.id for b in found) == [c.id for c in categories]
    tops = [b.below + 1 for b in found if b.depth == 0]
    assert sum(tops) == len(categories)
    for circle in circles(categories):
        assert all(categories[int(a)].parent == b for a, b in itertools.pairwise(circle))
        assert categories[int(circle[-1])].parent == circle[0]


def test_a_deep_tree_does_not_overflow() -> None:
    deep = tuple(Category(i, str(i), parent=str(i - 1) if i > 1 else None) for i in range(1, 5000))
    found = branches(Vocabulary("v", deep))
    assert (found[-1].depth, found[0].below) == (4998, 4998)
