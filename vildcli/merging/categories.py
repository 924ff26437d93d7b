"""Several lists of categories as one: who means the same, and which ids are in each other's way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vildcli.data.matching import match_categories
from vildcli.errors import VocabularyError
from vildcli.vocabulary.category import Category


@dataclass(frozen=True, slots=True)
class MergedCategories:
    """One list of categories.

    Attributes:
        categories: those of the first list, then what each further one adds.
        owners: for each category the list it comes from.
        ids: for each list, the merged id of each of its own.
    """

    categories: tuple[Category, ...]
    owners: tuple[int, ...]
    ids: tuple[dict[int, int], ...]


def merge_categories(
    lists: Sequence[tuple[str, Sequence[Category]]], *, renumber: bool = False
) -> MergedCategories:
    """Merge named lists of categories; the first one's ids and names stay.

    A category is another list's by id and name both, else by name or synonym. What is new keeps its
    id where that is free.

    Args:
        renumber: give free ids, behind all that there are, to categories whose own are taken.

    Raises:
        VocabularyError: an id stands for two things, and `renumber` is off.
    """
    merged: list[Category] = []
    owners: list[int] = []
    ids: list[dict[int, int]] = []
    by_id: dict[int, tuple[str, Category]] = {}
    behind = 1 + max((c.id for _, categories in lists for c in categories), default=0)
    for place, (name, categories) in enumerate(lists):
        found = match_categories(categories, merged) if merged else {}
        new = [category for category in categories if category.id not in found]
        for category in new:
            if category.id in by_id:
                _refuse(name, category, *by_id[category.id], renumber)
                number, behind = behind, behind + 1
            else:
                number = category.id
            found[category.id] = number
            added = _with_id(category, number)
            by_id[number] = (name, added)
            merged.append(added)
            owners.append(place)
        ids.append(found)
    return MergedCategories(tuple(merged), tuple(owners), tuple(ids))


def _with_id(category: Category, number: int) -> Category:
    return category if category.id == number else replace(category, id=number)


def _refuse(name: str, category: Category, owner: str, taken: Category, renumber: bool) -> None:
    if not renumber:
        raise VocabularyError(
            f"The category id {category.id} is '{taken.name}' in {owner} and '{category.name}' in "
            f"{name}.",
            hint=f"--renumber gives '{category.name}' another id; exports of {name} keep the old "
            "one.",
        )
