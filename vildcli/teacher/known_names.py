"""The names that are known when regions are chosen, which are more than a strict open vocabulary.

EZSD's teacher scores regions against the names of novel categories too: no box of them is seen, but
their names are. So a cache, and every result from it, says which names those were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vildcli.errors import DataError
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.names import same_things

BASE, ALL = "base", "all"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class KnownNames:
    """Names known at training time.

    Attributes:
        which: `base`, `all`, or the vocabulary that was given.
        categories: C names.
        is_base: of each.
    """

    which: str
    categories: tuple[Category, ...]
    is_base: tuple[bool, ...]

    def as_settings(self) -> dict[str, Any]:
        names = json.dumps([category.name for category in self.categories])
        return {
            "which": self.which,
            "count": len(self.categories),
            "beyond_base": self.is_base.count(False),
            "fingerprint": hashlib.sha256(names.encode()).hexdigest()[:16],
        }


def known_names(
    reference: str, categories: Sequence[Category], is_base: Sequence[bool]
) -> KnownNames:
    """The names that `--names` stands for.

    Args:
        reference: `base`, `all` of the data's categories, or a vocabulary.
        categories: of the data; is_base: [C] of them.

    Raises:
        DataError: the vocabulary misses base categories, or there is nothing to choose between.
    """
    pairs = list(zip(categories, is_base, strict=True))
    base = [category for category, flag in pairs if flag]
    if reference == BASE:
        found = KnownNames(BASE, tuple(base), (True,) * len(base))
    elif reference == ALL:
        found = KnownNames(ALL, tuple(categories), tuple(is_base))
    else:
        found = _listed(reference, base)
    if len(found.categories) < 2:
        raise DataError(
            f"The names '{reference}' are {len(found.categories)}, and a teacher without a choice "
            "is sure of everything.",
            hint="Give at least two names.",
        )
    return found


def _listed(reference: str, base: Sequence[Category]) -> KnownNames:
    entries = load_vocabulary(reference).categories
    rows = same_things(base, entries)
    missed = [category.name for category, found in zip(base, rows, strict=True) if not found]
    if missed:
        shown = ", ".join(missed[:_SHOWN]) + (", …" if len(missed) > _SHOWN else "")
        raise DataError(
            f"The names '{reference}' miss {len(missed)} of {len(base)} base categories: {shown}.",
            hint="What is known at training time holds the base categories at least: add them, or "
            "give --names base or all.",
        )
    meant = {row for found in rows for row in found}
    return KnownNames(reference, tuple(entries), tuple(i in meant for i in range(len(entries))))
