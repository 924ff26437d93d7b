from __future__ import annotations

from vildcli.vocabulary.category import Category
from vildcli.vocabulary.groups import category_groups


def groups(*categories: Category) -> list[set[str]]:
    numbers = category_groups(categories)
    assert len(numbers) == len(categories)
    return [
        {c.name for c, n in zip(categories, numbers, strict=True) if n == number}
        for number in dict.fromkeys(numbers)
    ]


def test_strangers_stay_apart() -> None:
    assert groups(Category(1, "apple"), Category(2, "bus")) == [{"apple"}, {"bus"}]


def test_a_parent_and_its_kinds_in_any_order() -> None:
    fruit, apple = Category(1, "fruit"), Category(2, "apple", parent="fruit")
    braeburn = Category(3, "braeburn", parent="apple")
    for order in ((fruit, apple, braeburn), (braeburn, fruit, apple), (apple, braeburn, fruit)):
        assert groups(*order, Category(9, "bus")) == [{"fruit", "apple", "braeburn"}, {"bus"}]


def test_a_parent_that_is_not_in_the_list_joins_nothing() -> None:
    apple, pear = (Category(i, n, parent="fruit") for i, n in ((1, "apple"), (2, "pear")))
    assert groups(apple, pear) == [{"apple"}, {"pear"}]


def test_parents_that_are_not_looked_for_lead_on_to_the_next_category_above() -> None:
    bird, gull = Category(1, "bird", parent="animal"), Category(2, "gull", parent="larid")
    tern, cow = Category(3, "tern", parent="larid"), Category(4, "cow", parent="animal")
    parents = (Category(5, "larid", parent="seabird"), Category(6, "seabird", parent="bird"))
    above = (*parents, Category(7, "animal"))
    for order in ((bird, gull, tern, cow), (cow, tern, gull, bird)):
        numbers = dict(zip(order, category_groups(order, above), strict=True))
        assert numbers[bird] == numbers[gull] == numbers[tern] != numbers[cow]
    assert len(set(category_groups((gull, tern), above))) == 2  # no bird: nothing joins them


def test_a_circle_of_parents_that_are_not_looked_for_ends() -> None:
    hen = Category(1, "hen", parent="a")
    parents = (Category(2, "a", parent="b"), Category(3, "b", parent="a"))
    assert category_groups((hen,), parents) == [0]


def test_synonyms_are_one() -> None:
    couch = Category(1, "couch", synonyms=("settee",))
    sofa = Category(2, "sofa", synonyms=("settee",))
    assert groups(couch, Category(3, "lamp"), sofa) == [{"couch", "sofa"}, {"lamp"}]


def test_a_circle_of_parents_is_one_group() -> None:
    hen, egg = Category(1, "hen", parent="egg"), Category(2, "egg", parent="hen")
    assert groups(hen, egg, Category(3, "self", parent="self")) == [{"hen", "egg"}, {"self"}]
