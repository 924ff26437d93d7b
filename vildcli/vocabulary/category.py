"""Category and Vocabulary: the values every other part speaks of. Files: `files.py`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vildcli.errors import VocabularyError

FREQUENCIES = ("r", "c", "f")  # LVIS: rare, common, frequent


@dataclass(frozen=True, slots=True)
class Category:
    """One name to look for.

    Attributes:
        id: stable, unique, positive; survives to every export.
        name: as a person would write it.
        synset: WordNet synset name, such as `apple.n.01`.
        synonyms: other names of the same thing, averaged into its text embedding.
        frequency: r, c or f as in LVIS.
        parent: name of a broader category of the same vocabulary.
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


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ordered categories with unique ids and names, plus attribute sets and negatives.

    Attributes:
        negatives: names scored against, never reported.
        provenance: what made this vocabulary, step by step.

    Raises:
        VocabularyError: empty, a name or id twice, an id below 1, a threshold outside 0-1.
    """

    name: str
    categories: tuple[Category, ...]
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    negatives: tuple[str, ...] = ()
    provenance: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.categories:
            raise VocabularyError(f"Vocabulary '{self.name}' has no categories.")
        self._refuse_twice("name", Counter(c.name for c in self.categories))
        self._refuse_twice("id", Counter(c.id for c in self.categories))
        for category in self.categories:
            _check(category, self.name)

    def _refuse_twice(self, what: str, counts: Counter[Any]) -> None:
        twice = [str(key) for key, count in counts.items() if count > 1]
        if twice:
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
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Plain values in file order, empty fields left out."""
        return {
            "name": self.name,
            "categories": [_without_empty(asdict(c)) for c in self.categories],
            **_without_empty(
                {
                    "attributes": {k: list(v) for k, v in self.attributes.items()},
                    "negatives": list(self.negatives),
                    "provenance": [dict(step) for step in self.provenance],
                }
            ),
        }


def _check(category: Category, vocabulary: str) -> None:
    where = f"Category '{category.name}' of vocabulary '{vocabulary}'"
    if not category.name.strip():
        raise VocabularyError(f"A category of vocabulary '{vocabulary}' has an empty name.")
    if category.id < 1:
        raise VocabularyError(f"{where} has the id {category.id}.", hint="Ids start at 1.")
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
