"""Bird species found in WordNet, as the 200 of CUB-200-2011, and put below a vocabulary's bird.

WordNet does not know every species. One that it lacks has the nearest wider group as its parent.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vildcli.errors import VocabularyError
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.growth import Growth
from vildcli.vocabulary.names import match_key, names_of
from vildcli.vocabulary.wordnet import Sense, WordNet

BIRD = "bird.n.01"
How = Literal["name", "synonym", "scientific name", "genus", "group", "nothing"]

# CUB's class names lost their apostrophes, and some more.
_POSSESSIVE = re.compile(
    r"^(Brewer|Brandt|Heermann|Anna|Clark|Scott|Baird|Harris|Henslow|Le Conte|Lincoln|Nelson"
    r"|Forster|Swainson|Wilson|Bewick)s?(?= )"
)
_RESPELT = {
    "Artic Tern": "Arctic Tern",
    "Chuck-will Widow": "Chuck-will's-widow",
    "Western Wood Pewee": "Western Wood-Pewee",
    "Whip-poor Will": "Whip-poor-will",
}
# Species that WordNet knows by another common name, and groups that no word of the name tells.
_SCIENTIFIC = {
    "American Goldfinch": "Spinus tristis",
    "Common Raven": "Corvus corax",
    "Common Tern": "Sterna hirundo",
    "Eastern Towhee": "Pipilo erythrophthalmus",
    "European Goldfinch": "Carduelis carduelis",
    "Great Grey Shrike": "Lanius excubitor",
    "Northern Fulmar": "Fulmarus glacialis",
    "Ruby-throated Hummingbird": "Archilochus colubris",
}
_GROUPS = {
    "Gadwall": "dabbling duck",
    "Green Violetear": "hummingbird",
    "Spotted Catbird": "bowerbird",
    "White-necked Raven": "corvine bird",  # WordNet's raven is the common one alone
}
_SPELLINGS = {"grey": "gray", "vermillion": "vermilion"}
_AMERICAN = re.compile(r"America|New World|United States|U\.S\.|Mexico")


@dataclass(frozen=True, slots=True)
class SpeciesMatch:
    """Where a species stands in WordNet.

    Attributes:
        category: as the list of species has it, its name made readable.
        sense: the species itself, or with how="group" the nearest wider group.
        how: by which of its names it was found.
    """

    category: Category
    sense: Sense | None
    how: How

    @property
    def own(self) -> Sense | None:
        return None if self.how == "group" else self.sense

    @property
    def group(self) -> Sense | None:
        return self.sense if self.how == "group" else None


@dataclass(frozen=True, slots=True)
class SpeciesPlace:
    """A species in a vocabulary.

    Attributes:
        name: what it is called there.
        was_there: whether the vocabulary had it before.
    """

    match: SpeciesMatch
    name: str
    was_there: bool


def readable_species(raw: str) -> str:
    """A class name of CUB as birders write it: `001.Black_footed_Albatross`, `Brewer_Blackbird`.

    A name that is readable stays as it is.
    """
    words = re.sub(r"^(\d+ )?\d+\.", "", raw.strip()).replace("_", " ")
    if "_" in raw:
        words = re.sub(r" (?=[a-z])", "-", words)
    name = _RESPELT.get(words, words)
    return _POSSESSIVE.sub(r"\1's", name) if name == words else name


def match_species(species: Sequence[Category], wordnet: WordNet) -> tuple[SpeciesMatch, ...]:
    """Find species among WordNet's birds, each in the first of these ways.

    Its name or a synonym, however it is spelt; its scientific name, where WordNet knows another
    common one; as a genus, its only species; the last words of its name, which name a group. Of two
    birds of one name the American one is taken, as most of these species are.
    """
    birds = _Birds(wordnet)
    named = [replace(c, name=readable_species(c.name)) for c in species]
    return tuple(birds.match(category) for category in named)


def species_vocabulary(name: str, species: Sequence[Category], wordnet: WordNet) -> Vocabulary:
    """A vocabulary of species alone, with their synsets; bird and the groups are its `parents`."""
    matches = match_species(species, wordnet)
    categories = (replace(m.category, synset=m.own.synset if m.own else None) for m in matches)
    growth = Growth(Vocabulary(name, tuple(categories)), wordnet)
    bird = growth.add(wordnet.sense(BIRD), is_parent=True)
    _add_groups(growth, matches, bird)
    for match in matches:
        parent = growth.names[match.group.synset] if match.group else bird
        growth.put_below(match.category.name, parent)
    return growth.finish()


def add_species(
    vocabulary: Vocabulary, species: Sequence[Category], wordnet: WordNet
) -> tuple[Vocabulary, tuple[SpeciesPlace, ...]]:
    """Add bird species below the vocabulary's bird, where it has one; where each species is now.

    A species that the vocabulary has, by synset or by name, is not added again. One that WordNet
    lacks gets its group as parent: a category of the vocabulary, else one of its `parents`.

    Raises:
        VocabularyError: most of the names are no birds.
    """
    matches = match_species(species, wordnet)
    strangers = [m.category.name for m in matches if m.sense is None]
    if len(strangers) > len(matches) / 2:
        raise VocabularyError(
            f"{len(strangers)} of {len(matches)} species are no birds that WordNet knows: "
            f"{', '.join(strangers[:5])}.",
            hint="Give a list of birds, such as cub200. For other kinds, try --hyponyms SYNSET.",
        )
    growth = Growth(vocabulary, wordnet)
    before = dict(growth.names)
    named = {match_key(category.name): category.name for category in vocabulary.categories}
    bird = before.get(BIRD)
    _add_groups(growth, matches, bird)
    places = []
    for match in matches:
        name, own = match.category.name, match.own
        parent = growth.names[match.group.synset] if match.group else bird
        there = before.get(own.synset) if own else named.get(match_key(name))
        if there is None:
            name = growth.owners.take((name, f"{name} (bird)"))
            entry = replace(
                match.category, name=name, synset=own.synset if own else None, parent=parent
            )
            growth.put(entry)
        elif parent and match.sense:
            growth.put_below(there, parent)
        places.append(SpeciesPlace(match, there or name, there is not None))
    return growth.finish(), tuple(places)


def _add_groups(growth: Growth, matches: Sequence[SpeciesMatch], bird: str | None) -> None:
    """See to it that every group is an entry: below bird if it was there, else a parent."""
    groups = {m.group.synset: m.group for m in matches if m.group}
    for synset in sorted(groups):
        if synset not in growth.names:
            growth.add(groups[synset], parent=bird, is_parent=True)
        elif bird:
            growth.put_below(growth.names[synset], bird)


class _Birds:
    """WordNet's birds by each of their words, letters alone."""

    def __init__(self, wordnet: WordNet) -> None:
        self._wordnet = wordnet
        self._by_word: dict[str, list[Sense]] = defaultdict(list)
        for _, sense, _ in wordnet.below(BIRD):
            for lemma in sense.lemmas:
                self._by_word[_letters(lemma)].append(sense)

    def match(self, category: Category) -> SpeciesMatch:
        for name in names_of(category):
            if found := self._called(name):
                how: How = "name" if name == category.name else "synonym"
                return SpeciesMatch(category, _best(found), how)
        if found := self._called(_SCIENTIFIC.get(category.name, "")):
            return SpeciesMatch(category, found[0], "scientific name")
        for name in names_of(category):
            if found := self._of_genus(name):
                return SpeciesMatch(category, found[0], "genus")
        group = self._group(category.name)
        return SpeciesMatch(category, group, "group" if group else "nothing")

    def _called(self, name: str) -> list[Sense]:
        return self._by_word.get(_letters(name), [])

    def _of_genus(self, name: str) -> list[Sense]:
        genera = [
            s for s in self._wordnet.senses(name) if match_key(name) == match_key(s.lemmas[0])
        ]
        members = [m for genus in genera for m in self._wordnet.members(genus.synset)]
        return [m for m in members if m in self._called(m.lemmas[0])] if len(members) == 1 else []

    def _group(self, name: str) -> Sense | None:
        words = re.split(r"[ -]", name)
        tails = [" ".join(words[start:]) for start in range(1, len(words))]
        for tail in (_GROUPS.get(name, ""), *tails):
            if found := self._called(f"New World {tail}") or self._called(tail):
                usual = [s for s in found if _letters(s.lemmas[0]) == _letters(tail)]
                return _best(usual or found)
        return None


def _letters(name: str) -> str:
    """A name as it sounds: no spaces, hyphens, apostrophes; gray for grey."""
    words = (_SPELLINGS.get(word, word) for word in re.findall(r"[^\W\d_]+", name.lower()))
    return "".join(words)


def _best(senses: Sequence[Sense]) -> Sense:
    """An American bird, if one of them is."""
    return min(senses, key=lambda s: (not _AMERICAN.search(s.definition), s.synset))
