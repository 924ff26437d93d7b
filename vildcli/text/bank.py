"""The text bank: one unit vector a name, and its cache.

    sentence embeddings → normalised → mean over the templates → normalised   one vector a name
    vectors of the name and its synonyms → mean → normalised                  one vector a category

A synonym thus weighs as much as the name. ViLD says that synonyms are used and not how they are
pooled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises, even of weights only
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.assets import cache_folder
from vildcli.errors import VocabularyError
from vildcli.runs import refuse_newer, write_atomically
from vildcli.text.encoder import TextEncoder
from vildcli.text.templates import Prompts
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.names import names_of

BANK_FORMAT = 1
BARE_SUFFIXES = (".npy", ".pt", ".pth")  # one array or tensor, without a word about itself
CLIP_TEMPERATURE = 0.01  # OpenAI's CLIP; what bare vectors of it are scored with
_FORMAT_NAME = "vildcli-text-bank"
_SENTENCES_AT_ONCE = 4032  # bounds their embeddings in memory: 64 names x 63 x 512 floats, 8 MB


@dataclass(frozen=True, slots=True)
class TextBank:
    """Names and their embeddings.

    Attributes:
        names: C names, raw.
        embeddings: [C, D] unit norm, float32.
        temperature: τ that they are scored with.
        encoder: identity of the text encoder, or of the file they came from.
        prompts: fingerprint of the prompts, empty where unknown.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    temperature: float
    encoder: str
    prompts: str

    def __post_init__(self) -> None:
        shape = tuple(self.embeddings.shape)
        assert shape[:-1] == (len(self.names),), f"{len(self.names)} names, embeddings {shape}"


def embed_vocabulary(
    vocabulary: Vocabulary,
    encoder: TextEncoder,
    prompts: Prompts,
    *,
    advance: Callable[[int], None] = lambda names: None,
) -> TextBank:
    """Embed a vocabulary's categories into a bank under their own names.

    Args:
        advance: told how many names and synonyms were embedded, as they are.
    """
    return TextBank(
        names=tuple(category.name for category in vocabulary.categories),
        embeddings=embed_categories(vocabulary.categories, encoder, prompts, advance=advance),
        temperature=encoder.temperature,
        encoder=encoder.identity,
        prompts=prompts.fingerprint,
    )


def embed_categories(
    categories: Sequence[Category],
    encoder: TextEncoder,
    prompts: Prompts,
    cache: bool = True,
    advance: Callable[[int], None] = lambda names: None,
) -> Tensor:
    """Embed categories, name and synonyms through every template: [C, D], unit norm, float32.

    Prompts may ask for the name alone.

    With `cache`, the result is kept in the cache folder by encoder, prompts and names; deleting it
    is safe.

    Raises:
        VocabularyError: the encoder knows no word of a category's name and synonyms; names all.
    """
    names = [names_of(c) if prompts.synonyms else (c.name,) for c in categories]
    if not names:
        return torch.empty(0, encoder.width)
    path = _cache_path(names, encoder, prompts)
    if cache and (cached := _read_cached(path, len(names), encoder.width)) is not None:
        return cached
    flat = [name for group in names for name in group]
    by_name = []
    at_once = max(1, _SENTENCES_AT_ONCE // len(prompts.templates))
    for start in range(0, len(flat), at_once):
        some = flat[start : start + at_once]
        by_name.append(_embed_names(some, encoder, prompts))
        advance(len(some))
    groups = torch.split(torch.cat(by_name), [len(group) for group in names])
    # A name that the encoder cannot read is a row of zeros, and its synonyms decide alone.
    embeddings = normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)
    _refuse_unread(categories, embeddings)
    if cache:
        _write_cached(path, embeddings)
    return embeddings


def save_text_bank(bank: TextBank, path: Path) -> None:
    said = {
        "format": BANK_FORMAT,
        "names": bank.names,
        "temperature": bank.temperature,
        "encoder": bank.encoder,
        "prompts": bank.prompts,
    }
    # One key: safetensors writes several in an order of the moment, and equal banks would differ.
    metadata = {_FORMAT_NAME: json.dumps(said, sort_keys=True, ensure_ascii=False)}
    tensors = {"embeddings": bank.embeddings.contiguous()}
    write_atomically(path, lambda beside: save_file(tensors, beside, metadata))


def load_text_bank(
    path: Path, names: Sequence[str] | None = None, *, temperature: float = CLIP_TEMPERATURE
) -> TextBank:
    """Read a bank of `vildcli embed`, or a plain `.npy`, `.pt` or `.pth` of one row a name.

    Rows are normalised on the way in, so that a file of raw encoder output (float16 too) serves as
    well. A tensor may have one row more, for the background: DetPro's prompt files may.

    Args:
        names: for a plain file, the names of its rows in order; else the names wanted, in the order
            wanted.
        temperature: for a plain file, which carries none.

    Raises:
        VocabularyError: unreadable, of a newer format, a row count that is not the names', a name
            that is not in the bank.
    """
    if path.suffix in BARE_SUFFIXES:
        return _load_bare(path, names, temperature)
    bank = _load_own(path)
    if names is None:
        return bank
    rows = {name: row for row, name in enumerate(bank.names)}
    if missing := [name for name in names if name not in rows]:
        raise VocabularyError(
            f"{path} lacks {len(missing)} of {len(names)} names: {', '.join(missing[:5])}.",
            hint="Make it from the same vocabulary: vildcli embed VOCAB --out FILE",
        )
    chosen = bank.embeddings[[rows[name] for name in names]]
    return TextBank(tuple(names), chosen, bank.temperature, bank.encoder, bank.prompts)


def _embed_names(names: Sequence[str], encoder: TextEncoder, prompts: Prompts) -> Tensor:
    """One unit vector a name, [len(names), D]."""
    sentences = [sentence for name in names for sentence in prompts.sentences(name)]
    encoded = normalize(encoder.encode(sentences), dim=-1)
    return normalize(encoded.view(len(names), -1, encoder.width).mean(dim=1), dim=-1)


def _refuse_unread(categories: Sequence[Category], embeddings: Tensor) -> None:
    known = embeddings.any(dim=1).tolist()
    unread = [c.name for c, found in zip(categories, known, strict=True) if not found]
    if unread:
        raise VocabularyError(
            f"The text encoder knows no word of {len(unread)} of {len(known)} names:"
            f" {', '.join(unread)}.",
            hint="Remove or rename them, or give them synonyms that it knows.",
        )


def _cache_path(names: Sequence[Sequence[str]], encoder: TextEncoder, prompts: Prompts) -> Path:
    content = json.dumps([BANK_FORMAT, encoder.identity, prompts.fingerprint, names])
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    return cache_folder() / "text" / f"{key}.safetensors"


def _read_cached(path: Path, count: int, width: int) -> Tensor | None:
    try:
        found: Tensor = load_file(path)["embeddings"]
    except (SafetensorError, OSError, KeyError):
        return None  # absent or damaged: it is made again
    return found if found.shape == (count, width) else None


def _write_cached(path: Path, embeddings: Tensor) -> None:
    try:
        write_atomically(path, lambda beside: save_file({"embeddings": embeddings}, beside))
    except (OSError, SafetensorError):
        return  # a cache that cannot be written costs time, not the result


def _load_bare(path: Path, names: Sequence[str] | None, temperature: float) -> TextBank:
    if names is None:
        raise VocabularyError(
            f"{path} does not say which names its rows are.",
            hint="Give the vocabulary with --vocab.",
        )
    is_array = path.suffix == ".npy"
    raw = _read_array(path) if is_array else _read_tensor(path)
    if raw.ndim != 2 or not np.issubdtype(raw.dtype, np.floating):
        raise VocabularyError(f"{path} holds {raw.dtype} of shape {raw.shape}, not one row a name.")
    if len(raw) - len(names) not in ((0,) if is_array else (0, 1)):
        raise VocabularyError(
            f"{path} has {len(raw)} rows and the vocabulary {len(names)} names.",
            hint="The rows must be the vocabulary's names, in its order.",
        )
    rows = torch.from_numpy(raw[: len(names)].astype(np.float32))
    return TextBank(tuple(names), _unit_rows(path, rows), temperature, _hash_of(raw.tobytes()), "")


def _read_array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise VocabularyError(f"{path} is not a readable .npy file: {error}.") from error
    return array


def _read_tensor(path: Path) -> NDArray[Any]:
    """A tensor of any shape [1, ..., rows, D], as DetPro's authors keep their prompts."""
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VocabularyError(f"{path} is not a readable tensor file: {first}") from error
    if not isinstance(tensor, Tensor):
        raise VocabularyError(
            f"{path} holds a {type(tensor).__name__}, not one tensor.",
            hint="A text bank is a tensor of one row a name; a model goes to --model.",
        )
    while tensor.ndim > 2 and len(tensor) == 1:
        tensor = tensor[0]
    array: NDArray[Any] = tensor.detach().numpy()
    return array


def _load_own(path: Path) -> TextBank:
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(path, file.metadata() or {})
            refuse_newer(path, int(about["format"]), BANK_FORMAT, VocabularyError)
            embeddings = file.get_tensor("embeddings").float()
    except (SafetensorError, OSError, ValueError) as error:
        raise VocabularyError(f"{path} is not a readable text bank: {error}.") from error
    names = about["names"]
    return TextBank(
        names=tuple(json.loads(names) if isinstance(names, str) else names),
        embeddings=_unit_rows(path, embeddings),
        temperature=float(about["temperature"]),
        encoder=about["encoder"],
        prompts=about["prompts"],
    )


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a bank says of itself; an older one has a key for each, the names as JSON."""
    if _FORMAT_NAME in metadata:
        found: dict[str, Any] = json.loads(metadata[_FORMAT_NAME])
        return found
    name, _, version = metadata.get("format", "").partition("/")
    if name != _FORMAT_NAME or not version.isdigit():
        raise VocabularyError(
            f"{path} is not a text bank.", hint="Make one: vildcli embed VOCAB --out FILE"
        )
    return {**metadata, "format": version}


def _unit_rows(path: Path, rows: Tensor) -> Tensor:
    if not torch.isfinite(rows).all() or not rows.any(dim=1).all():
        raise VocabularyError(f"{path} has a row that is zero or not finite.")
    return normalize(rows, dim=-1)


def _hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
