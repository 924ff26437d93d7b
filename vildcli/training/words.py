"""The names that a system is trained against, and what its model file says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vildcli.detector.architecture import Architecture
from vildcli.errors import ModelError
from vildcli.systems import System
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import (
    TextEncoder,
    load_text_encoder,
    refuse_sentences,
    text_tower_state,
    usual_prompts,
)
from vildcli.text.templates import Prompts, load_prompts
from vildcli.vocabulary.category import Category


@dataclass(frozen=True, slots=True)
class TrainingWords:
    """Columns of the class logits: all categories, or the base ones of a closed set.

    Attributes:
        is_base: [C] whether boxes of each were seen.
        encoder: what embeds the names; None in a closed set, which learns its own weights.
        prompts: the sentences around them; None in a closed set.
    """

    categories: tuple[Category, ...]
    is_base: tuple[bool, ...]
    encoder: TextEncoder | None
    prompts: Prompts | None

    @property
    def columns(self) -> dict[int, int]:
        """Category id to column, of base categories only."""
        pairs = zip(self.categories, self.is_base, strict=True)
        return {c.id: i for i, (c, base) in enumerate(pairs) if base}

    @property
    def base(self) -> tuple[Category, ...]:
        pairs = zip(self.categories, self.is_base, strict=True)
        return tuple(category for category, base in pairs if base)

    @property
    def temperature(self) -> float:
        return 1.0 if self.encoder is None else self.encoder.temperature

    def embedding_width(self, architecture: Architecture) -> int:
        """D; of a closed set that of [feature; 1]."""
        return architecture.fc_width + 1 if self.encoder is None else self.encoder.width

    def embeddings(self) -> Tensor:
        """[C, D] unit norm; nothing in a closed set."""
        if self.encoder is None or self.prompts is None:
            return torch.empty(len(self.categories), 0)
        return embed_categories(self.categories, self.encoder, self.prompts)

    def settings(self) -> dict[str, Any]:
        """What of them decides the weights."""
        return {
            "text_encoder": self.encoder and self.encoder.identity,
            "prompts": self.prompts and self.prompts.fingerprint,
            "base_categories": [category.id for category in self.base],
        }

    def card(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fields of a model card, and the text tower that travels with it."""
        described: dict[str, Any] = {}
        tower: dict[str, Tensor] = {}
        if self.encoder is not None:
            described, tower = text_tower_state(self.encoder, self.categories)
        return {
            "temperature": self.temperature,
            "prompts": {} if self.prompts is None else asdict(self.prompts),
            "base_categories": self.base,
            "text_encoder": described,
        }, tower


def open_words(
    system: System,
    categories: Sequence[Category],
    is_base: Sequence[bool],
    *,
    text_encoder: str,
    prompts: str | None,
    offline: bool,
) -> TrainingWords:
    """Load what embeds the names of a system.

    Args:
        text_encoder: open_clip reference, or `glove:FILE` for the GloVe baseline.

    Raises:
        ModelError: an encoder of the other kind than the system's, or missing weights.
    """
    if system.words is None:
        known = [c for c, base in zip(categories, is_base, strict=True) if base]
        return TrainingWords(tuple(known), (True,) * len(known), None, None)
    if text_encoder.startswith("glove:") != (system.words == "glove"):
        wanted = "glove:FILE" if system.words == "glove" else "an open_clip model"
        raise ModelError(
            f"{system.name} is trained against {system.words} embeddings, not {text_encoder}.",
            hint=f"Give --text-encoder {wanted}.",
        )
    encoder = load_text_encoder(text_encoder, offline=offline)
    chosen = load_prompts(prompts or system.prompts or usual_prompts(text_encoder))
    refuse_sentences(encoder, chosen)
    return TrainingWords(tuple(categories), tuple(is_base), encoder, chosen)
