"""GloVe as a text encoder: the baseline of ViLD that knows words and no pictures.

A name's embedding is the mean of its words' vectors. GloVe reads no sentences, so its prompts are
the bare name. Hundreds of megabytes of vectors do not travel in a model file: it carries those of
its own training categories, and the hash by which the whole file is known again for other names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vildcli.errors import ModelError
from vildcli.text.open_clip_weights import weights_folder
from vildcli.text.templates import Prompts, fill
from vildcli.text.word_vectors import (
    WordVectors,
    find_word_vectors,
    load_word_vectors,
    pack_words,
    unpack_words,
)
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import names_of

GLOVE_PREFIX = "glove:"
KIND = "glove"
TEMPERATURE = 0.01  # that of the student against CLIP; published is none for GloVe
BARE_NAME = Prompts("bare", ("{}",))
_RULES = 1  # how a name becomes words, below; part of the identity
_EDGES = ".,;:!?\"'()[]"
_WITHIN = re.compile(r"['’]s\b|\W+")
_NAME_NOTHING = frozenset({"a", "an", "and", "for", "in", "of", "on", "or", "the", "to", "with"})


@dataclass(frozen=True, slots=True)
class GloveTextEncoder:
    """Names to the mean of their words' vectors.

    Attributes:
        source: all vectors of a file, or those that a model file carries.
        lacks: None where `source` is all; else words that the whole file is known not to have.
    """

    source: WordVectors
    lacks: frozenset[str] | None = None

    @property
    def identity(self) -> str:
        return f"glove-{_RULES}-{self.source.sha256}"

    @property
    def temperature(self) -> float:
        return TEMPERATURE

    @property
    def width(self) -> int:
        return self.source.vectors.shape[1]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode names to [P, D], float32, not normalised; zeros where no word has a vector.

        Raises:
            ModelError: names that are not the model's own, and the whole file is not here.
        """
        source = self._source_for(prompts)
        embeddings = torch.zeros(len(prompts), self.width)
        for row, prompt in enumerate(prompts):
            found = [source.rows[w] for w in _words(prompt, source.rows) if w in source.rows]
            if found:
                embeddings[row] = source.vectors[found].mean(dim=0)
        return embeddings

    def unread_words(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Names of which a word has no vector, and those words."""
        texts = {name: fill("{}", name, this_is=False) for name in names}
        rows = self._source_for(list(texts.values())).rows
        unread = {
            name: tuple(word for word in _words(text, rows) if word not in rows)
            for name, text in texts.items()
        }
        return {name: words for name, words in unread.items() if words}

    def _source_for(self, prompts: Sequence[str]) -> WordVectors:
        if self.lacks is None:
            return self.source
        known = self.source.rows.keys() | self.lacks
        foreign = [p for p in prompts if not known >= _looked_up(p, self.source.rows)]
        if not foreign:
            return self.source
        whole = find_word_vectors(self.source.name, self.source.sha256)
        if whole is None:
            raise ModelError(
                f"The model's file carries the vectors of its own categories only, not of:"
                f" {', '.join(foreign)}.",
                hint=f"Put {self.source.name}.txt, which it was trained with, into"
                f" {weights_folder()}",
            )
        return whole


def load_glove(path: Path) -> GloveTextEncoder:
    """Load a file of GloVe's vectors; errors of `load_word_vectors`."""
    return GloveTextEncoder(load_word_vectors(path))


def glove_state(
    encoder: GloveTextEncoder, categories: Iterable[Category]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Describe an encoder for a model file that names these categories without GloVe's file."""
    source = encoder.source
    texts = [fill("{}", name, this_is=False) for c in categories for name in names_of(c)]
    looked_up = sorted(set().union(*(_looked_up(text, source.rows) for text in texts)))
    words = [word for word in looked_up if word in source.rows]
    config = {
        "kind": KIND,
        "identity": encoder.identity,
        "temperature": encoder.temperature,
        "width": encoder.width,
        "file": source.name,
        "sha256": source.sha256,
        "lacks": [word for word in looked_up if word not in source.rows],
    }
    vectors = source.vectors[[source.rows[word] for word in words]]
    return config, {"words": pack_words(words), "vectors": vectors}


def glove_from_state(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GloveTextEncoder:
    """Rebuild what `glove_state` described.

    Raises:
        ModelError: tensors that are missing, or names cut by other rules than today's.
    """
    try:
        rows, vectors = unpack_words(tensors["words"]), tensors["vectors"]
    except KeyError as error:
        raise ModelError(f"The model's word vectors are damaged: it lacks {error}.") from error
    encoder = GloveTextEncoder(
        WordVectors(config["file"], config["sha256"], rows, vectors), frozenset(config["lacks"])
    )
    if encoder.identity != config["identity"]:
        raise ModelError(
            "The model's names were cut into words by other rules than this vildcli's.",
            hint="Update vildcli, or train the model again.",
        )
    return encoder


def _words(text: str, rows: Mapping[str, int]) -> list[str]:
    """The words of a name as GloVe holds them: `t-shirt` where it has that, else t and shirt."""
    words: list[str] = []
    for piece in _pieces(text):
        words += [piece] if piece in rows else [part for part in _WITHIN.split(piece) if part]
    return [word for word in words if word not in _NAME_NOTHING] or words


def _pieces(text: str) -> list[str]:
    pieces = (piece.strip(_EDGES) for piece in text.lower().replace("_", " ").split())
    return [piece for piece in pieces if piece]


def _looked_up(text: str, rows: Mapping[str, int]) -> set[str]:
    """All that `_words` asks for: what it would answer is known from these alone."""
    return {*_pieces(text), *_words(text, rows)}
