"""Which categories of an annotation file may be trained on: the base ones. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vildcli.errors import DataError
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.names import match_key, names_of, resolve_base, same_things

ALL = "all"


def base_flags(categories: Sequence[Category], base: str | None) -> list[bool]:
    """Decide for each category whether it is base.

    Args:
        base: a vocabulary, shipped or a file, that lists them; `all`; or None for those that LVIS
            does not call rare.

    Raises:
        DataError: nothing says which are base, or what says so contradicts itself: a name that
            means two categories, a listed category with `base: false`, a base and a novel category
            that are the same thing. Numbers for novel categories would be false.
    """
    if base == ALL:
        return [True] * len(categories)
    if base is not None:
        is_base = _listed(categories, load_vocabulary(base).categories, base)
    elif all(category.frequency is not None for category in categories):
        is_base = [category.frequency != "r" for category in categories]
    else:
        raise DataError(
            "The annotations have no LVIS frequencies, so base and novel are unknown.",
            hint="Name the base categories: --base coco-48, all, or a vocabulary file.",
        )
    _refuse_overlap(categories, is_base)
    return is_base


def _listed(categories: Sequence[Category], entries: Sequence[Category], base: str) -> list[bool]:
    found = same_things(categories, entries)
    if not any(found):
        raise DataError(
            f"The base list '{base}' names none of the {len(categories)} categories of the "
            "annotations.",
            hint="It must hold their names, synonyms or synsets; `all` makes every category base.",
        )
    for category, rows in zip(categories, found, strict=True):
        for row in rows:
            if category.base is False or entries[row].base is False:
                raise DataError(
                    f"'{category.name}' is both: in the base list '{base}' as "
                    f"'{entries[row].name}', and `base: false`.",
                    hint="Take it out of the list, or take `base: false` away.",
                )
    _refuse_ambiguous(categories, entries, base)
    return resolve_base(categories, entries)


def _refuse_ambiguous(
    categories: Sequence[Category], entries: Sequence[Category], base: str
) -> None:
    """Refuse an entry of two meanings, unless the list names both of them itself."""
    listed = {match_key(entry.name) for entry in entries}
    for entry, rows in zip(entries, same_things(entries, categories), strict=True):
        names = [categories[row].name for row in rows]
        if len(names) > 1 and not all(match_key(name) in listed for name in names):
            raise DataError(
                f"'{entry.name}' of the base list '{base}' means two categories of the "
                f"annotations: '{names[0]}' and '{names[1]}'.",
                hint="Give the list both names, or take out the synonym or synset that is wrong.",
            )


def _refuse_overlap(categories: Sequence[Category], is_base: Sequence[bool]) -> None:
    pairs = [(i, row) for i, rows in enumerate(same_things(categories, categories)) for row in rows]
    for first, second in pairs + _pairs_of_one_synset(categories):
        if is_base[first] and not is_base[second]:
            raise DataError(
                f"'{categories[first].name}' counts as base and '{categories[second].name}' as "
                "novel, but they are the same thing.",
                hint="Put both on one side. If they do differ, their synonyms or synsets must.",
            )


def _pairs_of_one_synset(categories: Sequence[Category]) -> list[tuple[int, int]]:
    """Rows that carry the same synset, one of them named after it; each pair both ways.

    Where none is, it is their wider group: two albatrosses under `albatross.n.02`.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, category in enumerate(categories):
        if category.synset is not None:
            groups[category.synset].append(row)
    return [
        pair
        for synset, rows in groups.items()
        for named in rows
        if _is_named_after(categories[named], synset)
        for other in rows
        for pair in ((named, other), (other, named))
    ]


def _is_named_after(category: Category, synset: str) -> bool:
    return match_key(synset.split(".")[0]) in map(match_key, names_of(category))
