from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
import torch
from tiny_glove import VECTORS, write_glove

from vildcli.errors import ModelError
from vildcli.text import word_vectors
from vildcli.text.word_vectors import (
    WordVectors,
    find_word_vectors,
    load_word_vectors,
    save_word_vectors,
)


@pytest.fixture
def never_parsed(file: Path, monkeypatch: pytest.MonkeyPatch) -> WordVectors:
    """What was parsed; parsing again is an error."""
    found = load_word_vectors(file)

    def refuse(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(word_vectors, "_parse", refuse)
    return found


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as error:
        load_word_vectors(path)
    return error.value


def assert_same(a: WordVectors, b: WordVectors) -> None:
    assert (a.name, a.sha256, dict(a.rows)) == (b.name, b.sha256, dict(b.rows))
    assert torch.equal(a.vectors, b.vectors)


def test_a_text_file_is_read_word_by_word(file: Path) -> None:
    found = load_word_vectors(file)
    assert list(found.rows) == list(VECTORS)
    assert torch.equal(found.vectors, torch.tensor(list(VECTORS.values())))
    assert found.name == "glove.tiny.4d"
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_packed_file_is_the_same(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed" / f"{file.name}.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert_same(load_word_vectors(packed), load_word_vectors(file))


def test_more_lines_than_are_read_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_vectors, "_LINES_AT_ONCE", 2)
    assert torch.equal(load_word_vectors(file).vectors, torch.tensor(list(VECTORS.values())))


def test_words_with_spaces_quotes_and_doubles_as_in_glove_840b(tmp_path: Path) -> None:
    path = written(
        tmp_path / "g.txt", 'a 1 2\n. . . 3 4\n" 5 6\na 7 8\né\u2028 9 1e-05\nat x@y.z -1 0\n1 7 7'
    )
    found = load_word_vectors(path)
    assert list(found.rows) == ["a", ". . .", '"', "é\u2028", "at x@y.z", "1"]
    expected = [[1, 2], [3, 4], [5, 6], [9, 1e-5], [-1, 0], [7, 7]]
    torch.testing.assert_close(found.vectors, torch.tensor(expected))
    assert_same(load_word_vectors(path), found)


def test_the_second_load_parses_nothing(file: Path, never_parsed: WordVectors) -> None:
    assert_same(load_word_vectors(file), never_parsed)


def test_a_changed_file_is_parsed_again(file: Path) -> None:
    load_word_vectors(file)
    write_glove(file, {"plum": (1, 2, 3, 4)})
    assert list(load_word_vectors(file).rows) == ["plum"]


def test_a_damaged_cache_is_made_again(file: Path, cache: Path) -> None:
    first = load_word_vectors(file)
    for path in (cache / "word-vectors").iterdir():
        path.write_bytes(b"cut off")
    assert_same(load_word_vectors(file), first)


def test_a_cache_that_cannot_be_written_is_no_error(file: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert list(load_word_vectors(file).rows) == list(VECTORS)


def test_the_quick_form_can_be_given_itself(file: Path, tmp_path: Path) -> None:
    found = load_word_vectors(file)
    save_word_vectors(tmp_path / "mine.safetensors", found)
    assert_same(load_word_vectors(tmp_path / "mine.safetensors"), found)


def test_vectors_are_found_by_hash_once_parsed(never_parsed: WordVectors) -> None:
    found = find_word_vectors("whatever", never_parsed.sha256)
    assert found is not None
    assert_same(found, never_parsed)


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_vectors_are_found_by_name_in_the_weights_folder(
    file: Path, cache: Path, suffix: str
) -> None:
    text = file.read_bytes()
    sha256 = hashlib.sha256(text).hexdigest()
    assert find_word_vectors("glove.tiny.4d", sha256) is None
    weights = cache / "weights" / f"glove.tiny.4d{suffix}"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    found = find_word_vectors("glove.tiny.4d", sha256)
    assert found is not None
    assert list(found.rows) == list(VECTORS)


def test_another_file_of_that_name_is_refused(file: Path, cache: Path) -> None:
    path = cache / "weights" / file.name
    path.parent.mkdir(parents=True)
    os.replace(file, path)
    with pytest.raises(ModelError) as error:
        find_word_vectors("glove.tiny.4d", "0123")
    assert str(error.value) == (
        f"{path} is not the file of that name that the model was made with."
    )
    assert error.value.hint == "The SHA-256 of that one's text is 0123."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2 3\nb 1 2\n", ", line 2 has 2 numbers and the first line 3."),
        ("a 1 2 3\nb 1 2 3\nc 1 2 3 4\n", ", line 3 has 4 numbers and the first line 3."),
        ("a 1 2\n\nb 1 2\n", ", line 2 has 0 numbers and the first line 2."),
        ("2 3\na 1 2 3\nb 1 2 3\n", ", line 2 has 3 numbers and the first line 1."),
        ("a 1 2\nb 1 x\n", ", line 2: 'x' is not a number."),
        ("a 1 2\nb 1 nan\n", ", line 2: 'nan' is not a number."),
        ("a 1 2\nb 1 inf\n", ", line 2: 'inf' is not a number."),
        ("a 1 2\nb 1  2\n", ", line 2 has 3 numbers and the first line 2."),
        ("a 1 2\nb  2\n", ", line 2: '' is not a number."),
        ("", " holds no word vectors."),
        ("apple\npear\n", " holds no word vectors."),
    ],
)
def test_a_line_unlike_the_first_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "g.txt", text)
    assert str(refusal(path)) == f"{path}{message}"


def test_the_line_is_counted_through_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_vectors, "_LINES_AT_ONCE", 2)
    path = written(tmp_path / "g.txt", "a 1\nb 2\nc 3\nd 4\ne five\n")
    assert str(refusal(path)) == f"{path}, line 5: 'five' is not a number."


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    error = refusal(tmp_path / "glove.6B.300d.txt")
    assert str(error) == f"There is no file {tmp_path / 'glove.6B.300d.txt'}."
    assert error.hint == (
        "GloVe's are at nlp.stanford.edu/projects/glove, such as glove.6B.300d.txt."
    )


@pytest.mark.parametrize("name", ["glove.6B.zip", "glove", "glove.vec"])
def test_another_kind_of_file(tmp_path: Path, name: str) -> None:
    error = refusal(written(tmp_path / name, "a 1 2\n"))
    assert str(error) == f"{tmp_path / name} is not a file of word vectors."
    assert error.hint == ("Give one that ends in .txt, .txt.gz, .safetensors; unpack a .zip first.")


def test_a_packed_file_that_is_cut_off(file: Path, tmp_path: Path) -> None:
    packed = gzip.compress(file.read_bytes())
    for cut in (packed[:-12], b"hello", packed[:20] + b"\0" * 20):
        error = refusal(written(tmp_path / "g.txt.gz", cut))
        assert str(error).startswith(f"{tmp_path / 'g.txt.gz'} cannot be read: ")


def test_safetensors_of_another_kind(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"vectors": torch.eye(2)}, tmp_path / "g.safetensors")
    error = refusal(tmp_path / "g.safetensors")
    assert str(error) == (
        f"{tmp_path / 'g.safetensors'} does not hold word vectors of the form"
        " vildcli-word-vectors/1."
    )
    error = refusal(written(tmp_path / "g.safetensors", b"hello"))
    assert str(error).startswith(f"{tmp_path / 'g.safetensors'} is damaged: ")
