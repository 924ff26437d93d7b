"""Category and Vocabulary: the values every other part speaks of. Files: `files.py`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from vildcli.errors import VocabularyError

FREQUENCIES = ("r", "c", "f")  # LVIS: rare, common, frequent
LARGEST_ID = 2**63 - 1  # what the records can hold


@dataclass(frozen=True, slots=True)
class Category:
    """One name to look for.

    Attributes:
        id: stable, unique, positive; survives to every export.
        name: as a person would write it.
        synset: WordNet synset name, such as `apple.n.01`.
        synonyms: other names of the same thing, averaged into its text embedding.
        frequency: r, c or f as in LVIS.
        parent: name of a broader category, or of one of the vocabulary's parents.
        threshold: score from which it is shown, 0-1.
        base: whether a model saw boxes of it, where that is known better than by name.
    """

    id: int
    name: str
    synset: str | None = None
    synonyms: tuple[str, ...] = ()
    definition: str | None = None
    frequency: str | None = None
    parent: str | None = None
    threshold: float | None = None
    base: bool | None = None


def category_from_dict(values: Mapping[str, Any]) -> Category:
    """Read what `dataclasses.asdict` gave, lists for tuples as JSON has them."""
    return Category(**{**values, "synonyms": tuple(values["synonyms"])})


_FIELDS = tuple(f.name for f in fields(Category))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ordered categories with unique ids and names, plus attribute sets and negatives.

    Attributes:
        negatives: names scored against, never reported.
        provenance: what made this vocabulary, step by step.
        parents: broader names that labels can be rolled up to; neither scored nor looked for.

    Raises:
        VocabularyError: empty, a name or id twice, an id below 1, a threshold outside 0-1.
    """

    name: str
    categories: tuple[Category, ...]
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    negatives: tuple[str, ...] = ()
    provenance: tuple[Mapping[str, Any], ...] = ()
    parents: tuple[Category, ...] = ()

    def __post_init__(self) -> None:
        if not self.categories:
            raise VocabularyError(f"Vocabulary '{self.name}' has no categories.")
        entries = (*self.categories, *self.parents)
        self._refuse_twice("name", [c.name for c in entries])
        self._refuse_twice("id", [c.id for c in entries])
        for category in entries:
            _check(category, self.name)

    def _refuse_twice(self, what: str, keys: Sequence[Any]) -> None:
        if len(set(keys)) < len(keys):
            twice = [str(key) for key, count in Counter(keys).items() if count > 1]
            raise VocabularyError(
                f"Vocabulary '{self.name}' has the {what} {', '.join(twice[:5])} more than once.",
                hint=f"Every {what} must be unique; remove or rename the doubles.",
            )

    def __len__(self) -> int:
        return len(self.categories)

    def by_id(self) -> dict[int, Category]:
        return {category.id: category for category in self.categories}

    def fingerprint(self) -> str:
        """Hash of all that can change a label; not of thresholds, definitions or provenance."""
        relevant = [(c.id, c.name, c.synset, c.synonyms, c.parent, c.base) for c in self.categories]
        content = [relevant, {k: list(v) for k, v in self.attributes.items()}, self.negatives]
        if self.parents:
            content.append([(c.id, c.name, c.synset, c.parent) for c in self.parents])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Plain values in file order, empty fields left out."""
        return {
            "name": self.name,
            "categories": [category_as_dict(c) for c in self.categories],
            **_without_empty(
                {
                    "parents": [category_as_dict(c) for c in self.parents],
                    "attributes": {k: list(v) for k, v in self.attributes.items()},
                    "negatives": list(self.negatives),
                    "provenance": [dict(step) for step in self.provenance],
                }
            ),
        }


def category_as_dict(category: Category) -> dict[str, Any]:
    """Plain values in the order of a file, empty fields left out."""
    return _without_empty({name: getattr(category, name) for name in _FIELDS})


def _check(category: Category, vocabulary: str) -> None:
    where = f"Category '{category.name}' of vocabulary '{vocabulary}'"
    if not category.name.strip():
        raise VocabularyError(f"A category of vocabulary '{vocabulary}' has an empty name.")
    if category.id < 1:
        raise VocabularyError(f"{where} has the id {category.id}.", hint="Ids start at 1.")
    if category.id > LARGEST_ID:
        raise VocabularyError(
            f"{where} has the id {category.id}.", hint=f"Ids go up to {LARGEST_ID}."
        )
    if category.frequency is not None and category.frequency not in FREQUENCIES:
        raise VocabularyError(f"{where} has the frequency {category.frequency!r}, not r, c or f.")
    if category.threshold is not None and not 0 <= category.threshold <= 1:
        raise VocabularyError(f"{where} has the threshold {category.threshold}, not 0 to 1.")


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return {
        k: plain(v) for k, v in values.items() if v is not None and v != () and v != [] and v != {}
    }
