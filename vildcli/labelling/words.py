"""A vocabulary becomes a labeller: names, negatives and context in the text space of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vildcli.checkpoint import Model, load_model
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.errors import ModelError
from vildcli.labelling.head import read_head
from vildcli.labelling.labeller import VocabularyLabeller
from vildcli.labelling.options import CLIP_ON_CROPS, DEFAULT_TEACHER, LabellingOptions
from vildcli.runs import file_sha256
from vildcli.text.bank import TextBank, embed_categories, load_text_bank
from vildcli.text.context import (
    ScoringBank,
    build_scoring_bank,
    combine_scoring_bank,
    negative_categories,
)
from vildcli.text.encoder import (
    OpenClipTextEncoder,
    load_text_encoder,
    text_encoder_from_state,
)
from vildcli.text.open_clip_models import absolute_reference
from vildcli.text.templates import Prompts, load_prompts
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.groups import category_groups

DEFAULT_CONTEXT = "lvis-v1"  # of clip-on-crops, which has no base categories of its own
_OF_MODEL = "model:"  # a head's reference to a model file, not to an open_clip model


@dataclass(frozen=True, slots=True)
class Words:
    """How a model reads names: encoder, sentences, what it was trained on, usual context."""

    encoder: OpenClipTextEncoder
    prompts: Prompts
    base: tuple[Category, ...]
    default_context: Vocabulary | None


def open_stored_labeller(
    run: Path, vocabulary: Vocabulary, options: LabellingOptions
) -> tuple[VocabularyLabeller, dict[str, Any]]:
    """The labeller of a run's stored regions for another vocabulary, and what decides its labels.

    Raises:
        RunError: the run kept no region embeddings.
        ModelError: the text encoder that they live beside is gone, or is another one by now.
    """
    stored = read_head(run)
    if stored.reference.startswith(_OF_MODEL):
        model = load_model(stored.reference.removeprefix(_OF_MODEL), torch.device("cpu"))
        encoder = model_encoder(model, options.offline)
    else:
        encoder = load_text_encoder(stored.reference, offline=options.offline)
    if encoder.identity != stored.text_encoder:
        reference = stored.reference.removeprefix(_OF_MODEL)
        raise ModelError(
            f"{reference} is not the text encoder that {run} was made with any more.",
            hint="Put the model back, or run detect again.",
        )
    prompts = load_prompts(options.prompts) if options.prompts else stored.prompts
    words = Words(encoder, prompts, stored.base, usual_context(stored.base))
    return make_labeller(vocabulary, words, with_fusion(stored.head, options.fusion), options)


def usual_context(base: tuple[Category, ...]) -> Vocabulary:
    """A model's base categories; LVIS for one that was trained on none."""
    return Vocabulary("base categories", base) if base else load_vocabulary(DEFAULT_CONTEXT)


def model_encoder(model: Model, offline: bool) -> OpenClipTextEncoder:
    return text_encoder_from_state(model.card.text_encoder, model.text_tower, offline=offline)


def make_labeller(
    vocabulary: Vocabulary, words: Words, head: ScoringHead, options: LabellingOptions
) -> tuple[VocabularyLabeller, dict[str, Any]]:
    """The labeller of a vocabulary, and what of the words decides a label."""
    context = _context(options, words.default_context)
    bank = _scoring_bank(vocabulary, words, context, options)
    groups = None
    if options.nms == "group":
        groups = torch.tensor(category_groups(vocabulary.categories))
    said = {
        "vocabulary": vocabulary.fingerprint(),
        "text_encoder": words.encoder.identity,
        "prompts": words.prompts.fingerprint,
        "context": context.fingerprint() if context else "none",
        "text_bank": options.text_bank and file_sha256(options.text_bank),
        "fusion": [head.fusion.kind, head.fusion.base_weight],
        "floor": options.floor,
        "max_det": options.max_det,
        "nms": options.nms,
    }
    return VocabularyLabeller(bank, head, options.policy, groups), said


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


def _refuse_other_space(bank: TextBank, encoder: OpenClipTextEncoder, path: Path) -> None:
    """Refuse embeddings that the model's regions cannot be compared with."""
    # A bare .npy does not say what made it.
    is_other = path.suffix != ".npy" and bank.encoder != encoder.identity
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


def with_fusion(head: ScoringHead, rule: str | None) -> ScoringHead:
    if rule is None:
        return head
    kind, _, weight = rule.partition(":")
    try:
        exponent = float(weight)
    except ValueError:
        exponent = -1.0
    if kind != "uniform" or not 0 <= exponent <= 1 or head.fusion.kind != "ensemble":
        raise ModelError(
            f"--fusion {rule} cannot be used with this model.",
            hint="Write uniform:W with W from 0 to 1, for a model that has two sides.",
        )
    return ScoringHead(
        head.background, head.temperature, head.image_temperature, Fusion("uniform", exponent)
    )


def text_reference(options: LabellingOptions) -> str:
    """Where relabelling finds the text encoder again."""
    if options.model == CLIP_ON_CROPS:
        return absolute_reference(options.teacher or DEFAULT_TEACHER)
    return f"{_OF_MODEL}{Path(options.model).resolve()}"
