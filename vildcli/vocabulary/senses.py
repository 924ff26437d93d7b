"""Which meaning of WordNet a category has: that of its synset, else the likeliest of its name.

A bare name means, in this order: the sense that shares most words with what is in parentheses
behind the name, with its parent and its synonyms; a thing, an animal or a food rather than what
else can be seen, and that rather than the rest; the most frequent; one whose usual word it is. It
is ambiguous where another sense comes close. Writing `synset:` into the file settles it by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import QUALIFIER, clean_name, match_key
from vildcli.vocabulary.wordnet import Sense, WordNet

# Parts of the dictionary. Of LVIS's 1,202 synsets that WordNet knows, which people chose, these
# rules find 1,076 from the names alone, the most frequent sense 934: banana is a plant first.
_THINGS = frozenset({"artifact", "animal", "food"})
_VISIBLE = frozenset(
    {"plant", "body", "object", "person", "communication", "possession", "substance", "Tops"}
)
NEAR = 4  # a sense comes close that is a quarter as frequent as the one taken
_NO_HINT = frozenset({"a", "an", "the", "of", "for", "on", "in", "to", "with", "type", "kind"})


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a category means.

    Attributes:
        sense: None where WordNet does not know its synset, or none of its names.
        others: what else a bare name is about as likely to mean: in that part of the dictionary, a
            quarter as frequent at least.
    """

    category: Category
    sense: Sense | None
    others: tuple[Sense, ...] = ()


def find_meanings(categories: Sequence[Category], wordnet: WordNet) -> list[Meaning]:
    """The meaning of every category, in order; a synset that the category has is never replaced."""
    return [_meaning(category, wordnet) for category in categories]


def settled(meaning: Meaning) -> Category:
    """The category with its synset written, where it was bare."""
    category, sense = meaning.category, meaning.sense
    return category if category.synset or not sense else replace(category, synset=sense.synset)


def likely_senses(name: str, wordnet: WordNet, hints: Iterable[str] = ()) -> tuple[Sense, ...]:
    """What a name means by the rules above, and then what it is about as likely to mean."""
    found = _senses(QUALIFIER.sub("", name), wordnet)
    words = _words(" ".join([*QUALIFIER.findall(name), *hints])) - _NO_HINT
    if words and len(found) > 1:
        shared = [len(words & _about(sense, wordnet)) for sense in found]
        found = [s for s, count in zip(found, shared, strict=True) if count == max(shared)]
    best = min(map(_rank, found), default=0)
    return _most_frequent([s for s in found if _rank(s) == best], QUALIFIER.sub("", name), wordnet)


def _meaning(category: Category, wordnet: WordNet) -> Meaning:
    if category.synset is not None:
        return Meaning(category, wordnet.find(category.synset))
    for name in (category.name, *category.synonyms):
        hints = [category.parent or "", *(n for n in category.synonyms if n != name)]
        if found := likely_senses(name, wordnet, hints):
            return Meaning(category, found[0], found[1:])
    return Meaning(category, None)


def _most_frequent(senses: list[Sense], name: str, wordnet: WordNet) -> tuple[Sense, ...]:
    """The most frequent sense, then those that come close to it."""
    plain = clean_name(name)
    words = {match_key(plain), match_key(wordnet.singular(plain) or plain)}
    # How frequent it is, and, for what was never counted, whether the name is its usual word.
    weights = {s: (wordnet.frequency(s, plain), match_key(s.lemmas[0]) in words) for s in senses}
    ranked = sorted(senses, key=lambda s: weights[s], reverse=True)
    count, is_usual = weights[ranked[0]] if ranked else (0, False)
    near = (max(1, count / NEAR), False) if count else (0, is_usual)
    return tuple(s for s in ranked if s is ranked[0] or weights[s] >= near)


def _senses(name: str, wordnet: WordNet) -> list[Sense]:
    """Those of the name as it is written, else with hyphens for spaces, in one word, and so on."""
    plain = match_key(name)
    spellings = (clean_name(name), plain, plain.replace(" ", "-"), plain.replace(" ", ""))
    return list(next(filter(None, map(wordnet.senses, spellings)), ()))


def _about(sense: Sense, wordnet: WordNet) -> frozenset[str]:
    """Words of its definition, its lemmas, and those of all that it is a kind of."""
    wider = (lemma for above in wordnet.above(sense.synset) for lemma in above.lemmas)
    return _words(" ".join([sense.definition, *sense.lemmas, *wider]))


def _words(text: str) -> frozenset[str]:
    """Lower case, without the s of a plural."""
    return frozenset(w.removesuffix("s") for w in re.split(r"[\W_]+", text.lower()) if w)


def _rank(sense: Sense) -> int:
    return 0 if sense.field in _THINGS else 1 if sense.field in _VISIBLE else 2
