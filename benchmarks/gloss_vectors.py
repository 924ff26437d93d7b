"""Word vectors from WordNet's glosses: a stand-in for GloVe where its file is not to be had.

Latent semantic analysis: every noun's lemmas and definition are one document; the singular vectors
of the tf-idf matrix are the words' vectors. Like GloVe they come from text alone and have seen no
image. They are no GloVe: 82,000 short definitions stand for billions of words. That our GloVe
reader and its averages equal real GloVe vectors is tested on COCO's and VOC's names.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.runs import write_atomically
from vildcli.vocabulary.wordnet import load_wordnet

WIDTH = 100
FEWEST = 1  # documents that a word must stand in
_WORD = re.compile(r"[a-z]+")


def write_gloss_vectors(path: Path) -> None:
    """Write the vectors in GloVe's text form."""
    nouns = load_wordnet().below("entity.n.01")
    documents = [_words(sense.lemmas, sense.definition) for _, sense, _ in nouns]
    names, vectors = word_vectors(documents, WIDTH)
    lines = (
        f"{name} {' '.join(f'{v:.5f}' for v in vector)}\n"
        for name, vector in zip(names, vectors.tolist(), strict=True)
    )
    write_atomically(path, lambda beside: _write(beside, "".join(lines)))


def word_vectors(documents: list[list[str]], width: int) -> tuple[list[str], Tensor]:
    """Words, most frequent first, and their unit vectors [V, width]."""
    seen = Counter(word for words in documents for word in set(words))
    names = [word for word, count in seen.most_common() if count >= FEWEST]
    place = {word: i for i, word in enumerate(names)}
    pairs = [(place[w], d) for d, words in enumerate(documents) for w in set(words) if w in place]
    indices = torch.tensor(pairs).T
    counts = torch.tensor([seen[name] for name in names], dtype=torch.float32)
    weights = torch.log(len(documents) / counts)[indices[0]]
    shape = (len(names), len(documents))
    matrix = torch.sparse_coo_tensor(indices, weights, shape, check_invariants=True).coalesce()
    torch.manual_seed(0)
    left, singular, _ = torch.svd_lowrank(matrix, q=width, niter=4)
    return names, normalize(left * singular, dim=-1)


def _words(lemmas: tuple[str, ...], definition: str) -> list[str]:
    return _WORD.findall(" ".join([*lemmas, definition]).lower())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
