"""What a run holds, counted in one pass over its records; memory does not grow with it. No torch.

Of each category a few examples are kept: where to find them, not what they look like.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vildcli.errors import DataError
from vildcli.labelling.records import FAILED, read_part
from vildcli.labelling.thresholds import VOCABULARY_FILE, RunView

BINS = 50  # of all scores together
CATEGORY_BINS = 25
FAILURES = 100  # that are listed
EXAMPLES = 4  # of each kind

_LABEL_COLUMNS = ("image_id", "label", "region", "category_id", "score", "attributes")
_IMAGE_COLUMNS = ("image_id", "source", "path", "status", "reason")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Example:
    """Where a label is: its unit, image, number within the image, region."""

    unit: int
    image_id: int
    label: int
    region: int
    category_id: int
    score: float


@dataclass(slots=True)
class CategoryTally:
    """Labels of one category.

    Attributes:
        stored, shown: labels; those that reach the threshold.
        images: with a shown label.
        chosen: of these, images that are to be reviewed next.
        total: sum of shown scores.
        histogram: stored labels by score, [CATEGORY_BINS].
    """

    stored: int = 0
    shown: int = 0
    images: int = 0
    chosen: int = 0
    total: float = 0.0
    histogram: Ints = field(default_factory=lambda: np.zeros(CATEGORY_BINS, np.int64))
    _ranked: dict[str, list[tuple[float, Example]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    @property
    def mean(self) -> float:
        return self.total / self.shown if self.shown else 0.0

    def keep(self, kind: str, found: list[tuple[float, Example]]) -> None:
        # The later kinds must not show again what the earlier ones do.
        most = {"best": EXAMPLES, "worst": 2 * EXAMPLES, "random": 3 * EXAMPLES}[kind]
        ranked = sorted([*self._ranked[kind], *found], key=lambda row: (row[0], row[1].image_id))
        self._ranked[kind] = ranked[:most]

    def examples(self) -> dict[str, list[Example]]:
        """Best, worst and random shown labels, one an image, none twice."""
        taken: set[tuple[int, int]] = set()
        found = {}
        for kind in ("best", "worst", "random"):
            own = [
                example
                for _, example in self._ranked[kind]
                if (example.image_id, example.label) not in taken
            ][:EXAMPLES]
            taken |= {(example.image_id, example.label) for example in own}
            found[kind] = own
        return found


@dataclass(slots=True)
class AttributeTally:
    """Shown labels whose best value of an attribute set is this one; `total` is of its scores."""

    labels: int = 0
    total: float = 0.0
    categories: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class Tally:
    """A run in numbers.

    Attributes:
        images, failed, labelled: all; that could not be read; with a shown label.
        stored, shown: labels.
        histograms: stored and shown labels by score, [2, BINS].
        categories: that have stored labels.
        attributes: by set and value.
        failures: path and reason of the first few.
        places: unit and path of each image that was asked for and is there.
    """

    images: int = 0
    failed: int = 0
    labelled: int = 0
    stored: int = 0
    shown: int = 0
    histograms: Ints = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    categories: dict[int, CategoryTally] = field(default_factory=dict)
    attributes: dict[str, dict[str, AttributeTally]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    places: dict[int, tuple[int, str]] = field(default_factory=dict)

    def ranked(self) -> list[int]:
        """Categories with stored labels, those with most shown ones first."""
        rows = self.categories.items()
        return [i for i, _ in sorted(rows, key=lambda row: (-row[1].shown, -row[1].stored, row[0]))]


def tally_run(
    view: RunView, *, chosen: Collection[int] = (), wanted: Collection[int] = ()
) -> Tally:
    """Count a run's finished units.

    Args:
        chosen: ids of the images that are to be reviewed next.
        wanted: ids of images whose place is asked for.

    Raises:
        DataError: a record is damaged, or its category is not in the vocabulary.
    """
    tally = Tally()
    chosen_ids = np.fromiter(chosen, np.int64, len(chosen))
    for unit in view.units:
        _count_images(tally, view, unit, frozenset(wanted))
        _count_labels(tally, view, unit, chosen_ids)
    return tally


def _count_images(tally: Tally, view: RunView, unit: int, wanted: frozenset[int]) -> None:
    table = read_part(view.run, "images", unit, _IMAGE_COLUMNS)
    tally.images += len(table)
    for row in table.to_pylist():
        name = f"{row['source']}/{row['path']}"
        if row["image_id"] in wanted:
            tally.places[row["image_id"]] = unit, name
        if row["status"] == FAILED:
            tally.failed += 1
            if len(tally.failures) < FAILURES:
                tally.failures.append((name, row["reason"] or ""))


def _count_labels(tally: Tally, view: RunView, unit: int, chosen: Ints) -> None:
    table = read_part(view.run, "labels", unit, _LABEL_COLUMNS).combine_chunks()
    if not len(table):
        return
    columns = {name: table.column(name).to_numpy() for name in _LABEL_COLUMNS[:-1]}
    columns["score"] = columns["score"].astype(np.float64)
    columns["lot"] = _lots(columns["image_id"], columns["label"])
    shown = columns["score"] >= _limits(view, columns["category_id"])
    tally.stored += len(shown)
    tally.shown += int(shown.sum())
    tally.labelled += len(np.unique(columns["image_id"][shown]))
    tally.histograms[0] += _histogram(columns["score"], BINS)
    tally.histograms[1] += _histogram(columns["score"][shown], BINS)
    for category_id, rows in _groups(columns["category_id"]):
        own = tally.categories.setdefault(category_id, CategoryTally())
        _count_category(own, unit, columns, rows, rows[shown[rows]], chosen)
    if view.vocabulary.attributes:
        _count_attributes(tally, table.filter(pa.array(shown)))


def _count_category(
    tally: CategoryTally, unit: int, columns: dict[str, Any], rows: Ints, shown: Ints, chosen: Ints
) -> None:
    scores = columns["score"]
    tally.stored += len(rows)
    tally.shown += len(shown)
    tally.total += float(scores[shown].sum())
    tally.histogram += _histogram(scores[rows], CATEGORY_BINS)
    if not len(shown):
        return
    images = np.unique(columns["image_id"][shown])
    tally.images += len(images)
    tally.chosen += int(np.isin(images, chosen).sum())
    drawn = columns["lot"][shown]
    for kind, keys in (("best", -scores[shown]), ("worst", scores[shown]), ("random", drawn)):
        order = np.argsort(keys, kind="stable")
        _, first = np.unique(columns["image_id"][shown][order], return_index=True)
        picks = order[np.sort(first)[: 3 * EXAMPLES]]
        found = [
            (float(keys[pick]), _example(unit, columns, int(shown[pick])))
            for pick in picks.tolist()
        ]
        tally.keep(kind, found)


def _example(unit: int, columns: dict[str, Any], row: int) -> Example:
    image_id, label, region, category_id = (
        int(columns[name][row]) for name in ("image_id", "label", "region", "category_id")
    )
    return Example(unit, image_id, label, region, category_id, float(columns["score"][row]))


def _count_attributes(tally: Tally, shown: pa.Table) -> None:
    pairs = zip(
        shown.column("category_id").to_pylist(), shown.column("attributes").to_pylist(), strict=True
    )
    for category_id, attributes in pairs:
        for best in attributes or ():
            values = tally.attributes.setdefault(best["set"], {})
            own = values.setdefault(best["name"], AttributeTally())
            own.labels += 1
            own.total += best["score"]
            own.categories[category_id] += 1


def _limits(view: RunView, category_ids: Ints) -> Floats:
    ids, place = np.unique(category_ids, return_inverse=True)
    for category_id in ids.tolist():
        if category_id not in view.thresholds:
            raise DataError(
                f"{view.run / VOCABULARY_FILE} lacks category {category_id} of the labels.",
                hint="Thresholds may be edited there; categories may not.",
            )
    return np.array([view.thresholds[i] for i in ids.tolist()], np.float64)[place]


def _groups(category_ids: Ints) -> Iterator[tuple[int, Ints]]:
    """Each category that is there with its rows."""
    order = np.argsort(category_ids, kind="stable")
    ids, starts = np.unique(category_ids[order], return_index=True)
    yield from zip(ids.tolist(), np.split(order, starts[1:]), strict=True)


def _histogram(scores: Floats, bins: int) -> Ints:
    place = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
    return np.bincount(place, minlength=bins)


def _lots(image_ids: Ints, labels: Ints) -> Floats:
    """A number in 0-1 for each label, the same in every report: splitmix64 of its identity."""
    state = image_ids.astype(np.uint64) * np.uint64(1_000_003) + labels.astype(np.uint64)
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    lots: Floats = state.astype(np.float64) / 2.0**64
    return lots
