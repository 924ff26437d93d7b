"""Attributes beside categories, and, for tools that know flat lists alone, multiplied out.

Labelling needs no product: p names and q attributes are p + q text embeddings and p + q scores, for
Pr(name, attribute | region) = Pr(name | region) · Pr(attribute | region).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from vildcli.errors import VocabularyError
from vildcli.vocabulary.category import Category, Vocabulary

MOST_NAMES = 2_000_000  # about 1 GiB while they are made, and far more than any tool takes


def add_attributes(vocabulary: Vocabulary, sets: Mapping[str, tuple[str, ...]]) -> Vocabulary:
    """Put attribute sets beside those that are there; one of the same name grows."""
    merged = {
        name: tuple(dict.fromkeys((*vocabulary.attributes.get(name, ()), *sets.get(name, ()))))
        for name in (*vocabulary.attributes, *sets)
    }
    return replace(vocabulary, attributes=merged)


def count_joint_names(vocabulary: Vocabulary) -> int:
    """Categories times one attribute of every set."""
    return len(vocabulary) * math.prod(map(len, vocabulary.attributes.values()))


def flatten(vocabulary: Vocabulary) -> Vocabulary:
    """Make every category with one attribute of every set a category of its own: `red apple`.

    The words of the sets stand in the sets' order before the name. With q combinations, number j of
    category i gets the id (i - 1) · q + j, whatever other categories there are. Names, synonyms and
    `base` are kept; what is true of the plain name alone is not.

    Raises:
        VocabularyError: no attributes, more than `MOST_NAMES` names, two of them alike.
    """
    total = count_joint_names(vocabulary)
    if not vocabulary.attributes:
        raise VocabularyError(
            f"Vocabulary '{vocabulary.name}' has no attributes to multiply by.",
            hint="Give a set: --attributes colours",
        )
    if total > MOST_NAMES:
        factors = [f"{len(values):,} {name}" for name, values in vocabulary.attributes.items()]
        once = len(vocabulary) + sum(map(len, vocabulary.attributes.values()))
        raise VocabularyError(
            f"{len(vocabulary):,} names x {' x '.join(factors)} are {total:,} joint names; "
            f"at most {MOST_NAMES:,} are written.",
            hint=f"Leave out --flatten: labelling scores the {once:,} words and multiplies.",
        )
    return replace(
        vocabulary, categories=tuple(_joint_names(vocabulary)), attributes={}, parents=()
    )


def _joint_names(vocabulary: Vocabulary) -> Iterator[Category]:
    combinations = [" ".join(words) for words in itertools.product(*vocabulary.attributes.values())]
    for category in vocabulary.categories:
        first = (category.id - 1) * len(combinations) + 1
        for number, words in enumerate(combinations, first):
            yield Category(
                number,
                _joint(words, category.name),
                synonyms=tuple(_joint(words, synonym) for synonym in category.synonyms),
                base=category.base,
            )


def _joint(words: str, name: str) -> str:
    return f"{words} {name}".replace("_", " ")
