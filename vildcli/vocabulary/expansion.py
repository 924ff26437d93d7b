"""Vocabularies grown by WordNet: synonyms of the names, kinds of a thing, parents to roll up to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.growth import Growth
from vildcli.vocabulary.names import NameOwners, match_key
from vildcli.vocabulary.senses import Meaning, find_meanings, likely_senses, settled
from vildcli.vocabulary.wordnet import Sense, WordNet

# The top of the dictionary is no name for anything seen (entity, object, artifact), but for these.
_NAMED_TOPS = frozenset({"animal.n.01", "person.n.01", "plant.n.02", "food.n.01"})


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A word that WordNet has for a category and that the category did not get.

    Attributes:
        reason: what else it is the name of.
    """

    category: str
    word: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kinds:
    """What `add_kinds` did.

    Attributes:
        added: names of the new categories.
        already_there: names of the categories that were among the kinds before.
    """

    added: tuple[str, ...]
    already_there: tuple[str, ...]


def with_synsets(
    vocabulary: Vocabulary, wordnet: WordNet
) -> tuple[Vocabulary, tuple[Meaning, ...]]:
    """Write into bare categories what they are taken to mean; and what every category means."""
    meanings = tuple(find_meanings(vocabulary.categories, wordnet))
    return replace(vocabulary, categories=tuple(map(settled, meanings))), meanings


def add_synonyms(
    vocabulary: Vocabulary, wordnet: WordNet
) -> tuple[Vocabulary, tuple[LeftOut, ...]]:
    """Give every category the other words of its synset; and list those that it did not get.

    A word is left out where it names another category, belongs to the synsets of several, or, read
    alone as in a prompt, rather means something else: `machine` is a word of the synset of car. A
    synset that several categories share is their wider group and gives none.
    """
    known = [(c, s) for c in vocabulary.categories if c.synset and (s := wordnet.find(c.synset))]
    sharing = Counter(sense.synset for _, sense in known)
    owners = NameOwners(vocabulary)
    claims: dict[str, list[str]] = defaultdict(list)
    for category, sense in known:
        for word in sense.lemmas:
            claims[match_key(word)].append(category.name)
    words: dict[str, list[str]] = defaultdict(list)
    left_out: list[LeftOut] = []
    for category, sense in known:
        for word in sense.lemmas if sharing[sense.synset] == 1 else ():
            named = owners.of(word)
            if category.name in named:
                continue
            others = [n for n in (*named, *claims[match_key(word)]) if n != category.name]
            reason = others[0] if others else _other_meaning(word, sense, wordnet)
            if reason:
                left_out.append(LeftOut(category.name, word, reason))
            else:
                words[category.name].append(word)
    categories = tuple(
        replace(c, synonyms=(*c.synonyms, *words[c.name])) for c in vocabulary.categories
    )
    return replace(vocabulary, categories=categories), tuple(left_out)


def add_kinds(
    vocabulary: Vocabulary, wordnet: WordNet, synset: str, depth: int | None = None
) -> tuple[Vocabulary, Kinds]:
    """Add the kinds of a thing as categories whose parents lead up to it.

    The thing itself is added where no category means it. Categories that are among the kinds stay,
    and get a parent if they have none.

    Args:
        depth: how many levels down; None for all.

    Raises:
        VocabularyError: WordNet has no such noun.
    """
    root = wordnet.sense(synset)
    growth = Growth(vocabulary, wordnet)
    added = [] if root.synset in growth.names else [growth.add(root)]
    already_there = []
    for level, sense, wider in wordnet.below(root.synset):
        if depth is not None and level > depth:
            break
        parent = growth.names[wider.synset]
        if there := growth.names.get(sense.synset):
            already_there.append(there)
            growth.put_below(there, parent)
        else:
            added.append(growth.add(sense, parent=parent, kind=wider))
    return growth.finish(), Kinds(tuple(added), tuple(already_there))


def add_hypernyms(vocabulary: Vocabulary, wordnet: WordNet) -> Vocabulary:
    """Give categories a parent, as far as WordNet's chains of wider terms meet in the vocabulary.

    A parent is an entry of the vocabulary, or a term in which the chains of two categories meet;
    such terms become the vocabulary's `parents`, which nothing scores. A parent that is there
    stays above its categories: nearer ones are put between, if WordNet has it above them too.
    """
    growth = Growth(vocabulary, wordnet)
    ladder = _Ladder(wordnet)
    chains = {
        entry.name: chain
        for entry in (*vocabulary.categories, *vocabulary.parents)
        if (chain := _chain(entry, growth, ladder))
    }
    for sense in _meetings(chains, growth, ladder):
        above = tuple(ladder.above(sense))
        kind = above[0] if above else None
        growth.add(sense, parent=growth.nearest(above), kind=kind, is_parent=True)
    for name, chain in chains.items():
        if parent := growth.nearest(chain):
            growth.put_below(name, parent, instead=True)
    return growth.finish()


class _Ladder:
    """WordNet's chains of wider terms, one way up: where there are two, the more specific term."""

    def __init__(self, wordnet: WordNet) -> None:
        self._wordnet = wordnet
        self._steps: dict[str, Sense | None] = {}

    def above(self, sense: Sense) -> Iterator[Sense]:
        step: Sense | None = sense
        while step:
            if step.synset not in self._steps:
                self._steps[step.synset] = next(iter(self._wordnet.wider(step.synset)), None)
            step = self._steps[step.synset]
            if step:
                yield step


def _chain(entry: Category, growth: Growth, ladder: _Ladder) -> tuple[Sense, ...]:
    """The terms above an entry, nearest first; none where its parent is not among them."""
    sense = growth.sense(entry.name)
    start = sense or growth.sense(entry.parent)
    if start is None:
        return ()
    # An entry that shares its synset, or has none but a known parent, begins at that group.
    is_own = sense is not None and growth.names.get(sense.synset) == entry.name
    chain = (*(() if is_own else (start,)), *ladder.above(start))
    known = {growth.names.get(above.synset) for above in chain}
    return chain if entry.parent is None or entry.parent in known else ()


def _meetings(
    chains: Mapping[str, tuple[Sense, ...]], growth: Growth, ladder: _Ladder
) -> list[Sense]:
    """Terms in which two chains meet and that no entry means, the widest first."""
    below: dict[str, set[tuple[str, str]]] = defaultdict(set)
    senses: dict[str, Sense] = {}
    for name, chain in chains.items():
        step = ("entry", name)
        for sense in chain:
            below[sense.synset].add(step)
            senses[sense.synset] = sense
            known = growth.names.get(sense.synset)
            step = ("entry", known) if known else ("term", sense.synset)
    found = [
        senses[synset]
        for synset, steps in below.items()
        if len(steps) > 1 and synset not in growth.names and _is_name(senses[synset])
    ]
    return sorted(found, key=lambda s: (sum(1 for _ in ladder.above(s)), s.synset))


def _other_meaning(word: str, sense: Sense, wordnet: WordNet) -> str | None:
    """What a word rather means alone, or None if it is this sense: the likeliest, most frequent."""
    count = wordnet.frequency(sense, word)
    oftener = (s for s in wordnet.senses(word) if wordnet.frequency(s, word) > count)
    other = next((s for s in (*likely_senses(word, wordnet)[:1], *oftener) if s != sense), None)
    return f"{other.synset}: {other.definition}" if other else None


def _is_name(sense: Sense) -> bool:
    return sense.field != "Tops" or sense.synset in _NAMED_TOPS
