from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stub_encoder import StubTextEncoder
from torch.nn.functional import normalize

from vildcli.errors import VocabularyError
from vildcli.text.bank import TextBank, embed_categories, load_text_bank, save_text_bank
from vildcli.text.templates import Prompts
from vildcli.vocabulary.category import Category

PROMPTS = Prompts("two", ("a {}.", "the {}."))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def by_hand(name: str) -> torch.Tensor:
    rows = normalize(StubTextEncoder().encode([f"a {name}.", f"the {name}."]), dim=-1)
    return normalize(rows.mean(dim=0), dim=-1)


def test_a_name_is_the_mean_of_its_normalised_sentences():
    found = embed_categories([Category(1, "Apple")], StubTextEncoder(), PROMPTS)
    torch.testing.assert_close(found[0], by_hand("apple"))


def test_a_synonym_weighs_as_much_as_the_name():
    sofa = Category(1, "sofa", synonyms=("couch", "lounge"))
    found = embed_categories([sofa, Category(2, "cat")], StubTextEncoder(), PROMPTS)
    mean = torch.stack([by_hand("sofa"), by_hand("couch"), by_hand("lounge")]).mean(dim=0)
    torch.testing.assert_close(found[0], normalize(mean, dim=-1))
    torch.testing.assert_close(found[1], by_hand("cat"))


def test_many_names_are_embedded_in_order():
    categories = [Category(i, f"thing {i}") for i in range(1, 151)]
    found = embed_categories(categories, StubTextEncoder(), PROMPTS, cache=False)
    assert found.shape == (150, 64)
    torch.testing.assert_close(found[149], by_hand("thing 150"))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(150))


def test_no_category_gives_no_row():
    assert embed_categories([], StubTextEncoder(), PROMPTS).shape == (0, 64)


def test_the_cache_saves_encoding_and_changes_nothing(cache):
    encoder = StubTextEncoder()
    first = embed_categories([Category(1, "apple")], encoder, PROMPTS)
    encoder.sentences.clear()
    second = embed_categories([Category(7, "apple")], encoder, PROMPTS)  # ids do not matter
    assert encoder.sentences == []
    assert torch.equal(first, second)
    assert [path.suffix for path in (cache / "text").iterdir()] == [".safetensors"]


@pytest.mark.parametrize("changed", ["encoder", "prompts", "this_is", "names", "synonyms"])
def test_the_cache_knows_what_decides_an_embedding(changed):
    embed_categories([Category(1, "apple")], StubTextEncoder(), PROMPTS)
    encoder, prompts, category = StubTextEncoder(), PROMPTS, Category(1, "apple")
    if changed == "encoder":
        encoder.identity = "other"
    elif changed == "prompts":
        prompts = Prompts("two", ("a {}.", "my {}."))
    elif changed == "this_is":
        prompts = Prompts("two", PROMPTS.templates, this_is=True)
    else:
        category = (
            Category(1, "apple", synonyms=("fruit",))
            if changed == "synonyms"
            else Category(1, "pear")
        )
    embed_categories([category], encoder, prompts)
    assert encoder.sentences


def test_a_damaged_cache_is_made_again(cache):
    first = embed_categories([Category(1, "apple")], StubTextEncoder(), PROMPTS)
    next((cache / "text").iterdir()).write_bytes(b"cut off")
    assert torch.equal(embed_categories([Category(1, "apple")], StubTextEncoder(), PROMPTS), first)


def test_a_cache_that_cannot_be_written_is_no_error(cache):
    cache.write_text("a file where the folder should be")
    found = embed_categories([Category(1, "apple")], StubTextEncoder(), PROMPTS)
    torch.testing.assert_close(found[0], by_hand("apple"))


def make_bank() -> TextBank:
    return TextBank(("æble", "pear"), torch.eye(2, 4), 0.07, "encoder", "prompts")


def test_a_bank_is_read_back_as_it_was(tmp_path):
    path = tmp_path / "bank.safetensors"
    save_text_bank(make_bank(), path)
    found = load_text_bank(path)
    assert torch.equal(found.embeddings, make_bank().embeddings)
    assert (found.names, found.temperature) == (("æble", "pear"), 0.07)
    assert (found.encoder, found.prompts) == ("encoder", "prompts")


def test_a_bank_gives_the_names_asked_for(tmp_path):
    path = tmp_path / "bank.safetensors"
    save_text_bank(make_bank(), path)
    found = load_text_bank(path, ["pear"])
    assert found.names == ("pear",)
    assert torch.equal(found.embeddings, torch.eye(2, 4)[1:])
    with pytest.raises(VocabularyError) as error:
        load_text_bank(path, ["pear", "plum"])
    assert str(error.value) == f"{path} lacks 1 of 2 names: plum."


def test_a_plain_npy_is_normalised(tmp_path):
    path = tmp_path / "bank.npy"
    np.save(path, np.array([[3, 4], [0, 2]], np.float16))
    found = load_text_bank(path, ["apple", "pear"], temperature=0.02)
    torch.testing.assert_close(found.embeddings, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert (found.names, found.temperature) == (("apple", "pear"), 0.02)


def test_a_npy_of_other_length_is_refused(tmp_path):
    path = tmp_path / "bank.npy"
    np.save(path, np.ones((3, 2), np.float16))
    with pytest.raises(VocabularyError) as error:
        load_text_bank(path, ["apple", "pear"])
    assert str(error.value) == f"{path} has 3 rows and the vocabulary 2 names."
    assert error.value.hint == "The rows must be the vocabulary's names, in its order."


@pytest.mark.parametrize("surplus", [0, 1])
@pytest.mark.parametrize("leading", [(), (1,), (1, 1)])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_plain_tensor_is_read_as_detpros_are(tmp_path, suffix, leading, surplus):
    path = tmp_path / f"bank{suffix}"
    rows = torch.tensor([[3.0, 4], [0, 2], [9, 9]])[: 2 + surplus].half()
    torch.save(rows.view(*leading, *rows.shape), path)
    found = load_text_bank(path, ["apple", "pear"], temperature=0.007)
    torch.testing.assert_close(found.embeddings, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert (found.names, found.temperature) == (("apple", "pear"), 0.007)


def test_a_tensor_of_other_length_is_refused(tmp_path):
    path = tmp_path / "bank.pt"
    for rows in (1, 4):
        torch.save(torch.ones(rows, 2), path)
        with pytest.raises(VocabularyError) as error:
            load_text_bank(path, ["apple", "pear"])
        assert str(error.value) == f"{path} has {rows} rows and the vocabulary 2 names."


def test_a_model_is_no_text_bank(tmp_path):
    path = tmp_path / "epoch_20.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(VocabularyError) as error:
        load_text_bank(path, ["apple"])
    assert str(error.value) == f"{path} holds a dict, not one tensor."
    assert error.value.hint == "A text bank is a tensor of one row a name; a model goes to --model."


def test_prompts_may_leave_the_synonyms_out():
    apple = Category(1, "apple", synonyms=("fruit",))
    prompts = Prompts("two", PROMPTS.templates, synonyms=False)
    found = embed_categories([apple], StubTextEncoder(), prompts)
    torch.testing.assert_close(found[0], by_hand("apple"))
    assert not torch.equal(found, embed_categories([apple], StubTextEncoder(), PROMPTS))


def test_a_npy_needs_names(tmp_path):
    with pytest.raises(VocabularyError, match="does not say which names its rows are"):
        load_text_bank(tmp_path / "bank.npy")


@pytest.mark.parametrize("array", [np.ones(3), np.ones((2, 2), int)])
def test_a_npy_that_is_no_matrix_of_floats_is_refused(tmp_path, array):
    np.save(tmp_path / "bank.npy", array)
    with pytest.raises(VocabularyError, match="not one row a name"):
        load_text_bank(tmp_path / "bank.npy", ["apple", "pear"])


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_row_without_direction_is_refused(tmp_path, bad):
    np.save(tmp_path / "bank.npy", np.array([[1, 2], [bad, 0]], np.float32))
    with pytest.raises(VocabularyError, match="has a row that is zero or not finite"):
        load_text_bank(tmp_path / "bank.npy", ["apple", "pear"])


@pytest.mark.parametrize("name", ["bank.npy", "bank.pt", "bank.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not an array"])
def test_a_file_of_something_else_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VocabularyError, match="is not a readable"):
        load_text_bank(path, ["apple"])


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_pickled_object_is_never_unpickled(tmp_path, suffix):
    path = tmp_path / f"bank{suffix}"
    if suffix == ".npy":
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    else:
        torch.save(Path("somewhere"), path)
    with pytest.raises(VocabularyError, match="is not a readable"):
        load_text_bank(path, ["apple"])


def test_equal_banks_are_equal_bytes(tmp_path):
    """Of several metadata keys, eight files in one order would be chance."""
    files = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for file in files:
        save_text_bank(make_bank(), file)
    assert len({file.read_bytes() for file in files}) == 1


def test_an_older_bank_has_a_key_for_each(tmp_path):
    from safetensors.torch import save_file

    bank, path = make_bank(), tmp_path / "bank.safetensors"
    metadata = {
        "format": "vildcli-text-bank/1",
        "names": json.dumps(bank.names),
        "temperature": repr(bank.temperature),
        "encoder": bank.encoder,
        "prompts": bank.prompts,
    }
    save_file({"embeddings": bank.embeddings}, path, metadata)
    old = load_text_bank(path)
    save_text_bank(bank, path)
    new = load_text_bank(path)
    assert torch.equal(old.embeddings, new.embeddings)
    for name in ("names", "temperature", "encoder", "prompts"):
        assert getattr(old, name) == getattr(new, name) == getattr(bank, name), name


def test_other_safetensors_and_newer_banks_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "bank.safetensors"
    save_file({"embeddings": torch.eye(2)}, path)
    with pytest.raises(VocabularyError, match="is not a text bank"):
        load_text_bank(path)
    save_file({"embeddings": torch.eye(2)}, path, {"format": "vildcli-text-bank/x"})
    with pytest.raises(VocabularyError, match="is not a text bank"):
        load_text_bank(path)
    save_file({"embeddings": torch.eye(2)}, path, {"format": "vildcli-text-bank/2"})
    with pytest.raises(VocabularyError) as error:
        load_text_bank(path)
    assert str(error.value) == f"{path} has format 2; this vildcli reads up to 1."
