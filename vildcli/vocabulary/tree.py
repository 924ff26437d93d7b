"""A vocabulary as a tree of parents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vildcli.vocabulary.category import Category, Vocabulary


@dataclass(frozen=True, slots=True)
class Branch:
    """An entry and its place.

    Attributes:
        depth: 0 at the top.
        below: how many categories have it above them.
        is_parent: whether it is one of the vocabulary's `parents`, which nothing scores.
    """

    entry: Category
    depth: int
    below: int
    is_parent: bool


def branches(vocabulary: Vocabulary) -> list[Branch]:
    """All entries, each behind its parent; siblings in the vocabulary's order.

    An entry whose parent is not there is at the top, and so is the first of a circle.
    """
    entries = (*vocabulary.categories, *vocabulary.parents)
    known = {entry.name for entry in entries}
    first = {circle[0] for circle in circles(entries)}
    children: dict[str | None, list[Category]] = defaultdict(list)
    for entry in entries:
        is_top = entry.parent not in known or entry.name in first
        children[None if is_top else entry.parent].append(entry)
    scored = {category.name for category in vocabulary.categories}
    found: list[Branch] = []
    below: dict[str, int] = {}
    for entry, depth, is_done in _walk(children):
        if is_done:
            kinds = children.get(entry.name, ())
            below[entry.name] = sum(below[kind.name] + (kind.name in scored) for kind in kinds)
        else:
            found.append(Branch(entry, depth, 0, entry.name not in scored))
    return [Branch(b.entry, b.depth, below[b.entry.name], b.is_parent) for b in found]


def circles(entries: Sequence[Category]) -> list[tuple[str, ...]]:
    """Entries that are above themselves: each circle once, from the one that stands first."""
    above = {entry.name: entry.parent for entry in entries}
    met: set[str] = set()
    found = []
    for entry in entries:
        name: str | None = entry.name
        path: list[str] = []
        while name in above and name not in met:
            met.add(name)
            path.append(name)
            name = above[name]
        if name in path:
            found.append(tuple(path[path.index(name) :]))
    return found


def _walk(children: dict[str | None, list[Category]]) -> Iterator[tuple[Category, int, bool]]:
    """Every entry before and after all below it, however deep."""
    waiting = [(entry, 0, False) for entry in reversed(children.get(None, ()))]
    while waiting:
        entry, depth, is_done = waiting.pop()
        yield entry, depth, is_done
        if not is_done:
            waiting.append((entry, depth, True))
            kinds = children.get(entry.name, ())
            waiting.extend((kind, depth + 1, False) for kind in reversed(kinds))
