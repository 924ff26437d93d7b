from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vildcli.errors import VocabularyError
from vildcli.vocabulary import attributes
from vildcli.vocabulary.attributes import add_attributes, count_joint_names, flatten
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_attributes, load_vocabulary

FRUIT = Vocabulary(
    "fruit",
    (
        Category(1, "apple", "apple.n.01", ("eating_apple",), "a fruit", "f", "food", 0.5, True),
        Category(3, "bell_pepper"),
    ),
    parents=(Category(9, "food"),),
)
COLOUR, SIZE = {"colour": ("red", "green")}, {"size": ("big",)}


def test_sets_stay_beside_the_names() -> None:
    found = add_attributes(add_attributes(FRUIT, COLOUR), {**SIZE, "colour": ("red", "blue")})
    assert found.categories == FRUIT.categories
    assert found.attributes == {"colour": ("red", "green", "blue"), "size": ("big",)}
    assert count_joint_names(found) == 6


def test_lvis_times_eleven_colours() -> None:
    found = add_attributes(load_vocabulary("lvis-v1"), load_attributes("colours"))
    assert count_joint_names(found) == 13_233
    assert len(found) + len(found.attributes["colour"]) == 1_214


def test_joint_names_carry_name_synonyms_and_base_alone() -> None:
    found = flatten(add_attributes(FRUIT, {**SIZE, **COLOUR}))
    assert found.categories == (
        Category(1, "big red apple", synonyms=("big red eating apple",), base=True),
        Category(2, "big green apple", synonyms=("big green eating apple",), base=True),
        Category(5, "big red bell pepper"),
        Category(6, "big green bell pepper"),
    )
    assert (found.attributes, found.parents) == ({}, ())


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=5, unique=True),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_ids_of_joint_names_depend_on_their_own_category_alone(
    ids: list[int], colours: int, sizes: int
) -> None:
    sets = {
        "colour": tuple(f"c{n}" for n in range(colours)),
        "size": tuple(f"s{n}" for n in range(sizes)),
    }
    whole = flatten(Vocabulary("v", tuple(Category(i, f"thing {i}") for i in ids), sets))
    assert len(whole) == len(ids) * colours * sizes
    assert len(whole.by_id()) == len(whole)
    for i, (colour, size) in itertools.product(ids, itertools.product(*sets.values())):
        alone = flatten(Vocabulary("v", (Category(i, f"thing {i}"),), sets))
        (number,) = [c.id for c in alone.categories if c.name == f"{colour} {size} thing {i}"]
        assert whole.by_id()[number].name == f"{colour} {size} thing {i}"


def test_nothing_to_multiply_by() -> None:
    with pytest.raises(VocabularyError) as error:
        flatten(FRUIT)
    assert str(error.value) == "Vocabulary 'fruit' has no attributes to multiply by."
    assert error.value.hint == "Give a set: --attributes colours"


def test_absurd_sizes_are_refused_before_anything_is_made() -> None:
    sets = {f"set{n}": tuple(map(str, range(100))) for n in range(9)}
    with pytest.raises(VocabularyError) as error:
        flatten(Vocabulary("v", FRUIT.categories, sets))
    assert str(error.value) == (
        f"2 names x {' x '.join(f'100 set{n}' for n in range(9))} are "
        "2,000,000,000,000,000,000 joint names; at most 2,000,000 are written."
    )
    assert error.value.hint == (
        "Leave out --flatten: labelling scores the 902 words and multiplies."
    )


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "MOST_NAMES", 4)
    assert len(flatten(add_attributes(FRUIT, COLOUR))) == 4
    with pytest.raises(VocabularyError, match="at most 4 are written"):
        flatten(add_attributes(FRUIT, {"colour": ("a", "b", "c")}))


def test_two_ways_to_one_joint_name_are_refused() -> None:
    mixed = Vocabulary(
        "v", (Category(1, "blue shirt"), Category(2, "shirt")), {"tone": ("light", "light blue")}
    )
    with pytest.raises(VocabularyError, match="has the name light blue shirt more than once"):
        flatten(mixed)
