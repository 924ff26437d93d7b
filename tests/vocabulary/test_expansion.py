from __future__ import annotations

import pytest

from vildcli.errors import VocabularyError
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.expansion import (
    LeftOut,
    add_hypernyms,
    add_kinds,
    add_synonyms,
    with_synsets,
)
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.groups import category_groups
from vildcli.vocabulary.names import match_key, same_things
from vildcli.vocabulary.wordnet import WordNet


def vocabulary(*categories: Category, **more: object) -> Vocabulary:
    return Vocabulary("v", categories, **more)  # type: ignore[arg-type]


def synonyms(found: Vocabulary) -> dict[str, tuple[str, ...]]:
    return {c.name: c.synonyms for c in found.categories}


def parents(found: Vocabulary) -> dict[str, str | None]:
    return {e.name: e.parent for e in (*found.categories, *found.parents)}


def test_with_synsets_settles_bare_names_alone(wordnet: WordNet) -> None:
    before = vocabulary(Category(1, "sofa"), Category(2, "dog", "hotdog.n.01"), Category(3, "zzz"))
    after, meanings = with_synsets(before, wordnet)
    assert [c.synset for c in after.categories] == ["sofa.n.01", "hotdog.n.01", None]
    assert [m.category for m in meanings] == list(before.categories)


def test_synonyms_are_the_words_of_the_synset(wordnet: WordNet) -> None:
    before = vocabulary(Category(1, "Couch", "sofa.n.01", synonyms=("settee",)))
    after, left_out = add_synonyms(before, wordnet)
    assert synonyms(after) == {"Couch": ("settee", "sofa")}
    assert [word.word for word in left_out] == ["lounge"]  # rather a waiting room
    assert same_things([Category(1, "sofa")], after.categories) == [[0]]


def test_a_word_that_means_something_else_alone_is_left_out(wordnet: WordNet) -> None:
    after, left_out = add_synonyms(vocabulary(Category(1, "car", "car.n.01")), wordnet)
    assert synonyms(after) == {"car": ("auto", "automobile", "motorcar")}
    assert [(word.word, word.reason.split(":")[0]) for word in left_out] == [
        ("machine", "machine.n.01")
    ]


def test_a_word_that_is_more_frequent_for_something_unseen_is_left_out(wordnet: WordNet) -> None:
    bat = Category(1, "baseball bat", "baseball_bat.n.01")
    after, left_out = add_synonyms(vocabulary(bat), wordnet)
    assert (synonyms(after), [word.word for word in left_out]) == ({bat.name: ()}, ["lumber"])


def test_a_word_of_two_categories_goes_to_neither(wordnet: WordNet) -> None:
    bag, suitcase = Category(1, "handbag", "bag.n.04"), Category(2, "suitcase", "bag.n.06")
    after, left_out = add_synonyms(vocabulary(bag, suitcase), wordnet)
    assert LeftOut("handbag", "bag", "suitcase") in left_out
    assert LeftOut("suitcase", "bag", "handbag") in left_out
    assert "bag" not in {word for words in synonyms(after).values() for word in words}


@pytest.mark.parametrize(
    "other",
    [
        {"categories": (Category(2, "couch_(paint)"),)},
        {"categories": (Category(2, "bed", synonyms=("Couch",)),)},
        {"parents": (Category(2, "couch"),)},
        {"negatives": ("couch",)},
    ],
)
def test_a_name_that_is_taken_is_left_out(wordnet: WordNet, other: dict[str, object]) -> None:
    more = dict(other)
    categories = (Category(1, "sofa", "sofa.n.01"), *more.pop("categories", ()))  # type: ignore[misc]
    after, left_out = add_synonyms(vocabulary(*categories, **more), wordnet)
    assert synonyms(after)["sofa"] == ()
    assert ("sofa", "couch") in [(word.category, word.word) for word in left_out]


def test_a_qualifier_keeps_the_plain_word_away(wordnet: WordNet) -> None:
    before = vocabulary(Category(1, "mouse_(computer_equipment)", "mouse.n.04"))
    assert synonyms(add_synonyms(before, wordnet)[0]) == {
        "mouse_(computer_equipment)": ("computer mouse",)
    }


def test_a_shared_synset_gives_no_synonyms(wordnet: WordNet) -> None:
    terns = [Category(i, n, "tern.n.01") for i, n in ((1, "Black Tern"), (2, "Least Tern"))]
    assert add_synonyms(vocabulary(*terns), wordnet) == (vocabulary(*terns), ())


@pytest.mark.parametrize("name", ["coco", "lvis-v1", "cub200"])
def test_synonyms_make_no_two_categories_alike(wordnet: WordNet, name: str) -> None:
    before = load_vocabulary(name)
    after, _ = add_synonyms(before, wordnet)
    assert sum(map(len, synonyms(after).values())) > sum(map(len, synonyms(before).values()))
    assert same_things(after.categories, after.categories) == same_things(
        before.categories, before.categories
    )
    assert add_synonyms(after, wordnet)[0] == after


def test_kinds_are_added_below_the_category_that_means_the_thing(wordnet: WordNet) -> None:
    before = vocabulary(Category(7, "kitty", "cat.n.01"), Category(3, "dog"))
    after, kinds = add_kinds(before, wordnet, "cat.n.01", depth=1)
    assert after.categories == (
        *before.categories,
        Category(
            8,
            "domestic cat",
            "domestic_cat.n.01",
            parent="kitty",
            definition=wordnet.sense("domestic_cat.n.01").definition,
        ),
        Category(
            9,
            "wildcat",
            "wildcat.n.03",
            parent="kitty",
            definition=wordnet.sense("wildcat.n.03").definition,
        ),
    )
    assert (kinds.added, kinds.already_there) == (("domestic cat", "wildcat"), ())


def test_the_thing_itself_is_added_where_nobody_means_it(wordnet: WordNet) -> None:
    after, kinds = add_kinds(vocabulary(Category(1, "dog")), wordnet, "cat.n.01", depth=1)
    assert kinds.added == ("cat", "domestic cat", "wildcat")
    assert parents(after) == {"dog": None, "cat": None, "domestic cat": "cat", "wildcat": "cat"}


def test_all_levels_are_added_without_a_depth(wordnet: WordNet) -> None:
    after, kinds = add_kinds(load_vocabulary("coco"), wordnet, "bird.n.01")
    assert len(kinds.added) == 871
    assert len(after) == 80 + 871
    assert [c.id for c in after.categories[80:]] == list(range(91, 91 + 871))
    above = parents(after)
    for name in kinds.added:
        while name != "bird":
            name = above[name] or ""
    assert len({match_key(c.name) for c in after.categories}) == len(after)


def test_categories_that_are_kinds_stay_and_get_a_parent(wordnet: WordNet) -> None:
    before = vocabulary(
        Category(1, "bird", "bird.n.01"),
        Category(2, "duck"),
        Category(3, "chicken", "chicken.n.02", parent="farm"),
    )
    after, kinds = add_kinds(before, wordnet, "bird.n.01")
    assert set(kinds.already_there) == {"duck", "chicken"}
    assert after.categories[1] == Category(2, "duck", "duck.n.01", parent="anseriform bird")
    assert after.categories[2] == before.categories[2]


def test_a_taken_name_gets_its_kind_in_parentheses(wordnet: WordNet) -> None:
    before = vocabulary(Category(1, "bird", "bird.n.01"), Category(2, "crane_(machine)"))
    after, _ = add_kinds(before, wordnet, "bird.n.01")
    (crane,) = [c for c in after.categories if c.synset == "crane.n.05"]
    assert (crane.name, crane.parent) == ("crane (wading bird)", "wading bird")


def test_kinds_of_kinds_make_no_circle(wordnet: WordNet) -> None:
    before = vocabulary(
        Category(1, "bird", "bird.n.01", parent="duck"), Category(2, "duck", "duck.n.01")
    )
    after, _ = add_kinds(before, wordnet, "bird.n.01")
    assert after.categories[:2] == before.categories


def test_kinds_of_what_wordnet_does_not_know(wordnet: WordNet) -> None:
    with pytest.raises(VocabularyError, match=r"^WordNet 3.0 has no noun 'birds.n.01'.$"):
        add_kinds(load_vocabulary("coco"), wordnet, "birds.n.01")


PETS = (
    Category(1, "cat", "cat.n.01"),
    Category(2, "dog", "dog.n.01"),
    Category(3, "horse", "horse.n.01"),
    Category(4, "sofa", "sofa.n.01"),
)


def test_parents_are_where_chains_meet(wordnet: WordNet) -> None:
    after = add_hypernyms(vocabulary(*PETS), wordnet)
    assert parents(after) == {
        "cat": "carnivore",
        "dog": "carnivore",
        "horse": "placental",
        "sofa": None,
        "carnivore": "placental",
        "placental": None,
    }
    assert [c.id for c in after.parents] == [5, 6]
    assert [(c.name, c.synset) for c in after.parents] == [
        ("placental", "placental.n.01"),
        ("carnivore", "carnivore.n.01"),
    ]
    assert [c.name for c in after.categories] == ["cat", "dog", "horse", "sofa"]


def test_categories_are_parents_themselves(wordnet: WordNet) -> None:
    mammal = Category(9, "mammal", "mammal.n.01")
    after = add_hypernyms(vocabulary(mammal, *PETS), wordnet)
    assert parents(after)["placental"] == "mammal"
    assert [c.name for c in after.parents] == ["placental", "carnivore"]


def test_a_parent_stays_above_and_nearer_ones_go_between(wordnet: WordNet) -> None:
    animal = Category(5, "animal", "animal.n.01")
    pets = [Category(c.id, c.name, c.synset, parent="animal") for c in PETS[:3]]
    after = add_hypernyms(vocabulary(animal, *pets, PETS[3]), wordnet)
    assert parents(after) == {
        "animal": None,
        "cat": "carnivore",
        "dog": "carnivore",
        "horse": "placental",
        "sofa": None,
        "carnivore": "placental",
        "placental": "animal",
    }


def test_a_parent_of_ones_own_is_never_replaced(wordnet: WordNet) -> None:
    pets = [Category(c.id, c.name, c.synset, parent="my pets") for c in PETS[:2]]
    mine = vocabulary(*pets, Category(5, "my pets"), PETS[2])
    assert parents(add_hypernyms(mine, wordnet)) == parents(mine)
    elsewhere = vocabulary(*(Category(c.id, c.name, c.synset, parent="my flat") for c in PETS))
    assert add_hypernyms(elsewhere, wordnet) == elsewhere


def test_a_shared_synset_is_the_parent_of_those_that_share_it(wordnet: WordNet) -> None:
    terns = [Category(i, n, "tern.n.01") for i, n in ((1, "Black Tern"), (2, "Least Tern"))]
    after = add_hypernyms(vocabulary(*terns), wordnet)
    assert parents(after) == {"Black Tern": "tern", "Least Tern": "tern", "tern": None}


def test_hypernyms_of_lvis(wordnet: WordNet) -> None:
    before = load_vocabulary("lvis-v1")
    after = add_hypernyms(before, wordnet)
    above = parents(after)
    assert above["duckling"] == "duck"
    assert above["armchair"] == "chair"
    assert [c.id for c in after.parents] == list(range(1204, 1204 + len(after.parents)))
    below = [name for name in above.values() if name]
    assert all(below.count(parent.name) >= 2 for parent in after.parents)
    for name in above:  # every way up ends
        seen = []
        while name is not None:
            assert name not in seen
            seen.append(name)
            name = above[name]
    assert {"entity", "object", "whole", "artifact"}.isdisjoint(above)
    assert add_hypernyms(after, wordnet) == after
    # What nothing scores suppresses nothing: kinds of a category do, kinds of a mere parent do not.
    groups = category_groups(after.categories, after.parents)
    group = {c.name: number for c, number in zip(after.categories, groups, strict=True)}
    assert group["gull"] == group["duckling"] == group["bird"]
    assert above["apple"] == above["apricot"] == "edible fruit"
    assert group["apple"] != group["apricot"]
    assert max(map(groups.count, groups)) == 25  # the birds


def test_wordnets_answers_are_in_a_fixed_order(wordnet: WordNet) -> None:
    for grow in (
        lambda v: add_kinds(v, wordnet, "bird.n.01")[0],
        lambda v: add_hypernyms(v, wordnet),
        lambda v: add_synonyms(v, wordnet)[0],
    ):
        assert grow(load_vocabulary("coco")) == grow(load_vocabulary("coco"))
