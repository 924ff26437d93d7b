from __future__ import annotations

import pytest
import torch
from stub_encoder import StubTextEncoder

from vildcli.text.context import (
    EmbeddedCategories,
    build_scoring_bank,
    combine_scoring_bank,
    negative_categories,
)
from vildcli.text.templates import Prompts
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary

PROMPTS = Prompts("single", ("a {}.",))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path))


def vocabulary(*names: str, **more) -> Vocabulary:
    return Vocabulary("v", tuple(Category(i, n) for i, n in enumerate(names, start=5)), **more)


def build(user: Vocabulary, context: Vocabulary | None, base=()):
    return build_scoring_bank(
        user, context=context, base=base, encoder=StubTextEncoder(), prompts=PROMPTS
    )


def scores(bank, columns: int) -> torch.Tensor:
    """Softmax over everything, the user's columns kept, for 50 fixed regions."""
    regions = torch.nn.functional.normalize(
        torch.randn(50, 64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    return (regions @ bank.text_embeddings.T / bank.temperature).softmax(-1)[:, :columns]


def test_the_users_names_come_first_then_negatives_then_the_context():
    user = vocabulary("apple", "pear", negatives=("leaf",))
    bank = build(user, vocabulary("dog", "cat"), base=[Category(1, "cat"), Category(2, "pear")])
    assert bank.text_embeddings.shape == (5, 64)
    assert bank.category_ids.tolist() == [5, 6]
    assert bank.is_base.tolist() == [False, True, False, False, True]
    assert bank.temperature == 0.05
    assert bank.dropped == ()


def test_no_context_scores_the_names_among_themselves():
    bank = build(vocabulary("apple"), None)
    assert scores(bank, 1).min() == 1.0  # why a context is the default


def test_a_context_name_that_means_the_same_is_left_out():
    context = Vocabulary(
        "c",
        (
            Category(1, "Apple"),
            Category(2, "sofa", synonyms=("couch",)),
            Category(3, "bus_(vehicle)"),
            Category(4, "kettle", synset="kettle.n.01"),
            Category(5, "dog"),
        ),
    )
    user = Vocabulary(
        "u",
        (
            Category(1, "apple"),
            Category(2, "couch"),
            Category(3, "bus"),
            Category(4, "boiler", synset="kettle.n.01"),
        ),
    )
    bank = build(user, context)
    assert bank.dropped == ("Apple", "sofa", "bus_(vehicle)", "kettle")
    assert len(bank.text_embeddings) == 5


def test_a_context_name_with_a_nearly_equal_text_is_left_out():
    context = EmbeddedCategories(
        (Category(1, "ice cream"), Category(2, "gelato")), torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    )
    near = torch.tensor([[0.99, 0.141067]])
    bank = combine_scoring_bank(
        vocabulary("icecream"), near, base=(), temperature=0.01, context=context
    )
    assert bank.dropped == ("ice cream",)
    loose = combine_scoring_bank(
        vocabulary("icecream"), near, base=(), temperature=0.01, context=context, cosine_limit=0.8
    )
    assert loose.dropped == ("ice cream", "gelato")


def test_a_name_that_the_context_holds_takes_only_its_own_place():
    context = EmbeddedCategories(
        (Category(1, "horse"), Category(2, "pony")), torch.tensor([[1.0, 0.0], [0.9999, 0.01414]])
    )
    bank = combine_scoring_bank(
        vocabulary("horse"), torch.tensor([[1.0, 0.0]]), base=(), temperature=0.01, context=context
    )
    assert bank.dropped == ("horse",)


def test_what_is_broader_than_a_users_name_is_left_out():
    """A wren is a bird: the user asked which, and the context would say bird."""
    context = Vocabulary(
        "c",
        (
            Category(1, "bird", synset="bird.n.01"),
            Category(2, "small_bird"),
            Category(3, "animal"),
            Category(4, "dog", parent="animal"),
            Category(5, "bird_feeder"),
        ),
    )
    user = Vocabulary(
        "u",
        (Category(1, "Marsh Wren", parent="wren"), Category(2, "chair", parent="furniture")),
        parents=(
            Category(3, "wren", parent="fowl"),
            Category(4, "fowl", synset="bird.n.01", synonyms=("small bird",), parent="wren"),
        ),
    )
    bank = build(user, context)
    assert bank.dropped == ("bird", "small_bird")
    assert len(bank.text_embeddings) == 2 + 3
    apart = build(vocabulary("Marsh Wren", "chair"), context)
    assert apart.dropped == ()


def test_lvis_bird_is_no_rival_of_cubs_birds():
    bank = build(load_vocabulary("cub200"), load_vocabulary("lvis-v1"))
    assert bank.dropped == ("bird", "crow", "gull", "hummingbird", "mallard", "pelican")


def test_what_is_broader_stays_where_the_context_holds_the_name_too():
    """Its author told the two apart; adding the name must change no other score."""
    context = vocabulary("eagle", "bird", "dog")
    few = build(vocabulary("apple"), context)
    user = Vocabulary("u", (Category(1, "apple"), Category(2, "eagle", parent="bird")))
    more = build(user, context)
    assert more.dropped == ("eagle",)
    torch.testing.assert_close(scores(few, 1), scores(more, 1), atol=1e-6, rtol=0)


def test_adding_a_name_of_the_context_changes_no_other_score():
    context = vocabulary(*(f"thing {i}" for i in range(40)))
    few = build(vocabulary("apple", "pear"), context)
    more = build(vocabulary("apple", "pear", "thing 7"), context)
    torch.testing.assert_close(scores(few, 2), scores(more, 2), atol=1e-6, rtol=0)
    assert len(few.text_embeddings) == len(more.text_embeddings)


def test_a_negative_takes_its_place_in_the_context_too():
    context = vocabulary("dog", "leaf")
    without = build(vocabulary("apple"), context)
    with_it = build(vocabulary("apple", negatives=("leaf",)), context)
    assert with_it.dropped == ("leaf",)
    torch.testing.assert_close(scores(without, 1), scores(with_it, 1), atol=1e-6, rtol=0)


def test_a_negative_that_is_a_users_name_is_not_counted_twice():
    user = vocabulary("apple", negatives=("Apple", "leaf"))
    assert [c.name for c in negative_categories(user)] == ["leaf"]
    assert len(build(user, None).text_embeddings) == 2


def test_one_cached_context_serves_every_vocabulary():
    encoder = StubTextEncoder()
    context = vocabulary("dog", "cat")
    for name in ("apple", "cat"):
        build_scoring_bank(
            vocabulary(name), context=context, base=(), encoder=encoder, prompts=PROMPTS
        )
    assert encoder.sentences.count("a dog.") == 1
