"""Everything that one evaluation has to say, from predictions that are there already. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vildcli.errors import ModelError
from vildcli.evaluation.agreement import Agreement
from vildcli.evaluation.engine import Engine, Errors
from vildcli.evaluation.evaluate import evaluate, evaluate_fixed
from vildcli.evaluation.failures import Outcome, Verdict, count_outcomes
from vildcli.evaluation.leaks import doubts, known_names, leaks, trained_novel
from vildcli.evaluation.lvis import MAX_DETECTIONS, best_of_images
from vildcli.evaluation.partial_boxes import OverlapBin
from vildcli.evaluation.predictions import Predictions, check_predictions
from vildcli.evaluation.proposals import evaluate_proposals
from vildcli.evaluation.published import PublishedNumber, published_beside
from vildcli.evaluation.result import Result
from vildcli.evaluation.truth import Truth
from vildcli.evaluation.voc import is_difficult

PROPOSAL_RECALL = "Proposal recall"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model or a run has seen.

    Attributes:
        name: what it is called in messages.
        provenance: of its weights and proposals.
        is_base: whether boxes of a category were trained on, by the truth's ids.
        knows_all: whether `is_base` speaks of every category; that of a run's labels does not.
    """

    name: str
    provenance: Mapping[str, Any]
    is_base: Mapping[int, bool]
    knows_all: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated, with all that was read or predicted of it.

    Attributes:
        predictions: of the protocol's own policy, or a run's labels.
        fixed: with no limit an image, for fixed AP; None where it was not asked for.
        proposals: by objectness; None where they were not asked for.
        verdicts: what became of each object.
        overlap_scores: score by overlap, where the scores of every region are known.
        agreements: of a run, how the shown labels of each term agree with the truth.
        files: of the truth's images, by id.
        notes: what was left out, and what a reader must know.
    """

    seen: Seen
    system: str | None
    truth: Truth
    predictions: Predictions | None = None
    fixed: Predictions | None = None
    proposals: Predictions | None = None
    verdicts: tuple[Verdict, ...] = ()
    overlap_scores: tuple[OverlapBin, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    files: Mapping[int, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """What speaks against calling a number zero-shot.

    Attributes:
        leaks: what has seen novel boxes, for certain.
        doubts: what nothing is known of.
    """

    leaks: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation; every number in 0-1, -1 where nothing was there to be found.

    Attributes:
        results: by the protocol's rules, then fixed AP.
        by_training: for each result, AP and AP50 of the categories whose boxes were trained on
            (base) and of the others; empty where that is not known of all.
        recalls: of proposals.
        outcomes: of all objects, and of those of the novel categories.
        errors: what keeps AP50 of boxes down.
        published: what the papers have on the same data set, by the title of the table.
    """

    subject: Subject
    results: tuple[Result, ...] = ()
    by_training: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    recalls: Mapping[str, float] = field(default_factory=dict)
    outcomes: Mapping[str, Mapping[Outcome, int]] = field(default_factory=dict)
    errors: Errors | None = None
    zero_shot: ZeroShot = ZeroShot()
    published: Mapping[str, tuple[PublishedNumber, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def judge_zero_shot(truth: Truth, seen: Seen) -> ZeroShot:
    """What speaks against calling this evaluation zero-shot."""
    novel = {c.id: c for c in truth.annotations.categories if c.id in truth.novel_ids}
    found = leaks(seen.provenance, truth.protocol.name)
    found += trained_novel(novel, seen.is_base, seen.provenance)
    return ZeroShot(tuple(found), tuple(doubts(seen.provenance)))


def refuse_leaks(truth: Truth, seen: Seen) -> None:
    """Refuse what is not zero-shot, or cannot be shown to be.

    Raises:
        ModelError: with the first thing that speaks against it.
    """
    found = judge_zero_shot(truth, seen)
    if reasons := (*found.leaks, *found.doubts):
        raise ModelError(
            f"{seen.name} is not zero-shot on {truth.protocol.name}: {reasons[0]}",
            hint="Leave --strict out to see its numbers all the same.",
        )


def novel_ids(truth: Truth, seen: Seen) -> frozenset[int]:
    """Novel categories: the protocol's, else those the model was not trained on, else all."""
    if truth.novel_ids:
        return truth.novel_ids
    every = frozenset(category.id for category in truth.annotations.categories)
    unseen = frozenset(i for i in every if not seen.is_base.get(i, False))
    return unseen if seen.knows_all and unseen else every


def report_on(subject: Subject) -> Report:
    """Evaluate whatever of a subject is there.

    Raises:
        DataError: predictions that would make a number wrong.
    """
    known = known_names(subject.seen.provenance)
    subject = replace(subject, notes=(*subject.notes, *known))
    report = Report(subject, zero_shot=judge_zero_shot(subject.truth, subject.seen))
    if subject.predictions is not None:
        report = _with_precision(report, subject.predictions)
    if subject.proposals is not None:
        report = _with_recall(report, subject.proposals)
    if not subject.truth.is_of_its_data_set:
        return report
    system, protocol = subject.system, subject.truth.protocol.name
    titles = [result.title for result in report.results]
    titles += [PROPOSAL_RECALL] if report.recalls else []
    found = {title: published_beside(protocol, title, system) for title in titles}
    return replace(report, published={title: rows for title, rows in found.items() if rows})


def _with_precision(report: Report, predictions: Predictions) -> Report:
    subject = report.subject
    truth, seen = subject.truth, subject.seen
    results, warnings = evaluate(truth, predictions)
    if subject.fixed is not None:
        results += evaluate_fixed(truth, subject.fixed)
    every = frozenset(category.id for category in truth.annotations.categories)
    asked = {"all": every, "novel": novel_ids(truth, seen)}
    return replace(
        report,
        results=results,
        by_training=_by_training(results, seen),
        outcomes={name: count_outcomes(subject.verdicts, ids) for name, ids in asked.items()},
        errors=_errors(truth, predictions),
        warnings=warnings,
    )


def _by_training(results: tuple[Result, ...], seen: Seen) -> dict[str, dict[str, float]]:
    base = [i for i, known in seen.is_base.items() if known]
    novel = [i for i, known in seen.is_base.items() if not known]
    if not seen.knows_all or not base or not novel:
        return {}
    groups = {"base": base, "novel": novel}
    return {
        result.title: {
            **{f"{name} AP": result.mean_ap(ids) for name, ids in groups.items()},
            **{f"{name} AP50": result.mean_ap50(ids) for name, ids in groups.items()},
        }
        for result in results
    }


def _errors(truth: Truth, predictions: Predictions) -> Errors:
    """Of the best 300 boxes of an image; difficult objects count as crowds do: not at all."""
    rows = [{**row, "iscrowd": int(is_difficult(row))} for row in truth.content["annotations"]]
    best = replace(best_of_images(predictions), masks=None)
    engine = Engine({**truth.content, "annotations": rows}, best)
    return engine.errors(limit=MAX_DETECTIONS, lvis=truth.protocol.rules == "lvis")


def _with_recall(report: Report, proposals: Predictions) -> Report:
    truth, seen = report.subject.truth, report.subject.seen
    groups = dict(truth.groups)
    if not groups and seen.knows_all:
        ids = seen.is_base.items()
        groups = {
            "novel": frozenset(i for i, known in ids if not known),
            "base": frozenset(i for i, known in ids if known),
        }
    warnings = check_predictions(proposals, truth.content, ("bbox",))
    recalls = evaluate_proposals(truth.content, proposals, groups)
    return replace(report, recalls=recalls, warnings=(*report.warnings, *warnings))
