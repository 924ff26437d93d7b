"""Word vectors: GloVe's published text files, and the quick form that is kept of them.

    word v1 … vD        one word a line, single spaces between (glove.6B.300d.txt)

A text file is parsed once. What was parsed lies in the cache folder under the hash of the text, so
that a model file that names this hash finds the vectors whatever the file is called here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vildcli.assets import cache_folder
from vildcli.errors import ModelError
from vildcli.runs import write_atomically, write_json
from vildcli.text.open_clip_weights import weights_folder

SUFFIXES = (".txt", ".txt.gz", ".safetensors")
_FORMAT = "vildcli-word-vectors/1"
_LINES_AT_ONCE = 8192
_Lines = Sequence[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class WordVectors:
    """Words and their vectors.

    Attributes:
        name: of the file without its suffix, such as `glove.6B.300d`.
        sha256: of the text file, unpacked.
        rows: row of each word.
        vectors: [N, D] as they stand in the file, float32.
    """

    name: str
    sha256: str
    rows: Mapping[str, int]
    vectors: Tensor


def load_word_vectors(path: Path) -> WordVectors:
    """Read a file of GloVe's format, or one of `save_word_vectors`.

    Raises:
        ModelError: missing, of another kind, empty, or with a line that is not like the first.
    """
    suffix = next((s for s in SUFFIXES if path.name.endswith(s)), None)
    if suffix is None:
        raise ModelError(
            f"{path} is not a file of word vectors.",
            hint=f"Give one that ends in {', '.join(SUFFIXES)}; unpack a .zip first.",
        )
    if not path.is_file():
        raise ModelError(
            f"There is no file {path}.",
            hint="GloVe's are at nlp.stanford.edu/projects/glove, such as glove.6B.300d.txt.",
        )
    if suffix == ".safetensors":
        return _load_parsed(path)
    return _load_known(path) or _parse_and_keep(path, path.name.removesuffix(suffix))


def find_word_vectors(name: str, sha256: str) -> WordVectors | None:
    """The vectors of that hash, parsed here before or from the file `name` in the weights folder.

    Raises:
        ModelError: the file in the weights folder has another hash.
    """
    if _parsed_file(sha256).is_file():
        return _load_parsed(_parsed_file(sha256))
    files = [weights_folder() / f"{name}{suffix}" for suffix in SUFFIXES]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return None
    found = load_word_vectors(path)
    if found.sha256 != sha256:
        raise ModelError(
            f"{path} is not the file of that name that the model was made with.",
            hint=f"The SHA-256 of that one's text is {sha256}.",
        )
    return found


def save_word_vectors(path: Path, found: WordVectors) -> None:
    about = {"format": _FORMAT, "name": found.name, "sha256": found.sha256}
    tensors = {"words": pack_words(found.rows), "vectors": found.vectors.contiguous()}
    write_atomically(path, lambda beside: save_file(tensors, beside, about))


def pack_words(words: Iterable[str]) -> Tensor:
    """One uint8 tensor of UTF-8, a newline between two words."""
    return torch.from_numpy(np.frombuffer("\n".join(words).encode(), np.uint8).copy())


def unpack_words(packed: Tensor) -> dict[str, int]:
    """The row of each word that `pack_words` was given."""
    words = packed.numpy().tobytes().decode()
    return {word: row for row, word in enumerate(words.split("\n"))} if words else {}


def _parsed_file(sha256: str) -> Path:
    return cache_folder() / "word-vectors" / f"{sha256}.safetensors"


def _hash_file(path: Path) -> Path:
    """Where the hash of a text file is remembered as long as its place, size and time stay."""
    about = path.stat()
    key = f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return cache_folder() / "word-vectors" / f"{name}.json"


def _load_known(path: Path) -> WordVectors | None:
    try:
        return _load_parsed(_parsed_file(json.loads(_hash_file(path).read_bytes())))
    except (OSError, ValueError, ModelError):
        return None  # absent or damaged: it is made again


def _parse_and_keep(path: Path, name: str) -> WordVectors:
    try:
        found = _parse(path, name)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    try:
        save_word_vectors(_parsed_file(found.sha256), found)
        write_json(_hash_file(path), found.sha256)
    except (OSError, SafetensorError):
        pass  # a cache that cannot be written costs time, not the result
    return found


def _load_parsed(path: Path) -> WordVectors:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ModelError(
                    f"{path} does not hold word vectors of the form {_FORMAT}.",
                    hint="Give GloVe's own text file.",
                )
            rows, vectors = unpack_words(file.get_tensor("words")), file.get_tensor("vectors")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {error}.", hint="Delete it.") from error
    return WordVectors(about["name"], about["sha256"], rows, vectors)


def _open(path: Path) -> io.BufferedIOBase:
    # Binary, because text mode would also end a line at a carriage return within a word.
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _parse(path: Path, name: str) -> WordVectors:
    """Read the text twice, to hash and count its lines and to fill one array of that size."""
    digest, count, width = hashlib.sha256(), 0, 0
    with _open(path) as lines:
        for line in lines:
            digest.update(line)
            width = width if count else line.rstrip().count(b" ")
            count += 1
    if width == 0:
        raise ModelError(f"{path} holds no word vectors.", hint="Its form is: word v1 … vD")
    vectors = np.empty((count, width), np.float32)
    words: list[str] = []
    with _open(path) as lines:
        numbered = enumerate(lines, start=1)
        while block := list(islice(numbered, _LINES_AT_ONCE)):
            said, numbers = _split(path, block, width)
            vectors[len(words) : len(words) + len(said)] = _read_numbers(path, numbers, width)
            words += said
    first = {word: row for row, word in reversed(list(enumerate(words)))}
    kept = sorted(first.values())  # GloVe's largest files hold some words twice
    return WordVectors(
        name=name,
        sha256=digest.hexdigest(),
        rows={words[row]: place for place, row in enumerate(kept)},
        vectors=torch.from_numpy(vectors if len(kept) == count else vectors[kept]),
    )


def _split(path: Path, lines: _Lines, width: int) -> tuple[list[str], _Lines]:
    """The words of numbered lines, and the numbers, still as text."""
    words: list[str] = []
    numbers: list[tuple[int, bytes]] = []
    for number, line in lines:
        word, _, rest = line.rstrip().partition(b" ")
        surplus = rest.count(b" ") + 1 - width
        if surplus > 0 and not _is_number(rest.split(b" ", surplus)[surplus - 1]):
            # GloVe's largest files hold words with spaces.
            *spoken, rest = line.rstrip().split(b" ", surplus + 1)
            word, surplus = b" ".join(spoken), 0
        if surplus or not word or not rest:
            raise ModelError(
                f"{path}, line {number} has {rest.count(b' ') + 1 if rest else 0} numbers"
                f" and the first line {width}.",
                hint="A line is a word and its numbers, with single spaces between.",
            )
        words.append(word.decode(errors="replace"))
        numbers.append((number, rest))
    return words, numbers


def _read_numbers(path: Path, lines: _Lines, width: int) -> NDArray[np.float32]:
    """Numbers [len(lines), width]; pyarrow's reader is several times faster than numpy's."""
    from pyarrow import ArrowInvalid, csv, float32

    columns = [str(column) for column in range(width)]
    text = io.BytesIO(b"\n".join(line for _, line in lines))
    try:
        table = csv.read_csv(
            text,
            read_options=csv.ReadOptions(column_names=columns),
            parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(columns, float32())),
        )
    except ArrowInvalid as error:
        raise _not_numbers(path, lines) from error
    read = np.stack([column.to_numpy() for column in table.columns], axis=1)
    if not np.isfinite(read).all():
        raise _not_numbers(path, lines)
    return read


def _not_numbers(path: Path, lines: _Lines) -> ModelError:
    for number, line in lines:
        for text in line.split(b" "):
            if not _is_number(text):
                said = text.decode(errors="replace")
                return ModelError(f"{path}, line {number}: '{said}' is not a number.")
    return ModelError(f"{path}, lines {lines[0][0]} to {lines[-1][0]} are not all numbers.")


def _is_number(text: bytes) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
