"""Names: as a sentence says them, and when two of them mean the same thing.

The clean-up follows ViLD's published demo: underscores become spaces, slashes become "or", capitals
go, and parentheses stay ("bat (animal)"). Matching is wider than spelling: see `same_thing`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from vildcli.vocabulary.category import Category, Vocabulary

QUALIFIER = re.compile(r"\s*\([^)]*\)")


def clean_name(raw: str) -> str:
    """Turn a dataset's name into plain English: `Cabinet/shelf` → `cabinet or shelf`."""
    return " ".join(raw.replace("_", " ").replace("/", " or ").lower().split())


def article(raw: str) -> str:
    """Choose a or an by the raw name's first letter, as published: `Apple` and `hour` take "a"."""
    return "an" if raw.startswith(tuple("aeiou")) else "a"


def match_key(name: str) -> str:
    """Normalise a name for matching: case, underscores, hyphens and spaces fold; plurals do not."""
    return " ".join(clean_name(name.casefold()).replace("-", " ").split())


def names_of(category: Category) -> tuple[str, ...]:
    """The raw name and synonyms of a category, each spelling once, the name first."""
    by_key: dict[str, str] = {}
    for name in (category.name, *category.synonyms):
        by_key.setdefault(match_key(name), name)
    return tuple(by_key.values())


def same_thing(a: Category, b: Category) -> bool:
    """Tell whether two categories mean the same thing.

    They do when they carry the same synset or share a name or synonym. A plain name also stands
    for a qualified one (`bus` for `bus_(vehicle)`), and two different qualifiers never match. Where
    both synsets are known and differ, only a shared plain name still counts: annotators disagree
    about the senses of plain words, but a qualifier was written to tell two senses apart.
    """
    if a.synset is not None and a.synset == b.synset:
        return True
    keys_a, keys_b = _keys(a), _keys(b)
    plain_a, plain_b = _plain(keys_a), _plain(keys_b)
    if plain_a & plain_b:
        return True
    if a.synset is not None and b.synset is not None:
        return False
    return bool(keys_a & keys_b or plain_a & _bare(keys_b) or plain_b & _bare(keys_a))


def same_things(categories: Sequence[Category], others: Sequence[Category]) -> list[list[int]]:
    """For each category the rows of `others` that mean the same thing, ascending.

    A synset that several of `others` carry is their wider group (`tern.n.01` of three terns) and no
    sign that they are the same.
    """
    by_synset: dict[str, list[int]] = defaultdict(list)
    by_name: dict[str, list[int]] = defaultdict(list)
    for row, other in enumerate(others):
        if other.synset is not None:
            by_synset[other.synset].append(row)
        for key in _bare(_keys(other)):
            by_name[key].append(row)
    return [
        sorted(row for row in _candidates(c, by_synset, by_name) if same_thing(c, others[row]))
        for c in categories
    ]


def resolve_base(categories: Sequence[Category], base_categories: Sequence[Category]) -> list[bool]:
    """Decide for each category whether a model saw boxes of it.

    Its own `base:` decides; else it is base when the model's base list holds the same synset, name
    or synonym.
    """
    found = same_things(categories, base_categories)
    return [
        bool(rows) if c.base is None else c.base for c, rows in zip(categories, found, strict=True)
    ]


class NameOwners:
    """Whose names are taken: those of categories, parents and negatives, qualified ones bare too.

    A name is never given twice, nor bare where another has it with a qualifier: that was written to
    tell two things apart.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._owners: dict[str, list[str]] = defaultdict(list)
        for entry in (*vocabulary.categories, *vocabulary.parents):
            for name in names_of(entry):
                self._add(name, entry.name)
        for name in vocabulary.negatives:
            self._add(name, name)

    def of(self, name: str) -> list[str]:
        """Who has that name, however it is spelt."""
        return self._owners.get(match_key(name), [])

    def take(self, names: Iterable[str]) -> str:
        """Take the first of these names that nobody has; the last is numbered where all are had."""
        for name in names:
            if not self.of(name):
                self._add(name, name)
                return name
        return self.take(f"{name} {number}" for number in range(2, len(self._owners) + 3))

    def _add(self, name: str, owner: str) -> None:
        for key in _bare({match_key(name)}) | {match_key(name)}:
            self._owners[key].append(owner)


def _candidates(
    category: Category, by_synset: dict[str, list[int]], by_name: dict[str, list[int]]
) -> set[int]:
    named = by_synset.get(category.synset, []) if category.synset is not None else []
    return set(named if len(named) == 1 else ()).union(
        *(by_name.get(key, ()) for key in _bare(_keys(category)))
    )


def _keys(category: Category) -> set[str]:
    return {match_key(name) for name in (category.name, *category.synonyms)}


def _plain(keys: set[str]) -> set[str]:
    return {key for key in keys if "(" not in key}


def _bare(keys: set[str]) -> set[str]:
    return {QUALIFIER.sub("", key).strip() or key for key in keys}
