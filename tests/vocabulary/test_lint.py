from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vildcli.vocabulary import lint as module
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_attributes, load_vocabulary
from vildcli.vocabulary.lint import Finding, lint, lint_embeddings, lint_lengths
from vildcli.vocabulary.wordnet import WordNet


def said(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.check, finding.message) for finding in findings]


def check(*categories: Category, wordnet: WordNet | None = None, **more: object) -> list[Finding]:
    numbered = tuple(
        Category(i, c.name, c.synset, c.synonyms, parent=c.parent)
        for i, c in enumerate(categories, start=1)
    )
    return lint(Vocabulary("v", numbered, **more), wordnet)  # type: ignore[arg-type]


def named(*names: str) -> list[Category]:
    return [Category(i, name) for i, name in enumerate(names, start=1)]


@pytest.mark.parametrize(
    ("categories", "finding"),
    [
        (
            named("wine glass", "Wine_Glass"),
            (
                "problem",
                "same prompt",
                "'wine glass' and 'Wine_Glass' are all read as 'wine glass'",
            ),
        ),
        (
            [
                Category(1, "crane (bird)", "crane.n.05"),
                Category(2, "Crane (bird)", "crane.n.04"),
            ],
            (
                "problem",
                "same prompt",
                "'crane (bird)' and 'Crane (bird)' are all read as 'crane (bird)'",
            ),
        ),
        (
            [Category(1, "sofa", synonyms=("couch",)), Category(2, "couch")],
            ("problem", "same thing", "'sofa' and 'couch' share the name 'couch'"),
        ),
        (
            named("bat", "bat_(animal)"),
            (
                "problem",
                "same thing",
                "'bat' and 'bat_(animal)' have the same name, one with a qualifier",
            ),
        ),
        (
            named("bears", "bear"),
            ("problem", "plural", "'bears' is the plural of 'bear'"),
        ),
        (
            named("butterflies", "butterfly"),
            ("problem", "plural", "'butterflies' is the plural of 'butterfly'"),
        ),
        (
            [Category(1, "hen", parent="bird"), Category(2, "duck", parent="bird")],
            (
                "problem",
                "parent",
                "'bird', the parent of 'hen' and 1 more, is no category and no parent",
            ),
        ),
        (
            [Category(1, "hen", parent="egg"), Category(2, "egg", parent="hen")],
            ("problem", "circle", "parents go round in a circle: hen → egg → hen"),
        ),
        (
            named("ti\u200bger"),
            ("problem", "unreadable", r"'ti\u200bger' holds letters that cannot be seen: U+200B"),
        ),
        (
            [Category(1, "lion", synonyms=(" big cat",))],
            ("problem", "spaces", "' big cat' has spaces at an end or several in a row"),
        ),
        (
            named("ברווז"),
            (
                "note",
                "script",
                "'ברווז' is not written in Latin letters, and CLIP was taught in English",
            ),
        ),
        (
            named("🦆"),
            (
                "note",
                "script",
                "'🦆' is not written in Latin letters, and CLIP was taught in English",
            ),
        ),
        (
            named("👨\u200d🚀"),
            (
                "note",
                "script",
                "'👨\u200d🚀' is not written in Latin letters, and CLIP was taught in English",
            ),
        ),
        (named("crème brûlée", "T-shirt", "3½ inch disk", "Brewer’s Blackbird"), None),
        (
            named("monitor_(computer) screen"),
            (
                "note",
                "qualifier",
                "'monitor_(computer) screen' is not a name with one qualifier at its end",
            ),
        ),
        (
            [Category(1, "Black Tern", "tern.n.01"), Category(2, "Least Tern", "tern.n.01")],
            (
                "note",
                "synset",
                "2 categories share the synset tern.n.01: Black Tern, Least Tern",
            ),
        ),
    ],
)
def test_each_check(categories: list[Category], finding: tuple[str, str, str] | None) -> None:
    assert said(check(*categories)) == ([finding] if finding else [])


def test_the_same_prompt_is_found_in_every_spelling() -> None:
    found = check(*named("Cabinet/shelf", "Cabinet_or_Shelf", "cabinet or  shelf"))
    assert [f.names for f in found if f.check == "same prompt"] == [
        ("Cabinet/shelf", "Cabinet_or_Shelf", "cabinet or  shelf")
    ]
    assert {f.check for f in found} == {"same prompt", "spaces"}


def test_negatives_and_attributes_that_are_categories() -> None:
    found = check(
        Category(1, "orange_(fruit)"),
        Category(2, "sofa", synonyms=("couch",)),
        negatives=("Couch", "leaf"),
        attributes={"colour": ("orange", "gold"), "metal": ("gold",)},
    )
    assert said(found) == [
        ("problem", "negative", "the negative 'Couch' is the category 'sofa'"),
        ("note", "attribute", "the colour 'orange' is the category 'orange_(fruit)' too"),
        ("note", "attribute", "the attribute 'gold' is in 2 sets: colour, metal"),
    ]


def test_with_wordnet_plurals_and_unknown_names(wordnet: WordNet) -> None:
    found = check(
        Category(1, "sneakers"),
        Category(2, "scissors"),
        Category(3, "Ballon"),
        Category(4, "stop sign", synset="stop_sign.n.01"),
        Category(5, "cow", synset="beef.n.01"),
        Category(6, "Laysan Albatross", parent="albatross"),
        parents=(Category(7, "albatross"),),
        wordnet=wordnet,
    )
    assert said(found) == [
        ("note", "WordNet", "WordNet does not know 'Ballon'; is it balloon?"),
        ("note", "WordNet", "WordNet has no synset 'stop_sign.n.01' of 'stop sign'"),
        ("note", "plural", "'sneakers' is the plural of 'sneaker', and prompts say 'a sneakers'"),
        ("note", "synset", "'cow' shares no word with its synset beef.n.01 (beef, beef cattle)"),
    ]


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("lvis-v1", {"plural": 3, "qualifier": 1, "synset": 1, "WordNet": 1}),
        ("coco", {"plural": 1, "synset": 2, "WordNet": 1}),
        ("voc", {"synset": 2}),
        ("cub200", {"synset": 3}),
        ("objects365", {"plural": 12, "WordNet": 59}),
    ],
)
def test_the_shipped_vocabularies_have_notes_and_no_problems(
    wordnet: WordNet, name: str, checks: dict[str, int]
) -> None:
    found = lint(load_vocabulary(name), wordnet)
    assert {finding.level for finding in found} == {"note"}
    assert {f.check: [g.check for g in found].count(f.check) for f in found} == checks


def test_the_colour_orange_is_noted_with_lvis() -> None:
    lvis = load_vocabulary("lvis-v1")
    coloured = Vocabulary("v", lvis.categories, load_attributes("colours"))
    messages = [finding.message for finding in lint(coloured)]
    assert "the colour 'orange' is the category 'orange_(fruit)' too" in messages


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6, unique=True))
def test_any_names_can_be_checked(names: list[str]) -> None:
    found = check(*named(*names))
    assert {finding.level for finding in found} <= {"problem", "note"}
    assert all(set(f.names) <= set(names) for f in found)
    hidden = {n for f in found if f.check == "unreadable" for n in f.names}
    joiners = {"\u200c", "\u200d"}
    surely = {n for n in names if any(unicodedata.category(c)[0] == "C" for c in set(n) - joiners)}
    assert surely <= hidden <= {n for n in names if n in surely or set(n) & joiners}


def test_prompts_that_are_cut() -> None:
    found = lint_lengths([("a", "a", 77), ("b", "long b", 78)], 77)
    assert said(found) == [
        ("problem", "too long", "a prompt of 'long b' has 78 tokens, and the encoder reads 77")
    ]
    assert found[0].names == ("b",)


@pytest.mark.parametrize("block", [1, 7, 2**24])
def test_near_duplicates_are_each_pair_once_the_nearest_first(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    angles = np.array([0.0, 1.0, 1.1, 0.05, 2.0])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = lint_embeddings(["a", "b", "c", "d", "e"], rows, 0.99)
    assert said(found) == [
        ("problem", "near-duplicate", "'a' and 'd' have text embeddings of cosine 0.999"),
        ("problem", "near-duplicate", "'b' and 'c' have text embeddings of cosine 0.995"),
    ]
    assert lint_embeddings(["a"], rows[:1], 0.5) == []
