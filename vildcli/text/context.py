"""The context: what a user's names are scored against.

A softmax over only the names that somebody typed is meaningless where there is no background class:
with one name every region scores 1.0. So every score is taken among the user's names, the
vocabulary's negatives and context names, and reported for the user's alone. Context names that mean
the same as a user's are left out, and broader ones that the user's vocabulary names as parents
(bird, of a wren): else the two would share the probability that belongs to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vildcli.text.bank import embed_categories
from vildcli.text.encoder import TextEncoder
from vildcli.text.templates import Prompts
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.names import match_key, resolve_base, same_things

# Text cosine above which a context name is taken for the user's own. Measured on CLIP ViT-B/32 with
# "a NAME" and "a photo of a NAME": no two of LVIS's 1,203 categories come above it (the nearest,
# hardback_book and paperback_book, 0.965 and 0.970), spellings that no name rule folds do (icecream
# 0.99, chopstick 0.98, wineglass 0.98). Lower limits take siblings too: 0.95 would drop 16 pairs
# such as horse and pony.
NEAR_SYNONYM_COSINE = 0.97


@dataclass(frozen=True, slots=True)
class ScoringBank:
    """The text side of scoring: the user's C categories first, then X negatives and context names.

    Attributes:
        text_embeddings: [C + X, D] unit norm, float32.
        category_ids: [C] the user's ids, int64.
        is_base: [C + X] whether a model saw boxes of it, bool.
        temperature: τ.
        dropped: context names left out because they mean the same as one of the user's, or are
            broader.
    """

    text_embeddings: Tensor
    category_ids: Tensor
    is_base: Tensor
    temperature: float
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbeddedCategories:
    """Categories and their embeddings [C, D], unit norm, float32."""

    categories: tuple[Category, ...]
    embeddings: Tensor


def build_scoring_bank(
    vocabulary: Vocabulary,
    *,
    context: Vocabulary | None,
    base: Sequence[Category],
    encoder: TextEncoder,
    prompts: Prompts,
    cosine_limit: float = NEAR_SYNONYM_COSINE,
) -> ScoringBank:
    """Embed a vocabulary, its negatives and its context, and combine them.

    Args:
        context: what else could be there; None scores the user's names and negatives among
            themselves.
        base: categories that the model saw boxes of.
    """

    def embedded(categories: tuple[Category, ...]) -> EmbeddedCategories:
        return EmbeddedCategories(categories, embed_categories(categories, encoder, prompts))

    return combine_scoring_bank(
        vocabulary,
        embedded(vocabulary.categories).embeddings,
        negatives=embedded(negative_categories(vocabulary)).embeddings,
        # The whole context is embedded, not what is left of it, so that one cached bank serves
        # every vocabulary.
        context=embedded(context.categories) if context else None,
        base=base,
        temperature=encoder.temperature,
        cosine_limit=cosine_limit,
    )


def combine_scoring_bank(
    vocabulary: Vocabulary,
    embeddings: Tensor,
    *,
    base: Sequence[Category],
    temperature: float,
    negatives: Tensor | None = None,
    context: EmbeddedCategories | None = None,
    cosine_limit: float = NEAR_SYNONYM_COSINE,
) -> ScoringBank:
    """Combine ready embeddings: the user's, those of the negatives, and the context's.

    Args:
        embeddings: [C, D] unit norm, of the vocabulary's categories.
        negatives: [N, D] unit norm, of `negative_categories(vocabulary)`; None where there are
            none.
    """
    own = vocabulary.categories
    said = negative_categories(vocabulary)
    rows = [embeddings] if negatives is None else [embeddings, negatives]
    assert sum(map(len, rows)) == len(own) + len(said), "one embedding a category and a negative"
    kept: tuple[Category, ...] = ()
    dropped: tuple[str, ...] = ()
    if context is not None:
        named = EmbeddedCategories((*own, *said), torch.cat(rows))
        drop = _rows_to_drop(named, context, cosine_limit, _broader(vocabulary))
        keep = [row for row in range(len(context.categories)) if row not in drop]
        kept = tuple(context.categories[row] for row in keep)
        dropped = tuple(context.categories[row].name for row in sorted(drop))
        rows.append(context.embeddings[keep])
    return ScoringBank(
        text_embeddings=torch.cat(rows),
        category_ids=torch.tensor([category.id for category in own]),
        is_base=torch.tensor(resolve_base((*own, *said, *kept), base)),
        temperature=temperature,
        dropped=dropped,
    )


def negative_categories(vocabulary: Vocabulary) -> tuple[Category, ...]:
    """The vocabulary's negatives as categories without an id, less those that are its own names."""
    own = {match_key(category.name) for category in vocabulary.categories}
    return tuple(Category(0, name) for name in vocabulary.negatives if match_key(name) not in own)


def _broader(vocabulary: Vocabulary) -> dict[str, list[Category]]:
    """All that the vocabulary says to be above each of its categories, by the category's name."""
    entries = {entry.name: entry for entry in (*vocabulary.parents, *vocabulary.categories)}
    found = {}
    for category in vocabulary.categories:
        above: dict[str, Category] = {}
        name = category.parent
        while name is not None and name not in above:  # a circle ends where it began
            above[name] = entries.get(name, Category(0, name))
            name = above[name].parent
        found[category.name] = list(above.values())
    return found


def _rows_to_drop(
    named: EmbeddedCategories,
    context: EmbeddedCategories,
    cosine_limit: float,
    broader: Mapping[str, Sequence[Category]],
) -> set[int]:
    """Rows of the context that mean the same as a named category, or something broader.

    A name that the context holds itself takes exactly its own place there: the context's author
    kept it apart from its siblings and from what is broader, and adding or removing it must change
    no other score.
    """
    places = {match_key(category.name): row for row, category in enumerate(context.categories)}
    same = same_things(named.categories, context.categories)
    near = named.embeddings @ context.embeddings.T > cosine_limit
    above = list({entry.name: entry for row in broader.values() for entry in row}.values())
    pairs = zip(above, same_things(above, context.categories), strict=True)
    rows_of = {entry.name: rows for entry, rows in pairs}
    drop: set[int] = set()
    for row, category in enumerate(named.categories):
        place = places.get(match_key(category.name))
        if place is not None and place in same[row]:
            drop.add(place)
        else:
            drop |= {*same[row], *near[row].nonzero().flatten().tolist()}
            drop.update(*(rows_of[entry.name] for entry in broader.get(category.name, ())))
    return drop
