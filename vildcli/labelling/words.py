"""A vocabulary becomes a labeller: names, negatives and context in the text space of a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vildcli.checkpoint import Model, load_model
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.errors import ModelError
from vildcli.labelling.head import StoredHead, read_head
from vildcli.labelling.labeller import AttributeSet, VocabularyLabeller
from vildcli.labelling.options import CLIP_ON_CROPS, DEFAULT_TEACHER, LabellingOptions
from vildcli.labelling.roll_up import make_roll_up
from vildcli.runs import file_sha256
from vildcli.text.bank import BARE_SUFFIXES, TextBank, embed_categories, load_text_bank
from vildcli.text.context import (
    EmbeddedCategories,
    ScoringBank,
    build_scoring_bank,
    combine_scoring_bank,
    negative_categories,
)
from vildcli.text.encoder import (
    TextEncoder,
    load_text_encoder,
    refuse_sentences,
    text_encoder_from_state,
    unread_words,
)
from vildcli.text.glove import BARE_NAME
from vildcli.text.open_clip_models import absolute_reference
from vildcli.text.templates import Prompts, load_prompts
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.groups import category_groups
from vildcli.vocabulary.names import same_things

ATTRIBUTE_PROMPTS = "attributes"
DEFAULT_CONTEXT = "lvis-v1"  # of clip-on-crops, which has no base categories of its own
_OF_MODEL = "model:"  # a head's reference to a model file, not to an open_clip model


@dataclass(frozen=True, slots=True)
class Words:
    """How a model reads names: encoder, sentences, what it was trained on, usual context."""

    encoder: TextEncoder
    prompts: Prompts
    base: tuple[Category, ...]
    default_context: Vocabulary | None
    attribute_prompts: Prompts


@dataclass(frozen=True, slots=True)
class ClosedSet:
    """How a supervised model reads names: by its own classifier's, and no others.

    Attributes:
        weights: [C, D] of its categories, bias last.
        identity: of the model that they belong to.
    """

    categories: tuple[Category, ...]
    weights: Tensor
    identity: str


def closed_set_of(model: Model) -> ClosedSet | None:
    """The closed set of a supervised model; None for one that takes any name."""
    if model.detector.classifier is None:
        return None
    weights = model.detector.classifier_rows()[1:].detach().cpu()
    return ClosedSet(model.card.base_categories, weights, f"closed set of {model.identity}")


def open_stored_labeller(
    run: Path, vocabulary: Vocabulary, options: LabellingOptions
) -> tuple[VocabularyLabeller, dict[str, Any]]:
    """The labeller of a run's stored regions for another vocabulary, and what decides its labels.

    Raises:
        RunError: the run kept no region embeddings.
        ModelError: the text encoder that they live beside is gone, or is another one by now.
    """
    stored, words = open_stored_words(run, options)
    return make_labeller(vocabulary, words, with_fusion(stored.head, options.fusion), options)


def open_stored_words(run: Path, options: LabellingOptions) -> tuple[StoredHead, Words | ClosedSet]:
    """The head of a run's stored regions, and how names are read for them.

    Args:
        options: `model` and `teacher` say where the text encoder is now, if it has moved.

    Raises:
        RunError: the run kept no region embeddings.
        ModelError: the text encoder that they live beside is gone, or is another one by now.
    """
    stored = read_head(run)
    reference = _moved(stored.reference, options)
    if reference.startswith(_OF_MODEL):
        model = load_model(reference.removeprefix(_OF_MODEL), torch.device("cpu"))
        reader = closed_set_of(model) or model_encoder(model, options.offline)
    else:
        reader = load_text_encoder(reference, offline=options.offline)
    if reader.identity != stored.text_encoder:
        raise ModelError(
            f"{reference.removeprefix(_OF_MODEL)} is not the text encoder that {run} was made "
            "with any more.",
            hint="Put the model back, or run detect again.",
        )
    if isinstance(reader, ClosedSet):
        return stored, reader
    prompts = load_prompts(options.prompts) if options.prompts else stored.prompts
    assert prompts is not None, "a text encoder is used with prompts"
    if options.attribute_prompts or stored.attribute_prompts is None:
        of_attributes = attribute_prompts(prompts, options.attribute_prompts)
    else:
        of_attributes = stored.attribute_prompts
    context = usual_context(stored.base)
    return stored, Words(reader, prompts, stored.base, context, of_attributes)


def _moved(reference: str, options: LabellingOptions) -> str:
    if not reference.startswith(_OF_MODEL):
        return options.teacher or reference
    return reference if options.model == CLIP_ON_CROPS else f"{_OF_MODEL}{options.model}"


def attribute_prompts(prompts: Prompts, chosen: str | None) -> Prompts:
    """The sentences for attributes: the chosen ones, else the shipped ones for adjectives.

    A model that is given bare names, as GloVe's is, is given bare attributes.
    """
    if chosen is None and prompts.fingerprint == BARE_NAME.fingerprint:
        return prompts
    return load_prompts(chosen or ATTRIBUTE_PROMPTS)


def usual_context(base: tuple[Category, ...]) -> Vocabulary:
    """A model's base categories; LVIS for one that was trained on none."""
    return Vocabulary("base categories", base) if base else load_vocabulary(DEFAULT_CONTEXT)


def model_encoder(model: Model, offline: bool) -> TextEncoder:
    return text_encoder_from_state(model.card.text_encoder, model.text_tower, offline=offline)


def make_labeller(
    vocabulary: Vocabulary,
    words: Words | ClosedSet,
    head: ScoringHead,
    options: LabellingOptions,
) -> tuple[VocabularyLabeller, dict[str, Any]]:
    """The labeller of a vocabulary, and what of the words decides a label."""
    attributes: tuple[AttributeSet, ...] = ()
    unread: dict[str, tuple[str, ...]] = {}
    if isinstance(words, ClosedSet):
        bank, said = _closed_bank(vocabulary, words, options)
    else:
        bank, said = _open_bank(vocabulary, words, options)
        unread = _unread(vocabulary, words, options)
        if vocabulary.attributes:
            attributes = _embed_attributes(vocabulary, words)
            said["attribute_prompts"] = words.attribute_prompts.fingerprint
    groups = None
    if options.nms == "group":
        groups = torch.tensor(category_groups(vocabulary.categories, vocabulary.parents))
    said |= {
        "vocabulary": vocabulary.fingerprint(),
        "fusion": _fusion_settings(head.fusion),
        "floor": options.floor,
        "max_det": options.max_det,
        "nms": options.nms,
    }
    roll_up = None
    if options.roll_up is not None:
        roll_up = make_roll_up(vocabulary, options.roll_up, groups)
        said["roll_up"] = [options.roll_up, roll_up.thresholds.tolist()]
    labeller = VocabularyLabeller(bank, head, options.policy, groups, attributes, unread, roll_up)
    return labeller, said


def _embed_attributes(vocabulary: Vocabulary, words: Words) -> tuple[AttributeSet, ...]:
    refuse_sentences(words.encoder, words.attribute_prompts)
    return tuple(
        AttributeSet(
            name,
            values,
            embed_categories(_as_categories(values), words.encoder, words.attribute_prompts),
        )
        for name, values in vocabulary.attributes.items()
    )


def _unread(
    vocabulary: Vocabulary, words: Words, options: LabellingOptions
) -> dict[str, tuple[str, ...]]:
    values = itertools.chain.from_iterable(vocabulary.attributes.values())
    named = () if options.text_bank else vocabulary.categories
    return unread_words(words.encoder, (*named, *_as_categories(values)))


def _as_categories(names: Iterable[str]) -> tuple[Category, ...]:
    """Words to embed that are no names of categories."""
    return tuple(Category(0, name) for name in names)


def _open_bank(
    vocabulary: Vocabulary, words: Words, options: LabellingOptions
) -> tuple[ScoringBank, dict[str, Any]]:
    refuse_sentences(words.encoder, words.prompts)
    context = _context(options, words.default_context)
    return _scoring_bank(vocabulary, words, context, options), {
        "text_encoder": words.encoder.identity,
        "prompts": words.prompts.fingerprint,
        "context": context.fingerprint() if context else "none",
        "text_bank": options.text_bank and file_sha256(options.text_bank),
    }


def _closed_bank(
    vocabulary: Vocabulary, closed: ClosedSet, options: LabellingOptions
) -> tuple[ScoringBank, dict[str, Any]]:
    """A classifier's softmax is over all that it was trained on, whatever was asked for."""
    asked = {
        "prompts": options.prompts,
        "context": options.context != "none" and options.context,
        "text bank": options.text_bank,
        "attributes": vocabulary.attributes,
    }
    if chosen := [name for name, value in asked.items() if value]:
        raise ModelError(
            f"A supervised model has no text space, so it takes no {' and '.join(chosen)}.",
            hint="Use a ViLD model, whose classifier is made of words.",
        )
    found = same_things(vocabulary.categories, closed.categories)
    pairs = zip(vocabulary.categories, found, strict=True)
    if unknown := [category.name for category, rows in pairs if not rows]:
        raise ModelError(
            f"A supervised model names only the {len(closed.categories)} categories that it was "
            f"trained on: not {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}.",
            hint="Leave the others out, or use a ViLD model, which takes any name.",
        )
    bank = combine_scoring_bank(
        replace(vocabulary, negatives=()),
        closed.weights[[rows[0] for rows in found]],
        base=closed.categories,
        temperature=1.0,
        context=EmbeddedCategories(closed.categories, closed.weights),
        cosine_limit=math.inf,
    )
    return bank, {"text_encoder": closed.identity}


def _scoring_bank(
    vocabulary: Vocabulary, words: Words, context: Vocabulary | None, options: LabellingOptions
) -> ScoringBank:
    if options.text_bank is None:
        return build_scoring_bank(
            vocabulary,
            context=context,
            base=words.base,
            encoder=words.encoder,
            prompts=words.prompts,
        )
    names = [category.name for category in vocabulary.categories]
    ready = load_text_bank(options.text_bank, names, temperature=words.encoder.temperature)
    _refuse_other_space(ready, words.encoder, options.text_bank)
    negatives = embed_categories(negative_categories(vocabulary), words.encoder, words.prompts)
    return combine_scoring_bank(
        vocabulary,
        ready.embeddings,
        negatives=negatives,
        base=words.base,
        temperature=ready.temperature,
    )


def _refuse_other_space(bank: TextBank, encoder: TextEncoder, path: Path) -> None:
    """Refuse embeddings that the model's regions cannot be compared with."""
    # A bare array does not say what made it.
    is_other = path.suffix not in BARE_SUFFIXES and bank.encoder != encoder.identity
    if is_other or bank.embeddings.shape[1] != encoder.width:
        raise ModelError(
            f"{path} was made with another text encoder than the model's.",
            hint=f"Make it with the model's, whose vectors have {encoder.width} numbers.",
        )


def _context(options: LabellingOptions, default: Vocabulary | None) -> Vocabulary | None:
    if options.text_bank is not None and options.context in (None, "none"):
        # The bank's space is known by its file alone: nothing else can be put beside it.
        return None
    if options.text_bank is not None:
        raise ModelError(
            "--text-bank cannot be scored among the names of --context.",
            hint="Put the context's names into the bank's vocabulary, or leave --context out.",
        )
    if options.context is None:
        return default
    return None if options.context == "none" else load_vocabulary(options.context)


def _fusion_settings(fusion: Fusion) -> list[str | float]:
    """Two values as ever, and a third where objectness counts: older runs go on."""
    said: list[str | float] = [fusion.kind, fusion.base_weight]
    return [*said, fusion.objectness_weight] if fusion.objectness_weight else said


def with_fusion(head: ScoringHead, rule: str | None) -> ScoringHead:
    """The head with the rule that a user wrote: `uniform:W`, or `objectness:W` (½ by default).

    Raises:
        ModelError: another rule, or one side where two are wanted.
    """
    if rule is None:
        return head
    kind, _, weight = rule.partition(":")
    try:
        exponent = float(weight or 0.5)
    except ValueError:
        exponent = -1.0
    if kind == "objectness" and 0 <= exponent <= 1:
        return replace(head, fusion=replace(head.fusion, objectness_weight=exponent))
    if kind == "uniform" and weight and 0 <= exponent <= 1 and head.fusion.kind == "ensemble":
        return replace(head, fusion=Fusion("uniform", exponent))
    raise ModelError(
        f"--fusion {rule} cannot be used with this model.",
        hint="Write objectness:W, or for a model that has two sides uniform:W, W from 0 to 1.",
    )


def text_reference(options: LabellingOptions) -> str:
    """Where relabelling finds the text encoder again."""
    if options.model == CLIP_ON_CROPS:
        return absolute_reference(options.teacher or DEFAULT_TEACHER)
    return f"{_OF_MODEL}{Path(options.model).resolve()}"
