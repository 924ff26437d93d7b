"""A vocabulary while entries are added to it: names stay unique, ids stay, no circle of parents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.names import NameOwners
from vildcli.vocabulary.senses import find_meanings, settled
from vildcli.vocabulary.wordnet import Sense, WordNet


class Growth:
    """A vocabulary that grows by what WordNet knows.

    Attributes:
        names: the entry that means a synset. Of several categories with one synset none does, for
            it is their wider group; a parent means just what its synset says.
        owners: whose names are taken.
    """

    def __init__(self, vocabulary: Vocabulary, wordnet: WordNet) -> None:
        self._vocabulary = vocabulary
        categories = find_meanings(vocabulary.categories, wordnet)
        parents = find_meanings(vocabulary.parents, wordnet)
        self._meanings = {m.category.name: m for m in (*categories, *parents)}
        sharing = Counter(m.sense.synset for m in categories if m.sense)
        alone = [m for m in categories if m.sense and sharing[m.sense.synset] == 1]
        self.names = {m.sense.synset: m.category.name for m in (*alone, *parents) if m.sense}
        self.owners = NameOwners(vocabulary)
        self._above = {
            e.name: e.parent for e in (*vocabulary.categories, *vocabulary.parents) if e.parent
        }
        self._moved: set[str] = set()
        self._new: list[Category] = []
        self._new_parents: list[Category] = []

    def sense(self, name: str | None) -> Sense | None:
        """What an entry means that was there before."""
        return self._meanings[name].sense if name in self._meanings else None

    def nearest(self, senses: Iterable[Sense]) -> str | None:
        """The entry that means the first of these that any entry means."""
        return next((self.names[s.synset] for s in senses if s.synset in self.names), None)

    def add(
        self,
        sense: Sense,
        *,
        parent: str | None = None,
        kind: Sense | None = None,
        is_parent: bool = False,
    ) -> str:
        """Add an entry that means a sense, under the first of its words that is free; its name.

        Args:
            kind: what it is a kind of: stands in parentheses behind a name that is not free.
            is_parent: among the vocabulary's `parents` instead of its categories.
        """
        qualified = f"{sense.lemmas[0]} ({kind.lemmas[0] if kind else sense.field})"
        name = self.owners.take((*sense.lemmas, qualified))
        entry = Category(0, name, sense.synset, definition=sense.definition, parent=parent)
        self.put(entry, is_parent=is_parent)
        return name

    def put(self, entry: Category, *, is_parent: bool = False) -> None:
        """Add an entry whose name was taken for it; it is numbered in the end."""
        (self._new_parents if is_parent else self._new).append(entry)
        if entry.synset:
            self.names[entry.synset] = entry.name
        if entry.parent:
            self._above[entry.name] = entry.parent

    def put_below(self, name: str, parent: str, *, instead: bool = False) -> None:
        """Give an entry that was there before a parent, unless that would make a circle.

        Args:
            instead: of the parent that it has; else that one stays.
        """
        if (instead or name not in self._above) and name not in self._ancestry(parent):
            self._above[name] = parent
            self._moved.add(name)

    def finish(self) -> Vocabulary:
        """The vocabulary; new entries have the ids behind the last one, categories first."""
        old = self._vocabulary
        last = max(entry.id for entry in (*old.categories, *old.parents))
        numbered = [
            replace(entry, id=number)
            for number, entry in enumerate((*self._new, *self._new_parents), last + 1)
        ]
        categories, parents = numbered[: len(self._new)], numbered[len(self._new) :]
        return replace(
            old,
            categories=(*map(self._placed, old.categories), *categories),
            parents=(*map(self._placed, old.parents), *parents),
        )

    def _ancestry(self, name: str) -> list[str]:
        """A name and all above it."""
        found: list[str] = []
        above: str | None = name
        while above is not None and above not in found:
            found.append(above)
            above = self._above.get(above)
        return found

    def _placed(self, entry: Category) -> Category:
        if entry.name not in self._moved:
            return entry
        return replace(settled(self._meanings[entry.name]), parent=self._above[entry.name])
