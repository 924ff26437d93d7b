"""Thresholds are a view: a run stores every label above its floor, this says which are shown.

Export, review and contact sheet all look at a run through a `RunView`. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.errors import DataError, RunError
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
        """The labels of an image that reach their threshold, best first.

        Raises:
            DataError: a label's category is not in the run's vocabulary.
        """
        reaching = (label for label in image.labels if label.score >= self._threshold(label))
        return tuple(sorted(reaching, key=lambda label: (-label.score, label.label)))

    def _threshold(self, label: LabelRecord) -> float:
        try:
            return self.thresholds[label.category_id]
        except KeyError:
            raise DataError(
                f"{self.run / VOCABULARY_FILE} lacks category {label.category_id} of the labels.",
                hint="Thresholds may be edited there; categories may not.",
            ) from None


def view_run(run: Path, *, conf: float | None = None) -> RunView:
    """Open a labelling run for reading.

    Raises:
        RunError: not a labelling run, of a newer format, or nothing in it is finished.
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
    )


def _default_conf(header: Mapping[str, Any]) -> float | None:
    value = header.get("arguments", {}).get("default_conf")
    return None if value is None else float(value)


def _units_total(run: Path, done: int) -> int:
    plan = run / PLAN_FILE
    return len(read_table(plan, ["unit"]).column("unit").unique()) if plan.is_file() else done
