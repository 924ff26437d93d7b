from __future__ import annotations

import pytest

from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.names import (
    article,
    clean_name,
    match_key,
    names_of,
    resolve_base,
    same_thing,
    same_things,
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("aerosol_can", "aerosol can"),
        ("Cabinet/shelf", "cabinet or shelf"),
        ("bat_(animal)", "bat (animal)"),
        ("CD_player", "cd player"),
        ("wiper_(for_windshield/screen)", "wiper (for windshield or screen)"),
    ],
)
def test_clean_name(raw, clean):
    assert clean_name(raw) == clean


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("apple", "an"), ("pear", "a"), ("Apple", "a"), ("hour", "a"), ("unicycle", "an"), ("", "a")],
)
def test_article_follows_the_first_raw_letter(raw, expected):
    assert article(raw) == expected


def test_match_key_folds_spelling_and_not_plurals():
    spellings = ["teddy bear", "Teddy_Bear", "teddy-bear", " teddy   bear "]
    assert {match_key(name) for name in spellings} == {"teddy bear"}
    assert match_key("bears") != match_key("bear")


def test_names_of_lists_each_spelling_once_and_the_name_first():
    sofa = Category(1, "sofa_bed", synonyms=("Sofa-bed", "davenport", "sofa bed"))
    assert names_of(sofa) == ("sofa_bed", "davenport")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("sofa", "sofa.n.01"), ("couch", "sofa.n.01"), True),
        (("Dog", None), ("dog", "dog.n.01"), True),
        (("bus", None), ("bus_(vehicle)", "bus.n.01"), True),
        (("crab_(animal)", None), ("crab_(food)", None), False),
        (("fish_(food)", None), ("fish_(food)", None), True),
        (("crane (bird)", "crane.n.05"), ("crane (bird)", "crane.n.04"), False),
        (("crane", "crane.n.05"), ("crane (machine)", "crane.n.04"), False),
        (("cup", "cup.n.01"), ("cup", "cup.n.02"), True),
        (("cat", None), ("cats", None), False),
    ],
)
def test_same_thing(a, b, expected):
    first, second = Category(1, a[0], synset=a[1]), Category(2, b[0], synset=b[1])
    assert same_thing(first, second) is expected
    assert same_thing(second, first) is expected


def test_synonyms_on_either_side_make_the_same_thing():
    sofa = Category(1, "sofa", synonyms=("couch", "lounge"))
    assert same_thing(sofa, Category(2, "Couch"))
    assert same_thing(sofa, Category(2, "settee", synonyms=("lounge",)))
    assert not same_thing(sofa, Category(2, "settee"))


def test_same_things_equals_asking_one_by_one():
    lvis, coco = load_vocabulary("lvis-v1").categories, load_vocabulary("coco").categories
    found = same_things(coco, lvis)
    assert found == [
        [row for row, other in enumerate(lvis) if same_thing(category, other)] for category in coco
    ]
    unmatched = [category.name for category, rows in zip(coco, found, strict=True) if not rows]
    assert unmatched == ["hot dog"]  # LVIS has none


def test_a_synset_of_a_wider_group_says_nothing():
    terns = [Category(1, "Black Tern", "tern.n.01"), Category(2, "Least Tern", "tern.n.01")]
    assert same_things([Category(1, "Elegant Tern", "tern.n.01")], terns) == [[]]
    assert same_things([Category(1, "least tern", "tern.n.01")], terns) == [[1]]
    assert same_things([Category(1, "Elegant Tern", "tern.n.01")], terns[:1]) == [[0]]


def test_resolve_base_in_order_of_evidence():
    base = [Category(1, "sofa", "sofa.n.01", synonyms=("lounge",)), Category(2, "dog")]
    asked = {
        Category(1, "couch", "sofa.n.01"): True,  # same synset
        Category(2, "Dog"): True,  # same name
        Category(3, "lounge"): True,  # a synonym
        Category(4, "yak"): False,
        Category(5, "dog", base=False): False,  # its own word comes first
        Category(6, "yak calf", base=True): True,
    }
    assert resolve_base(list(asked), base) == list(asked.values())
    assert resolve_base([Category(1, "dog")], []) == [False]


def test_resolve_base_of_coco_in_its_own_split():
    flags = resolve_base(load_vocabulary("coco").categories, load_vocabulary("coco-48").categories)
    assert sum(flags) == 48
