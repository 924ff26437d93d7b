"""Groups of categories whose labels suppress each other: parents with kinds, names of one thing."""

from __future__ import annotations

from collections.abc import Sequence

from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import same_things


def category_groups(categories: Sequence[Category], parents: Sequence[Category] = ()) -> list[int]:
    """The group number of each category: that of its topmost parent in the list.

    A circle of parents is one group. What a vocabulary only rolls up to (`parents`) makes no group:
    a cup and a chair are both instruments; but it leads on to the next category above it.
    """
    rows = {category.name: row for row, category in enumerate(categories)}
    onwards = {parent.name: parent.parent for parent in parents}
    leader = list(range(len(categories)))

    def top(row: int) -> int:
        while leader[row] != row:
            row = leader[row]
        return row

    def broader(category: Category) -> int | None:
        name, left = category.parent, len(onwards)
        while name is not None and name not in rows and left:  # a circle ends with the parents
            name, left = onwards.get(name), left - 1
        return rows.get(name or "")

    names = same_things(categories, categories)
    for row, (category, same) in enumerate(zip(categories, names, strict=True)):
        parent = broader(category)
        for other in (*same, *([] if parent is None else [parent])):
            leader[top(row)] = top(other)
    return [top(row) for row in range(len(categories))]
