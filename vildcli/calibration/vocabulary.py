"""Thresholds in a copy of a vocabulary, with the model and context that they hold for. No torch.

A step of the vocabulary's provenance says which: `detect` and `relabel` compare it with what they
are about to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vildcli import __version__
from vildcli.calibration.calibrate import Calibration
from vildcli.runs import fingerprint
from vildcli.vocabulary.category import Category, Vocabulary

STEP = "calibrate"
# Settings of a labelling run that decide scores, and which labels are left to have one.
_DECIDING = (
    "system", "model", "teacher", "proposals", "text_encoder", "prompts", "context", "text_bank",
    "fusion", "tile", "nms",
)  # fmt: skip


def with_thresholds(
    vocabulary: Vocabulary,
    calibration: Calibration,
    settings: Mapping[str, Any],
    *,
    truth: str,
) -> Vocabulary:
    """A copy with the new thresholds; terms that the truth does not have keep theirs.

    Args:
        vocabulary: of the run.
        settings: of the run.
        truth: what the labels were judged by, such as the hash of its file.
    """
    values = calibration.thresholds.values

    def with_its_own(category: Category) -> Category:
        return replace(category, threshold=values.get(category.id, category.threshold))

    deciding = _deciding(settings)
    step = {
        "step": STEP,
        "vildcli": __version__,
        "target_precision": calibration.target,
        "method": calibration.method,
        "truth": truth,
        "fingerprint": fingerprint(deciding),
        "holds_for": deciding,
    }
    return replace(
        vocabulary,
        categories=tuple(map(with_its_own, vocabulary.categories)),
        parents=tuple(map(with_its_own, vocabulary.parents)),
        provenance=(*vocabulary.provenance, step),
    )


def foreign_settings(vocabulary: Vocabulary, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of settings by which calibrated thresholds do not hold for labels made with these.

    Empty too where the thresholds were not calibrated. A merged run, or one that was relabelled
    long ago, does not say what made its regions: what only one side says counts where both say it.
    """
    steps = [step for step in vocabulary.provenance if step.get("step") == STEP]
    if not steps or not isinstance(steps[-1].get("holds_for"), Mapping):
        return ()
    there, here = steps[-1]["holds_for"], _deciding(settings)
    names = there.keys() & here.keys()
    if "system" in names:  # both are whole
        names = there.keys() | here.keys()
    return tuple(key for key in _DECIDING if key in names and there.get(key) != here.get(key))


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in _DECIDING if settings.get(key) is not None}
