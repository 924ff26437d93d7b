"""Average precision of a model on an LVIS annotation set, base and novel categories apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vildcli.data.lvis import AnnotationSet, load_annotations
from vildcli.evaluation.lvis import LvisResult, evaluate_lvis
from vildcli.evaluation.predict import Prediction, Scorer, predict
from vildcli.labelling.model import OpenedModel, open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.text.context import ScoringBank
from vildcli.vocabulary.category import Category, Vocabulary

SHUFFLE_SEED = 0


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Mask AP over all categories by LVIS's keys, and AP50 of the base and the novel ones, 0-1."""

    lvis: LvisResult
    base_ap50: float
    novel_ap50: float


def open_for_evaluation(
    annotations: AnnotationSet, model: str, *, regions: int, teacher: str | None = None
) -> OpenedModel:
    """A model that scores the annotation set's categories among themselves, with no context."""
    vocabulary = Vocabulary("evaluation", annotations.categories)
    options = LabellingOptions(model=model, teacher=teacher, regions=regions, context="none")
    return open_labelling_model(vocabulary, options)


def scorer_of(model: OpenedModel) -> Scorer:
    return Scorer(model.labeller.bank, model.labeller.head)


def shuffled(scorer: Scorer) -> Scorer:
    """Chance: the novel names exchange their embeddings, none keeping its own."""
    bank = scorer.bank
    novel = torch.where(~bank.is_base[: len(bank.category_ids)])[0]
    order = torch.randperm(len(novel), generator=torch.Generator().manual_seed(SHUFFLE_SEED))
    embeddings = bank.text_embeddings.clone()
    # A cycle through a random order moves every one.
    embeddings[novel[order]] = bank.text_embeddings[novel[order.roll(1)]]
    return Scorer(
        ScoringBank(embeddings, bank.category_ids, bank.is_base, bank.temperature), scorer.head
    )


def evaluate_model(
    truth: Path,
    images: Path,
    model: str,
    *,
    regions: int,
    advance: Callable[[], None] = lambda: None,
) -> SplitResult:
    """Mask AP of a model on an LVIS annotation set, by the publication's policy.

    Args:
        regions: proposals an image; the publication takes 1,000.
    """
    annotations = load_annotations(truth)
    opened = open_for_evaluation(annotations, model, regions=regions)
    scorer = scorer_of(opened)
    found = predict(
        lambda image: opened.detector.regions([image])[0],
        {"model": scorer},
        annotations,
        images,
        advance=advance,
    )
    return split_result(truth, found["model"], annotations.categories, scorer.bank.is_base.tolist())


def split_result(
    truth: Path,
    predictions: Sequence[Prediction],
    categories: Sequence[Category],
    is_base: Sequence[bool],
) -> SplitResult:
    result = evaluate_lvis(truth, predictions, iou_type="segm")
    base = [c.id for c, known in zip(categories, is_base, strict=True) if known]
    novel = [c.id for c, known in zip(categories, is_base, strict=True) if not known]
    return SplitResult(result, result.mean_ap50(base), result.mean_ap50(novel))
