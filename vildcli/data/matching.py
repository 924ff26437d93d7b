"""Which image of a run is which image of an annotation set, and which category which. No torch.

Ids say nothing across files: two tools number the same images differently. Images match by their
relative path, else by a file name that only one image of each side has, else by the hash of the
file. Categories match by id and name both, else by name or synonym. What is in doubt is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import match_key, same_things


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image as one side knows it.

    Attributes:
        id: that side's own.
        paths: relative POSIX paths that it may be known by, the most telling first.
    """

    id: int
    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        return PurePosixPath(self.paths[0]).name


def match_images(
    images: Sequence[ImageFile],
    truth: Sequence[ImageFile],
    *,
    hash_of_image: Callable[[int], str | None] = lambda image_id: None,
    hash_of_truth: Callable[[int], str | None] = lambda image_id: None,
) -> dict[int, int]:
    """Match images to those of an annotation set.

    Args:
        images: of a run, say.
        truth: of the annotation set.
        hash_of_image: of an image's file; asked only where names leave an image over.
        hash_of_truth: the same for the truth.

    Returns:
        The truth's id for each id that has one; no truth is given twice.
    """
    found: dict[int, int] = {}
    spellings = max((len(image.paths) for image in images), default=0)
    for k in range(spellings):
        mine = {image.id: image.paths[k] for image in images if k < len(image.paths)}
        _add_unique(found, mine, {image.id: image.paths[0] for image in truth})
    _add_unique(found, {i.id: i.name for i in images}, {i.id: i.name for i in truth})
    left = [image.id for image in images if image.id not in found]
    taken = set(found.values())
    free = [image.id for image in truth if image.id not in taken]
    if left and free:
        _add_unique(found, _hashes(left, hash_of_image), _hashes(free, hash_of_truth))
    return found


def match_categories(categories: Sequence[Category], truth: Sequence[Category]) -> dict[int, int]:
    """Match categories to those of an annotation set; several may mean one of the truth's.

    Returns:
        The truth's id for each id that has one.
    """
    by_id = {category.id: category for category in truth}
    by_name: dict[str, list[int]] = {}
    for category in truth:
        by_name.setdefault(match_key(category.name), []).append(category.id)
    found: dict[int, int] = {}
    for category, same in zip(categories, same_things(categories, truth), strict=True):
        key = match_key(category.name)
        twin = by_id.get(category.id)
        if twin is not None and match_key(twin.name) == key:
            found[category.id] = twin.id
        elif len(named := by_name.get(key, [])) == 1:
            found[category.id] = named[0]
        elif len(same) == 1:
            found[category.id] = truth[same[0]].id
    return found


def _add_unique(found: dict[int, int], mine: Mapping[int, str], theirs: Mapping[int, str]) -> None:
    """Pair what carries a key that nothing else on its side does."""
    places = {key: id_ for id_, key in _unique(theirs.items())}
    taken = set(found.values())
    for id_, key in _unique(mine.items()):
        if id_ not in found and key in places and places[key] not in taken:
            found[id_] = places[key]


def _unique(items: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    rows = list(items)
    counts = Counter(key for _, key in rows)
    return [(id_, key) for id_, key in rows if counts[key] == 1]


def _hashes(ids: Iterable[int], hash_of: Callable[[int], str | None]) -> dict[int, str]:
    return {id_: digest for id_ in ids if (digest := hash_of(id_))}
