"""Average precision of a model on an annotation set, base and novel categories apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vildcli.data.lvis import AnnotationSet
from vildcli.data.matching import match_categories
from vildcli.evaluation.evaluate import evaluate
from vildcli.evaluation.predict import Scorer, predict
from vildcli.evaluation.predictions import Predictions
from vildcli.evaluation.result import Result
from vildcli.evaluation.truth import Truth, load_truth
from vildcli.labelling.model import OpenedModel, open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.text.context import ScoringBank
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary

SHUFFLE_SEED = 0
_OWN_SPELLINGS = ("voc", "objects365")  # names such as diningtable need their plain synonyms


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Mask AP over all categories by LVIS's keys, and AP50 of the base and the novel ones, 0-1."""

    lvis: Result
    base_ap50: float
    novel_ap50: float


def open_for_evaluation(
    annotations: AnnotationSet,
    model: str,
    *,
    regions: int,
    teacher: str | None = None,
    options: LabellingOptions | None = None,
) -> OpenedModel:
    """A model that scores the annotation set's categories among themselves, with no context.

    Args:
        regions: proposals an image.
        options: what else is chosen: device, prompts, fusion, ….
    """
    chosen = replace(
        options or LabellingOptions(), model=model, teacher=teacher, regions=regions, context="none"
    )
    # Annotation files may count from 0 and vocabularies may not.
    numbered = tuple(replace(c, id=i) for i, c in enumerate(annotations.categories, start=1))
    opened = open_labelling_model(Vocabulary("evaluation", numbered), chosen)
    ids = torch.tensor([category.id for category in annotations.categories])
    bank = opened.labeller.bank
    bank = replace(bank, category_ids=ids[bank.category_ids - 1])
    return replace(opened, labeller=replace(opened.labeller, bank=bank))


def named_for(truth: Truth) -> AnnotationSet:
    """The annotation set with what the shipped vocabulary of its data set knows of its names.

    Synsets decide between base and novel. Synonyms become part of a text embedding only where the
    data set's own spelling is no English: a model trained on a data set was trained on its names.
    """
    shipped = load_vocabulary(truth.protocol.vocabulary).categories
    annotations = truth.annotations
    found = match_categories(annotations.categories, shipped)
    by_id = {category.id: category for category in shipped}

    def known(category: Category) -> Category:
        if category.synset is not None or category.id not in found:
            return category
        twin = by_id[found[category.id]]
        synonyms = category.synonyms
        if truth.protocol.name in _OWN_SPELLINGS:
            synonyms += tuple(s for s in twin.synonyms if s not in synonyms)
        return replace(category, synset=twin.synset, synonyms=synonyms)

    return replace(annotations, categories=tuple(map(known, annotations.categories)))


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
    annotations = load_truth(truth, "lvis").annotations
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
    predictions: Predictions,
    categories: Sequence[Category],
    is_base: Sequence[bool],
) -> SplitResult:
    results, _ = evaluate(load_truth(truth, "lvis"), predictions)
    of_masks = results[-1]
    base = [c.id for c, known in zip(categories, is_base, strict=True) if known]
    novel = [c.id for c, known in zip(categories, is_base, strict=True) if not known]
    return SplitResult(of_masks, of_masks.mean_ap50(base), of_masks.mean_ap50(novel))
