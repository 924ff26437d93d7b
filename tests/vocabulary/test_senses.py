from __future__ import annotations

from dataclasses import replace

import pytest

from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.senses import Meaning, find_meanings, likely_senses, settled
from vildcli.vocabulary.wordnet import WordNet


def meaning(wordnet: WordNet, **category: object) -> Meaning:
    (found,) = find_meanings([Category(1, **category)], wordnet)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("name", "synset"),
    [
        ("sofa", "sofa.n.01"),
        ("banana", "banana.n.02"),  # the food: the plant is the more frequent sense
        ("Traffic_Light", "traffic_light.n.01"),  # a signal, in WordNet no thing
        ("sneakers", "gym_shoe.n.01"),
        ("fish_(food)", "fish.n.02"),
        ("mouse (computer equipment)", "mouse.n.04"),
        ("bow_(weapon)", "bow.n.04"),
        ("wine-glass", "wineglass.n.01"),
        ("teddybear", None),
        ("🦆", None),
        ("ברווז", None),
        ("(food)", None),
    ],
)
def test_a_bare_name_means_the_likeliest_thing(
    wordnet: WordNet, name: str, synset: str | None
) -> None:
    found = meaning(wordnet, name=name).sense
    assert (found.synset if found else None) == synset


def test_parent_and_synonyms_tell_senses_apart(wordnet: WordNet) -> None:
    def synset(**category: object) -> str:
        found = meaning(wordnet, **category).sense
        assert found is not None
        return found.synset

    assert synset(name="crane") == "crane.n.04"
    assert synset(name="crane", parent="bird") == "crane.n.05"
    assert synset(name="mouse") == "mouse.n.01"
    assert synset(name="mouse", synonyms=("computer mouse",)) == "mouse.n.04"
    assert synset(name="hav a seat", synonyms=("armchair",)) == "armchair.n.01"


def test_a_given_synset_is_never_replaced(wordnet: WordNet) -> None:
    assert meaning(wordnet, name="mouse", synset="sofa.n.01").sense == wordnet.sense("sofa.n.01")
    unknown = meaning(wordnet, name="stop_sign", synset="stop_sign.n.01")
    assert (unknown.sense, unknown.others) == (None, ())
    assert settled(unknown) == unknown.category


def test_what_comes_close_is_listed(wordnet: WordNet) -> None:
    assert [s.synset for s in meaning(wordnet, name="crane").others] == ["crane.n.05"]
    assert meaning(wordnet, name="dog").others == ()  # a sausage too, and a rogue: hardly ever
    assert settled(meaning(wordnet, name="dog")) == Category(1, "dog", "dog.n.01")


def test_a_sense_is_taken_once_though_a_plural_has_two_singulars(wordnet: WordNet) -> None:
    senses = likely_senses("cookies", wordnet)
    assert len(set(senses)) == len(senses)


def test_the_rules_find_what_people_chose_for_lvis(wordnet: WordNet) -> None:
    """1,076 of 1,202; the most frequent sense is the right one for 934."""
    lvis = [c for c in load_vocabulary("lvis-v1").categories if wordnet.find(c.synset or "")]
    bare = [replace(c, synset=None, synonyms=()) for c in lvis]
    found = find_meanings(bare, wordnet)
    right = [
        m.sense is not None and m.sense.synset == c.synset for m, c in zip(found, lvis, strict=True)
    ]
    listed = [bool(m.others) for m in found]
    assert len(lvis) == 1202
    assert sum(right) >= 1060
    # Of those that are not listed as ambiguous far more are right.
    sure = [r for r, unsure in zip(right, listed, strict=True) if not unsure]
    assert sum(sure) / len(sure) > 0.9 > 0.6 > (sum(right) - sum(sure)) / sum(listed)
