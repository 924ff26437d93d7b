from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from vildcli.errors import VocabularyError
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.species import (
    SpeciesMatch,
    add_species,
    match_species,
    readable_species,
    species_vocabulary,
)
from vildcli.vocabulary.wordnet import WordNet

SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
CUB = load_vocabulary("cub200")


def raw_names() -> list[Category]:
    """CUB's classes.txt as it is published: `1 001.Black_footed_Albatross`."""
    path = SHARED / "cub" / "classes.txt"
    if not path.is_file():
        pytest.skip(f"no shared data at {SHARED}; set VILDCLI_SHARED_DATA")
    lines = path.read_text().splitlines()
    return [Category(int(line.split()[0]), line.strip()) for line in lines if line.strip()]


def bare(category: Category) -> Category:
    return replace(category, synset=None, parent=None)


def match(wordnet: WordNet, name: str) -> tuple[str, str | None]:
    (found,) = match_species([Category(1, name)], wordnet)
    return found.how, found.sense.synset if found.sense else None


@pytest.mark.parametrize(
    ("raw", "readable"),
    [
        ("1 001.Black_footed_Albatross", "Black-footed Albatross"),
        ("009.Brewer_Blackbird", "Brewer's Blackbird"),
        ("Forsters_Tern", "Forster's Tern"),
        ("Black_and_white_Warbler", "Black-and-white Warbler"),
        ("Nelson_Sharp_tailed_Sparrow", "Nelson's Sharp-tailed Sparrow"),
        ("Chuck_will_Widow", "Chuck-will's-widow"),
        ("Artic_Tern", "Arctic Tern"),
        ("Brewer's Blackbird", "Brewer's Blackbird"),
        ("Black-footed Albatross", "Black-footed Albatross"),
    ],
)
def test_class_names_become_readable(raw: str, readable: str) -> None:
    assert readable_species(raw) == readable


def test_cubs_class_names_become_those_of_the_shipped_file() -> None:
    assert [(c.id, readable_species(c.name)) for c in raw_names()] == [
        (c.id, c.name) for c in CUB.categories
    ]


@pytest.mark.parametrize(
    ("name", "how", "synset"),
    [
        ("Black_footed_Albatross", "name", "black-footed_albatross.n.01"),
        ("Gray Kingbird", "name", "grey_kingbird.n.01"),
        ("Scissor-tailed Flycatcher", "name", "scissortail.n.01"),
        ("Vermilion Flycatcher", "name", "vermillion_flycatcher.n.01"),
        ("Tree Sparrow", "name", "tree_sparrow.n.02"),  # of the two the American one
        ("Rock Wren", "name", "rock_wren.n.02"),
        ("Eastern Towhee", "scientific name", "chewink.n.01"),
        ("Geococcyx", "genus", "roadrunner.n.01"),
        ("Laysan Albatross", "group", "albatross.n.02"),
        ("Baird's Sparrow", "group", "new_world_sparrow.n.01"),
        ("Horned Lark", "group", "lark.n.03"),
        ("Northern Waterthrush", "group", "water_thrush.n.01"),
        ("Gadwall", "group", "dabbling_duck.n.01"),
        ("Crane", "name", "crane.n.05"),  # no machine
        ("Sofa", "nothing", None),
    ],
)
def test_ways_to_find_a_species(wordnet: WordNet, name: str, how: str, synset: str) -> None:
    assert match(wordnet, name) == (how, synset)


def test_a_synonym_finds_a_species(wordnet: WordNet) -> None:
    sayornis = Category(1, "Sayornis", synonyms=("phoebe",))
    (found,) = match_species([sayornis], wordnet)
    assert found == SpeciesMatch(sayornis, wordnet.sense("phoebe.n.03"), "synonym")


def test_the_shipped_file_is_what_matching_the_class_names_gives(wordnet: WordNet) -> None:
    synonyms = {c.id: c.synonyms for c in CUB.categories}
    species = [replace(c, synonyms=synonyms[c.id]) for c in raw_names()]
    made = species_vocabulary("cub200", species, wordnet)
    assert replace(made, provenance=CUB.provenance) == CUB
    ways = Counter(found.how for found in match_species(raw_names(), wordnet))
    assert ways == {"name": 77, "scientific name": 8, "genus": 2, "group": 113}
    assert CUB.provenance[0]["species"] == 77 + 8 + 2
    assert CUB.provenance[0]["wider_group"] == 113


def test_every_species_has_a_synset_or_a_group() -> None:
    bird, *groups = (parent.name for parent in CUB.parents)
    assert bird == "bird"
    for category in CUB.categories:
        assert category.parent in (groups if category.synset is None else [bird]), category.name
    assert {parent.parent for parent in CUB.parents[1:]} == {bird}
    assert all(parent.synset for parent in CUB.parents)
    synsets = [e.synset for e in (*CUB.categories, *CUB.parents) if e.synset]
    assert len(set(synsets)) == len(synsets)


def test_lvis_gets_the_200_species_below_its_bird(wordnet: WordNet) -> None:
    lvis = load_vocabulary("lvis-v1")
    after, places = add_species(lvis, [bare(c) for c in CUB.categories], wordnet)
    assert [place.match.category.name for place in places] == [c.name for c in CUB.categories]
    assert [place.name for place in places if place.was_there] == ["mallard"]
    assert len(after) == 1203 + 199
    assert [c.id for c in after.categories[1203:]] == list(range(1204, 1204 + 199))
    entries = {e.name: e for e in (*after.categories, *after.parents)}
    for place in places:
        above = entries[place.name].parent
        while above not in (None, "bird"):
            above = entries[above].parent
        assert above == "bird", place.name
    assert entries["Herring Gull"].parent == "bird"
    assert entries["California Gull"].parent == "gull"  # LVIS looks for gulls itself
    assert entries["Laysan Albatross"].parent == "albatross"
    assert [c.name for c in after.parents][:2] == ["albatross", "ani"]
    changed = [c.name for c, d in zip(lvis.categories, after.categories, strict=False) if c != d]
    assert changed == ["crow", "gull", "hummingbird", "mallard", "pelican"]


def test_without_a_bird_the_groups_are_on_top(wordnet: WordNet) -> None:
    species = [Category(1, "Laysan Albatross"), Category(2, "Mallard")]
    after, _ = add_species(Vocabulary("v", (Category(5, "sofa"),)), species, wordnet)
    assert [(c.id, c.name, c.parent) for c in after.categories] == [
        (5, "sofa", None),
        (6, "Laysan Albatross", "albatross"),
        (7, "Mallard", None),
    ]
    assert [(c.id, c.name, c.parent) for c in after.parents] == [(8, "albatross", None)]


def test_a_name_that_means_something_else_there_is_qualified(wordnet: WordNet) -> None:
    before = Vocabulary("v", (Category(1, "bird"), Category(2, "cardinal", "cardinal.n.01")))
    after, places = add_species(before, [Category(1, "Cardinal")], wordnet)
    assert (places[0].name, places[0].was_there) == ("Cardinal (bird)", False)
    assert after.categories[2] == Category(3, "Cardinal (bird)", "cardinal.n.04", parent="bird")


def test_an_unknown_species_is_added_all_the_same(wordnet: WordNet) -> None:
    before = Vocabulary("v", (Category(1, "bird"),))
    after, places = add_species(before, [Category(1, "Zzz"), Category(2, "Mallard")], wordnet)
    assert [p.match.how for p in places] == ["nothing", "name"]
    assert after.categories[1] == Category(2, "Zzz", parent="bird")


def test_a_list_of_other_things_is_refused(wordnet: WordNet) -> None:
    species = load_vocabulary("voc").categories
    with pytest.raises(VocabularyError) as error:
        add_species(load_vocabulary("coco"), species, wordnet)
    assert str(error.value) == (
        "20 of 20 species are no birds that WordNet knows: aeroplane, bicycle, bird, boat, bottle."
    )
    assert error.value.hint == (
        "Give a list of birds, such as cub200. For other kinds, try --hyponyms SYNSET."
    )


def test_adding_them_twice_changes_nothing(wordnet: WordNet) -> None:
    once, _ = add_species(load_vocabulary("coco"), CUB.categories, wordnet)
    twice, places = add_species(once, CUB.categories, wordnet)
    assert twice == once
    assert all(place.was_there for place in places)
