"""Groups of categories whose labels suppress each other: parents with kinds, names of one thing."""

from __future__ import annotations

from collections.abc import Sequence

from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import same_things


def category_groups(categories: Sequence[Category]) -> list[int]:
    """The group number of each category: that of its topmost parent in the list.

    A circle of parents is one group.
    """
    rows = {category.name: row for row, category in enumerate(categories)}
    leader = list(range(len(categories)))

    def top(row: int) -> int:
        while leader[row] != row:
            row = leader[row]
        return row

    names = same_things(categories, categories)
    for row, (category, same) in enumerate(zip(categories, names, strict=True)):
        parent = rows.get(category.parent or "")
        for other in (*same, *([] if parent is None else [parent])):
            leader[top(row)] = top(other)
    return [top(row) for row in range(len(categories))]
