"""Average precision of a model on an annotation set, base and novel categories apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vildcli.data.lvis import AnnotatedImage, AnnotationSet
from vildcli.data.matching import match_categories
from vildcli.evaluation.evaluate import evaluate
from vildcli.evaluation.failures import Judge, NamedRegions
from vildcli.evaluation.partial_boxes import OverlapScores
from vildcli.evaluation.predict import (
    BestOfCategories,
    BestOfImages,
    Collection,
    Scorer,
    predict,
)
from vildcli.evaluation.predictions import Predictions, concatenate
from vildcli.evaluation.proposals import LIMITS as PROPOSAL_LIMITS
from vildcli.evaluation.proposals import proposals_of_image
from vildcli.evaluation.report import Seen, Subject
from vildcli.evaluation.result import Result
from vildcli.evaluation.truth import Truth, load_truth
from vildcli.labelling.model import (
    CROPPED_REGIONS,
    LoadedModel,
    OpenedModel,
    load_labelling_model,
)
from vildcli.labelling.options import CLIP_ON_CROPS, LabellingOptions
from vildcli.labelling.words import ClosedSet
from vildcli.teacher.clip_on_crops import CropDetector
from vildcli.text.context import ScoringBank
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.names import same_things

REGIONS = 1000  # proposals an image, as published
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
    return _named_by(annotations, load_labelling_model(chosen))


def _named_by(annotations: AnnotationSet, loaded: LoadedModel) -> OpenedModel:
    # Annotation files may count from 0 and vocabularies may not.
    numbered = tuple(replace(c, id=i) for i, c in enumerate(annotations.categories, start=1))
    opened = loaded.open(Vocabulary("evaluation", numbered))
    ids = torch.tensor([category.id for category in annotations.categories])
    bank = opened.labeller.bank
    bank = replace(bank, category_ids=ids[bank.category_ids - 1])
    return replace(opened, labeller=replace(opened.labeller, bank=bank))


def open_subject(truth: Truth, options: LabellingOptions) -> tuple[OpenedModel, Seen]:
    """A model that scores the truth's names, and what it has seen.

    A supervised model that knows part of the names only, but none that the truth lacks, scores that
    part: the others are never found.

    Args:
        truth: of any data set: its names need not be those that the model was trained on.
        options: the model and what else is chosen; 1,000 regions by default, 100 of them where
            each costs a crop.

    Raises:
        ModelError: as `open_labelling_model`.
    """
    crops = options.model == CLIP_ON_CROPS or options.teacher is not None
    regions = options.regions or (CROPPED_REGIONS if crops else REGIONS)
    loaded = load_labelling_model(replace(options, regions=regions, context="none"))
    opened = _named_by(_known_names(named_for(truth), loaded), loaded)
    bank = opened.labeller.bank
    ids = bank.category_ids.tolist()
    is_base = dict.fromkeys((c.id for c in truth.annotations.categories), False)
    is_base |= dict(zip(ids, bank.is_base[: len(ids)].tolist(), strict=True))
    return opened, Seen(options.model, opened.provenance, is_base, knows_all=True)


def _known_names(annotations: AnnotationSet, loaded: LoadedModel) -> AnnotationSet:
    """The part that a supervised model knows, where that is all it knows; else everything."""
    closed = loaded.parts.words
    if not isinstance(closed, ClosedSet):
        return annotations
    found = same_things(annotations.categories, closed.categories)
    known = tuple(c for c, rows in zip(annotations.categories, found, strict=True) if rows)
    if len({row for rows in found for row in rows}) < len(closed.categories):
        return annotations
    return replace(annotations, categories=known)


def predict_subject(
    truth: Truth,
    opened: OpenedModel,
    seen: Seen,
    images: Path,
    *,
    fixed: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Subject:
    """Predict every image of the truth, by the publication's policy.

    Args:
        images: folder of the truth's images.
        fixed: keep the best 10,000 of each category too, for fixed AP.
    """
    scorer = scorer_of(opened)
    ids = scorer.bank.category_ids
    columns = {id_: column for column, id_ in enumerate(ids.tolist())}
    judge, overlaps = Judge(truth.content), OverlapScores(truth.content, columns)

    def watch(info: AnnotatedImage, regions: Regions, scores: Mapping[str, Tensor]) -> None:
        boxes, of_names = regions.boxes.double().numpy(), scores["standard"].double()
        best, column = of_names.max(1)
        judge.see(info.id, NamedRegions(boxes, ids[column].numpy(), best.numpy()))
        overlaps.see(info.id, boxes, of_names.numpy())

    collections: dict[str, Collection] = {"standard": BestOfImages()}
    if fixed:
        collections["fixed"] = BestOfCategories(ids)
    found = predict(
        lambda image: opened.detector.regions([image])[0],
        dict.fromkeys(collections, scorer),
        truth.annotations,
        images,
        collections=collections,
        masks="segm" in truth.iou_types,
        watch=watch,
        advance=advance,
    )
    return Subject(
        seen,
        opened.settings["system"],
        truth,
        predictions=found["standard"],
        fixed=found.get("fixed"),
        verdicts=judge.verdicts(),
        overlap_scores=overlaps.bins(),
        files={image.id: images / image.file_name for image in truth.annotations.images},
        notes=(*truth.notes, *_unknown_names(truth, len(ids))),
    )


def _unknown_names(truth: Truth, known: int) -> tuple[str, ...]:
    every = len(truth.annotations.categories)
    if known == every:
        return ()
    return (f"The model knows {known} of the {every} categories; the others are never found.",)


def propose_subject(
    truth: Truth,
    opened: OpenedModel,
    seen: Seen,
    images: Path,
    *,
    advance: Callable[[], None] = lambda: None,
) -> Subject:
    """The proposals of every image, by objectness; no name is asked for, and no crop made."""
    detector = opened.detector
    propose = detector.propose if isinstance(detector, CropDetector) else detector.regions
    any_category = truth.annotations.categories[0].id
    parts: list[Predictions] = []

    def watch(info: AnnotatedImage, regions: Regions, scores: Mapping[str, Tensor]) -> None:
        boxes, objectness = regions.proposals.double().numpy(), regions.objectness.double().numpy()
        parts.append(proposals_of_image(info.id, any_category, boxes, objectness))

    predict(
        lambda image: propose([image])[0],
        {},
        truth.annotations,
        images,
        watch=watch,
        advance=advance,
    )
    most = max(map(len, parts), default=0)
    few = f"The model gives at most {most} proposals an image: recalls beyond are the same."
    notes = (*truth.notes, few) if most < PROPOSAL_LIMITS[-1] else truth.notes
    return Subject(
        seen, opened.settings["system"], truth, proposals=concatenate(parts), notes=notes
    )


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
