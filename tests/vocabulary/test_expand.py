from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vildcli import __version__
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.expand import Request, expand, provenance_step
from vildcli.vocabulary.files import load_attributes, load_vocabulary, save_vocabulary
from vildcli.vocabulary.wordnet import WordNet

FRUIT = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))
COLOURS = load_attributes("colours")


def test_attributes_need_no_wordnet() -> None:
    request = Request(attributes=COLOURS)
    assert not request.needs_wordnet
    found = expand(FRUIT, request).vocabulary
    assert found.name == "fruit + colour"
    assert found.categories == FRUIT.categories
    assert found.attributes == COLOURS
    assert found.provenance == (
        {
            "step": "expand",
            "vildcli": __version__,
            "input": {"name": "fruit", "fingerprint": FRUIT.fingerprint()},
            "attributes": {"colour": "9aba77fb03e98eb3"},
        },
    )


def test_everything_at_once_in_its_order(wordnet: WordNet, tmp_path: Path) -> None:
    request = Request(
        species=load_vocabulary("cub200"),
        hyponyms=("cat.n.01", "dog.n.01"),
        depth=1,
        hypernyms=True,
        synonyms=True,
        attributes=COLOURS,
    )
    found = expand(load_vocabulary("coco"), request, wordnet)
    grown = found.vocabulary
    assert grown.name == "coco + cub200 + cat.n.01 + dog.n.01 + hypernyms + synonyms + colour"
    entries = {e.name: e for e in (*grown.categories, *grown.parents)}
    assert entries["Laysan Albatross"].parent == "albatross"
    assert entries["albatross"].parent == "pelagic bird"  # put between it and the bird
    assert entries["wildcat"].parent == "cat"
    assert "gooney bird" in entries["Black-footed Albatross"].synonyms
    assert set(found.kinds) == {"cat.n.01", "dog.n.01"}
    assert len(found.species) == 200
    step = dict(grown.provenance[-1])
    assert list(step) == [
        "step", "vildcli", "input", "species", "hyponyms", "depth", "hypernyms", "synonyms",
        "attributes", "wordnet",
    ]  # fmt: skip
    assert step["hyponyms"] == ["cat.n.01", "dog.n.01"]
    assert step["wordnet"] == {"version": "3.0", "fingerprint": wordnet.fingerprint}
    save_vocabulary(grown, tmp_path / "grown.yaml")
    assert load_vocabulary(tmp_path / "grown.yaml") == grown


def test_the_same_again_gives_the_same_bytes(wordnet: WordNet, tmp_path: Path) -> None:
    request = Request(hyponyms=("bird.n.01",), hypernyms=True, synonyms=True)
    for name in ("a", "b"):
        found = expand(load_vocabulary("coco"), request, wordnet).vocabulary
        save_vocabulary(found, tmp_path / f"{name}.yaml")
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_steps_of_provenance_add_up() -> None:
    once = expand(FRUIT, Request(attributes=COLOURS)).vocabulary
    twice = expand(once, Request(flatten=True)).vocabulary
    assert [step.get("flatten") for step in twice.provenance] == [None, True]
    assert twice.provenance[0] == once.provenance[0]
    assert twice.name == "fruit + colour + flat"
    assert len(twice) == 22


@pytest.mark.parametrize(
    "other",
    [
        {"attributes": {"colour": ("red",)}},
        {"hyponyms": ("cat.n.01",)},
        {"depth": 3},
        {"hypernyms": True},
        {"synonyms": True},
        {"species": load_vocabulary("cub200")},
        {"flatten": True},
    ],
)
def test_every_argument_is_in_the_provenance(other: dict[str, object]) -> None:
    plain = Request(attributes=COLOURS)
    step = provenance_step(FRUIT, replace(plain, **other), None)  # type: ignore[arg-type]
    assert step != provenance_step(FRUIT, plain, None)
    more = replace(FRUIT, categories=(*FRUIT.categories, Category(3, "fig")))
    assert provenance_step(more, plain, None) != provenance_step(FRUIT, plain, None)


def test_what_bare_names_were_taken_for_is_handed_on(wordnet: WordNet) -> None:
    names = ("crane", "sofa", "zzz")
    bare = Vocabulary("v", tuple(Category(i, n) for i, n in enumerate(names, 1)))
    found = expand(bare, Request(hypernyms=True), wordnet)
    taken = [(m.category.name, m.sense and m.sense.synset, len(m.others)) for m in found.guessed]
    assert taken == [("crane", "crane.n.04", 1), ("sofa", "sofa.n.01", 0), ("zzz", None, 0)]
    assert [c.synset for c in found.vocabulary.categories] == ["crane.n.04", "sofa.n.01", None]
    by_hand = replace(
        bare,
        categories=tuple(
            replace(c, synset="crane.n.05") if c.id == 1 else c for c in bare.categories
        ),
    )
    assert expand(by_hand, Request(hypernyms=True), wordnet).vocabulary.categories[0].synset == (
        "crane.n.05"
    )
