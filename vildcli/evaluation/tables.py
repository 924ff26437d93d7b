"""An evaluation as the tables that people know: official summaries, categories, ours and theirs.

No torch. Numbers are as evaluated, in 0-1; published ones are in percent, and so is what stands
beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vildcli.evaluation.published import PublishedNumber
from vildcli.evaluation.result import ABSENT, Result
from vildcli.evaluation.truth import Truth

_AREAS = {"s": "small", "m": "medium", "l": "large"}
_RANGE = "0.50:0.95"


def summary_lines(result: Result, rules: str) -> list[str]:
    """The summary as the official package of `rules` prints it; else a line for each number."""
    form = {"coco": _coco_line, "lvis": _lvis_line}.get(rules)
    if form is None:
        width = max(map(len, result.metrics))
        return [f" {key:<{width}} = {value:0.3f}" for key, value in result.metrics.items()]
    return [form(key, value) for key, value in result.metrics.items()]


def _coco_line(key: str, value: float) -> str:
    """A line of pycocotools: AP, AP50, APs, AR@10, ARs@100."""
    name, _, limit = key.partition("@")
    title, kind = _titles(name)
    rest = name[2:]
    threshold = f"0.{rest}" if rest.isdigit() else _RANGE
    area = _AREAS.get(rest, "all")
    return (
        f" {title:<18} {kind} @[ IoU={threshold:<9} | area={area:>6s} | "
        f"maxDets={limit or '100':>3s} ] = {value:0.3f}"
    )


def _lvis_line(key: str, value: float) -> str:
    """A line of lvis: AP, AP50, APs, APr, AR@300, ARs@300."""
    name, _, limit = key.partition("@")
    title, kind = _titles(name)
    rest = name[2:]
    threshold = f"0.{rest}" if rest.isdigit() else _RANGE
    area = rest if rest in _AREAS else "all"
    group = rest if rest in ("r", "c", "f") else "all"
    return (
        f" {title:<18} {kind} @[ IoU={threshold:<9} | area={area:>6s} | "
        f"maxDets={limit or '300':>3s} catIds={group:>3s}] = {value:0.3f}"
    )


def _titles(name: str) -> tuple[str, str]:
    return ("Average Recall", "(AR)") if name.startswith("AR") else ("Average Precision", "(AP)")


@dataclass(frozen=True, slots=True)
class CategoryRow:
    """One category that has truth; AP and recall in 0-1.

    Attributes:
        group: the protocol's group that it belongs to, where it has any.
        objects, images: annotated ones, crowds included.
    """

    id: int
    name: str
    group: str
    objects: int
    images: int
    ap: float
    ap50: float
    recall50: float


CATEGORY_COLUMNS = ("id", "name", "group", "objects", "images", "AP", "AP50", "recall50")


def category_rows(truth: Truth, result: Result) -> list[CategoryRow]:
    """How each category did, the best first."""
    content = truth.content
    objects = Counter(row["category_id"] for row in content["annotations"])
    places = {(row["category_id"], row["image_id"]) for row in content["annotations"]}
    images = Counter(category_id for category_id, _ in places)
    groups = {id_: name for name, ids in truth.groups.items() for id_ in ids}
    rows = [
        CategoryRow(
            id=category.id,
            name=category.name,
            group=groups.get(category.id, ""),
            objects=objects[category.id],
            images=images[category.id],
            ap=found.ap,
            ap50=found.ap50,
            recall50=found.recall50,
        )
        for category in truth.annotations.categories
        if (found := result.categories.get(category.id)) is not None
    ]
    return sorted(rows, key=lambda row: (-row.ap, row.id))


def beside_published(
    metrics: Mapping[str, float], published: Sequence[PublishedNumber]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Ours and what was published, in percent.

    Returns:
        Columns and rows: a row a source, a column a number that any of them gives.
    """
    keys = [key for key in metrics if any(key in row.values for row in published)]

    def cells(values: Mapping[str, float]) -> list[str]:
        return [f"{values[key]:.1f}" if key in values else "–" for key in keys]

    ours = {key: 100 * value for key, value in metrics.items() if value > ABSENT}
    rows = [("this", *cells(ours))]
    rows += [(row.label, *cells(row.values)) for row in published]
    return ("", *keys), rows
