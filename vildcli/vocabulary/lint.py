"""What is wrong with a vocabulary, and what its author may want to know.

A problem makes labels worse whatever was meant: two categories share a prompt, a parent is missing.
A note may be on purpose: an attribute that is a category too (orange), a name in the plural.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.names import (
    QUALIFIER,
    NameOwners,
    article,
    clean_name,
    match_key,
    names_of,
    same_things,
)
from vildcli.vocabulary.senses import find_meanings
from vildcli.vocabulary.tree import circles
from vildcli.vocabulary.wordnet import WordNet

_BLOCK = 2**24  # cosines at once: 64 MiB
_JOINERS = "\u200c\u200d"  # parts of Persian and Indian words, and of emoji
_QUALIFIED = re.compile(r"[^()]+\([^()]+\)")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the linter found.

    Attributes:
        check: which check found it, such as `plural`.
        names: the categories, attributes or negatives that it is about.
        message: a sentence without its full stop.
    """

    level: Literal["problem", "note"]
    check: str
    names: tuple[str, ...]
    message: str


def lint(vocabulary: Vocabulary, wordnet: WordNet | None = None) -> list[Finding]:
    """Check a vocabulary, problems first; without WordNet a part of the checks is left out."""
    found = [
        *_alike(vocabulary.categories),
        *_unreadable(vocabulary),
        *_parents(vocabulary),
        *_negatives(vocabulary),
        *_attributes(vocabulary),
        *_qualifiers(vocabulary.categories),
        *_shared_synsets(vocabulary.categories),
        *_plurals(vocabulary.categories, wordnet),
        *(_unknown(vocabulary.categories, wordnet) if wordnet else ()),
    ]
    return sorted(found, key=lambda finding: (finding.level != "problem", finding.check))


def lint_lengths(names: Sequence[tuple[str, str, int]], limit: int) -> list[Finding]:
    """Prompts that a text encoder would cut.

    Args:
        names: category, the name or synonym that is read, and the tokens of its longest prompt.
        limit: tokens that the encoder reads, the two at the ends included.
    """
    return [
        Finding(
            "problem",
            "too long",
            (category,),
            f"a prompt of '{name}' has {tokens} tokens, and the encoder reads {limit}",
        )
        for category, name, tokens in names
        if tokens > limit
    ]


def lint_embeddings(
    names: Sequence[str],
    embeddings: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    limit: float,
) -> list[Finding]:
    """Categories that a text encoder hardly tells apart.

    Args:
        embeddings: [C, D] unit norm.
        limit: cosine above which two are near-duplicates.
    """
    found = []
    rows = max(1, _BLOCK // len(names))
    for start in range(0, len(names), rows):
        cosines = embeddings[start : start + rows] @ embeddings.T
        for row, column in np.argwhere(cosines > limit):
            if start + row < column:
                pair = names[start + row], names[column]
                found.append((float(cosines[row, column]), pair))
    return [
        Finding(
            "problem",
            "near-duplicate",
            pair,
            f"'{pair[0]}' and '{pair[1]}' have text embeddings of cosine {cosine:.3f}",
        )
        for cosine, pair in sorted(found, reverse=True)
    ]


def _alike(categories: Sequence[Category]) -> Iterator[Finding]:
    """Categories that are the same sentence to an encoder, or mean the same to labelling."""
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for category in categories:
        by_prompt[clean_name(category.name).rstrip(".")].append(category.name)
    for prompt, names in by_prompt.items():
        if len(names) > 1:
            listed = " and ".join(f"'{name}'" for name in names)
            message = f"{listed} are all read as '{prompt}'"
            yield Finding("problem", "same prompt", tuple(names), message)
    for row, same in enumerate(same_things(categories, categories)):
        a = categories[row]
        for b in (categories[other] for other in same if other > row):
            if b.name not in by_prompt[clean_name(a.name).rstrip(".")]:
                yield Finding("problem", "same thing", (a.name, b.name), _why_same(a, b))


def _why_same(a: Category, b: Category) -> str:
    shared = {match_key(n): n for n in names_of(a)}.keys() & {match_key(n) for n in names_of(b)}
    if not shared:
        return f"'{a.name}' and '{b.name}' have the same name, one with a qualifier"
    return f"'{a.name}' and '{b.name}' share the name '{min(shared)}'"


def _unreadable(vocabulary: Vocabulary) -> Iterator[Finding]:
    texts = [(c.name, name) for c in vocabulary.categories for name in (c.name, *c.synonyms)]
    texts += [(value, value) for values in vocabulary.attributes.values() for value in values]
    texts += [(name, name) for name in vocabulary.negatives]
    for owner, text in texts:
        latin = all(map(_is_latin, text))
        hidden = [c for c in text if _is_hidden(c) and (latin or c not in _JOINERS)]
        if hidden:
            codes = ", ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(hidden))
            message = f"{text!a} holds letters that cannot be seen: {codes}"
            yield Finding("problem", "unreadable", (owner,), message)
        elif text != " ".join(text.split()):
            message = f"{text!r} has spaces at an end or several in a row"
            yield Finding("problem", "spaces", (owner,), message)
        elif not latin:
            message = f"'{text}' is not written in Latin letters, and CLIP was taught in English"
            yield Finding("note", "script", (owner,), message)


def _parents(vocabulary: Vocabulary) -> Iterator[Finding]:
    entries = (*vocabulary.categories, *vocabulary.parents)
    known = {entry.name for entry in entries}
    children: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.parent is not None and entry.parent not in known:
            children[entry.parent].append(entry.name)
    for parent, names in children.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        message = f"'{parent}', the parent of '{names[0]}'{more}, is no category and no parent"
        yield Finding("problem", "parent", tuple(names), message)
    for circle in circles(entries):
        message = f"parents go round in a circle: {' → '.join((*circle, circle[0]))}"
        yield Finding("problem", "circle", circle, message)


def _negatives(vocabulary: Vocabulary) -> Iterator[Finding]:
    owners = _owners_of_categories(vocabulary)
    for name in vocabulary.negatives:
        for owner in owners.of(name)[:1]:
            message = f"the negative '{name}' is the category '{owner}'"
            yield Finding("problem", "negative", (name, owner), message)


def _attributes(vocabulary: Vocabulary) -> Iterator[Finding]:
    owners = _owners_of_categories(vocabulary)
    sets: dict[str, list[str]] = defaultdict(list)
    for set_name, values in vocabulary.attributes.items():
        for value in values:
            sets[match_key(value)].append(set_name)
            for owner in owners.of(value)[:1]:
                message = f"the {set_name} '{value}' is the category '{owner}' too"
                yield Finding("note", "attribute", (value, owner), message)
    for value, names in sets.items():
        if len(names) > 1:
            message = f"the attribute '{value}' is in {len(names)} sets: {', '.join(names)}"
            yield Finding("note", "attribute", (value,), message)


def _qualifiers(categories: Sequence[Category]) -> Iterator[Finding]:
    for category in categories:
        name = category.name
        if "(" in name and not _QUALIFIED.fullmatch(name):
            message = f"'{name}' is not a name with one qualifier at its end"
            yield Finding("note", "qualifier", (name,), message)


def _shared_synsets(categories: Sequence[Category]) -> Iterator[Finding]:
    names: dict[str, list[str]] = defaultdict(list)
    for category in categories:
        if category.synset:
            names[category.synset].append(category.name)
    for synset, sharing in names.items():
        if len(sharing) > 1:
            message = f"{len(sharing)} categories share the synset {synset}: {', '.join(sharing)}"
            yield Finding("note", "synset", tuple(sharing), message)


def _plurals(categories: Sequence[Category], wordnet: WordNet | None) -> Iterator[Finding]:
    by_key: dict[str, Category] = {match_key(c.name): c for c in categories}
    for category in categories:
        key = match_key(category.name)
        single = _singular(key, wordnet, by_key)
        if single is None or single == key:
            continue
        if other := by_key.get(single):
            message = f"'{category.name}' is the plural of '{other.name}'"
            yield Finding("problem", "plural", (category.name, other.name), message)
        else:
            said = f"{article(category.name)} {clean_name(category.name)}"
            message = f"'{category.name}' is the plural of '{single}', and prompts say '{said}'"
            yield Finding("note", "plural", (category.name,), message)


def _singular(key: str, wordnet: WordNet | None, known: Mapping[str, Category]) -> str | None:
    """The singular, if WordNet knows it; else another category's name that only lacks an ending."""
    if wordnet and (found := wordnet.singular(key)):
        return match_key(found)
    endings = (("ies", "y"), ("es", ""), ("s", ""))
    singles = (key.removesuffix(old) + new for old, new in endings if key.endswith(old))
    return next((single for single in singles if single in known), None)


def _unknown(categories: Sequence[Category], wordnet: WordNet) -> Iterator[Finding]:
    for meaning in find_meanings(categories, wordnet):
        category, sense = meaning.category, meaning.sense
        if sense is None and category.synset:
            message = f"WordNet has no synset '{category.synset}' of '{category.name}'"
            yield Finding("note", "WordNet", (category.name,), message)
        elif sense is None and category.parent is None:
            near = wordnet.respelt(match_key(category.name))
            meant = f"; is it {' or '.join(near)}?" if near else ""
            message = f"WordNet does not know '{category.name}'{meant}"
            yield Finding("note", "WordNet", (category.name,), message)
        elif sense and not _words(*names_of(category)) & _words(*sense.lemmas):
            message = (
                f"'{category.name}' shares no word with its synset {sense.synset}"
                f" ({', '.join(sense.lemmas)})"
            )
            yield Finding("note", "synset", (category.name,), message)


def _words(*names: str) -> set[str]:
    """Words without the s of a plural, and names without spaces."""
    keys = [QUALIFIER.sub("", match_key(name)) for name in names]
    return {word.removesuffix("s") for key in keys for word in (*key.split(), key.replace(" ", ""))}


def _owners_of_categories(vocabulary: Vocabulary) -> NameOwners:
    return NameOwners(Vocabulary(vocabulary.name, vocabulary.categories))


def _is_hidden(letter: str) -> bool:
    """Controls, marks of direction, letters of no alphabet."""
    return unicodedata.category(letter)[0] == "C"


def _is_latin(letter: str) -> bool:
    if letter.isalpha():
        return "LATIN" in unicodedata.name(letter, "")
    return unicodedata.category(letter) != "So"  # emoji and other pictures
