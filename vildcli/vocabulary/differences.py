"""What changed between two vocabularies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from vildcli.vocabulary.category import Category, Vocabulary

_FIELDS = tuple(f.name for f in fields(Category))


@dataclass(frozen=True, slots=True)
class Difference:
    """One change from A to B.

    Attributes:
        what: category, parent, attribute, attribute set, negative, or name (the vocabulary's).
        name: of what changed, as B has it where both have it.
        field: which value of a category changed; None where it came or went.
        before: value in A, None where A lacks it.
        after: value in B, None where B lacks it.
    """

    what: str
    change: Literal["added", "removed", "changed"]
    name: str
    field: str | None = None
    before: Any = None
    after: Any = None


def differences(a: Vocabulary, b: Vocabulary) -> list[Difference]:
    """Changes from A to B. Categories are the same by name, else by id; order does not count."""
    return [
        *_of_entries("category", a.categories, b.categories),
        *_of_entries("parent", a.parents, b.parents),
        *_of_attributes(a, b),
        *_of_names("negative", a.negatives, b.negatives),
    ]


def _of_entries(
    what: str, before: Sequence[Category], after: Sequence[Category]
) -> Iterator[Difference]:
    by_name = {entry.name: entry for entry in after}
    kept = {entry.name for entry in before} & by_name.keys()
    by_id = {entry.id: entry for entry in after if entry.name not in kept}
    pairs = [(e, by_name.get(e.name) or by_id.get(e.id)) for e in before]
    found = {other.name for _, other in pairs if other}
    for old, new in pairs:
        if new is None:
            yield Difference(what, "removed", old.name)
            continue
        for name in _FIELDS:
            values = getattr(old, name), getattr(new, name)
            if values[0] != values[1]:
                yield Difference(what, "changed", new.name, name, *map(_plain, values))
    for entry in after:
        if entry.name not in found:
            yield Difference(what, "added", entry.name)


def _of_attributes(a: Vocabulary, b: Vocabulary) -> Iterator[Difference]:
    yield from _of_names("attribute set", tuple(a.attributes), tuple(b.attributes))
    for name in a.attributes:
        if name in b.attributes:
            yield from _of_names(f"attribute of {name}", a.attributes[name], b.attributes[name])


def _of_names(what: str, before: Sequence[str], after: Sequence[str]) -> Iterator[Difference]:
    yield from (Difference(what, "removed", name) for name in before if name not in after)
    yield from (Difference(what, "added", name) for name in after if name not in before)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
