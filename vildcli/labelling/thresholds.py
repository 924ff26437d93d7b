"""Thresholds are a view: a run stores every label above its floor, this says which are shown.

Export, review and contact sheet all look at a run through a `RunView`, which may also ask for
attributes: `colour=red` shows the labels whose best colour is red. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vildcli.errors import DataError, RunError, VocabularyError
from vildcli.labelling.plan import PLAN_FILE
from vildcli.labelling.records import (
    ImageRecord,
    LabelledImage,
    LabelRecord,
    done_units,
    iter_images,
    iter_labelled_images,
    read_table,
)
from vildcli.runs import read_run
from vildcli.vocabulary.category import Category, Vocabulary

FALLBACK_CONF = 0.3
VOCABULARY_FILE = "vocabulary.yaml"


def display_threshold(
    category: Category, *, conf: float | None = None, default_conf: float | None = None
) -> float:
    """The score in 0-1 from which labels of a category are shown: the first one given of

    `--conf`, the category's own threshold in the vocabulary, the model's `default_conf`, 0.3.
    """
    for threshold in (conf, category.threshold, default_conf):
        if threshold is not None:
            return threshold
    return FALLBACK_CONF


@dataclass(frozen=True, slots=True)
class RunView:
    """The finished part of a labelling run as it was when opened, with the thresholds to see it at.

    Attributes:
        fingerprint: of the run's settings.
        categories: of the vocabulary, by id.
        thresholds: score from which a label is shown, for each category id.
        where: of an attribute set, the values of which a label must have one for its best.
        joint: whether labels are ranked by Pr(v, a | e) instead of Pr(v | e).
        units: the finished units; what a growing run adds later is not seen.
        units_total: how many units the run's plan has.
    """

    run: Path
    fingerprint: str
    vocabulary: Vocabulary
    categories: Mapping[int, Category]
    thresholds: Mapping[int, float]
    units: tuple[int, ...]
    units_total: int
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)
    joint: bool = False

    @property
    def is_complete(self) -> bool:
        return len(self.units) >= self.units_total

    @property
    def progress_text(self) -> str:
        return f"{len(self.units)} of {self.units_total} units are done"

    def images(self) -> Iterator[ImageRecord]:
        return iter_images(self.run, self.units)

    def labelled_images(self) -> Iterator[LabelledImage]:
        """Every image with all its stored labels."""
        return iter_labelled_images(self.run, self.units)

    def shown(self, image: LabelledImage) -> tuple[LabelRecord, ...]:
        """The labels of an image that reach their threshold and are asked for, best first.

        Raises:
            DataError: a label's category is not in the run's vocabulary.
        """
        reaching = (label for label in image.labels if label.score >= self._threshold(label))
        asked_for = filter(self._is_asked_for, reaching)
        return tuple(sorted(asked_for, key=lambda label: (-self.rank(label), label.label)))

    def _is_asked_for(self, label: LabelRecord) -> bool:
        best = {attribute.set: attribute.name for attribute in label.attributes}
        return all(best.get(name) in values for name, values in self.where.items())

    def rank(self, label: LabelRecord) -> float:
        """The score that labels are ranked by, 0-1: Pr(v | e), or with `joint` Pr(v, a | e).

        Of the attribute sets those count that are asked for, or all where none is.
        """
        if not self.joint:
            return label.score
        counted = (a.score for a in label.attributes if not self.where or a.set in self.where)
        return label.score * math.prod(counted)

    def _threshold(self, label: LabelRecord) -> float:
        try:
            return self.thresholds[label.category_id]
        except KeyError:
            raise DataError(
                f"{self.run / VOCABULARY_FILE} lacks category {label.category_id} of the labels.",
                hint="Thresholds may be edited there; categories may not.",
            ) from None


def view_run(
    run: Path, *, conf: float | None = None, where: Sequence[str] = (), joint: bool = False
) -> RunView:
    """Open a labelling run for reading.

    Args:
        conf: score from which labels are shown, as for `display_threshold`.
        where: such as `colour=red`; several of one set are alternatives, several sets must all
            hold.
        joint: rank labels by Pr(v, a | e): of the sets that `where` names, or of all.

    Raises:
        RunError: not a labelling run, of a newer format, or nothing in it is finished.
        VocabularyError: the run's vocabulary lacks an attribute that is asked for.
    """
    from vildcli.vocabulary.files import load_vocabulary

    header = read_run(run, "labelling")
    units = tuple(done_units(run))
    if not units:
        raise RunError(
            f"{run} has no finished unit yet.",
            hint="Run the same detect command again to finish it.",
        )
    vocabulary = load_vocabulary(run / VOCABULARY_FILE)
    if "roll_up" in header["settings"]:  # labels may then be parents as well
        entries = (*vocabulary.categories, *vocabulary.parents)
        vocabulary = replace(vocabulary, categories=entries, parents=())
    default_conf = _default_conf(header)
    thresholds = {
        category.id: display_threshold(category, conf=conf, default_conf=default_conf)
        for category in vocabulary.categories
    }
    return RunView(
        run=run,
        fingerprint=header["fingerprint"],
        vocabulary=vocabulary,
        categories=vocabulary.by_id(),
        thresholds=thresholds,
        units=units,
        units_total=_units_total(run, len(units)),
        where=_wanted(vocabulary, where, joint),
        joint=joint,
    )


def _wanted(
    vocabulary: Vocabulary, where: Sequence[str], joint: bool
) -> Mapping[str, frozenset[str]]:
    known = vocabulary.attributes
    if (where or joint) and not known:
        raise VocabularyError(
            "The run's vocabulary has no attributes.",
            hint="Label again with one that has some, such as colours.",
        )
    wanted: dict[str, frozenset[str]] = {}
    for text in where:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise VocabularyError(
                f"'{text}' names no value of an attribute.", hint="Write for example: colour=red"
            )
        if name not in known:
            raise VocabularyError(
                f"The run's vocabulary has no attribute set '{name}'.",
                hint=f"It has: {', '.join(known)}.",
            )
        if value not in known[name]:
            raise VocabularyError(
                f"'{value}' is no {name} of the run's vocabulary.",
                hint=f"It has: {', '.join(known[name])}.",
            )
        wanted[name] = wanted.get(name, frozenset()) | {value}
    return wanted


def _default_conf(header: Mapping[str, Any]) -> float | None:
    value = header.get("arguments", {}).get("default_conf")
    return None if value is None else float(value)


def _units_total(run: Path, done: int) -> int:
    plan = run / PLAN_FILE
    return len(read_table(plan, ["unit"]).column("unit").unique()) if plan.is_file() else done
