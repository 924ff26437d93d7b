from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_glove import VECTORS, write_glove
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.errors import ModelError, VocabularyError
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import (
    load_text_encoder,
    refuse_sentences,
    text_encoder_from_state,
    text_tower_state,
    unread_words,
    usual_prompts,
)
from vildcli.text.glove import BARE_NAME, GloveTextEncoder
from vildcli.text.templates import Prompts, load_prompts
from vildcli.vocabulary.category import Category

SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
BASE = (Category(1, "apple"), Category(2, "pear", synonyms=("anjou pear", "xyzzy")))


@pytest.fixture
def encoder(file: Path) -> GloveTextEncoder:
    return loaded(file)


def loaded(file: Path) -> GloveTextEncoder:
    encoder = load_text_encoder(f"glove:{file}", offline=True)
    assert isinstance(encoder, GloveTextEncoder)
    return encoder


def forget(file: Path, cache: Path) -> None:
    """Take away the text file and what was parsed of it."""
    file.unlink(missing_ok=True)
    for path in [*cache.rglob("*.safetensors"), *cache.rglob("*.json")]:
        path.unlink()


def mean(*words: str) -> Tensor:
    return torch.tensor([VECTORS[word] for word in words]).mean(dim=0)


def embedded(encoder: GloveTextEncoder, *categories: Category) -> Tensor:
    return embed_categories(categories, encoder, BARE_NAME, cache=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Apple", ["apple"]),
        ("red_apple", ["red", "apple"]),
        ("Apple/pear", ["apple", "pear"]),  # cleaned to "apple or pear": or names nothing
        ("pear (anjou)", ["pear", "anjou"]),
        ("house of the doll", ["house", "doll"]),
        ("doll's house", ["doll", "house"]),
        ("doll-house", ["doll", "house"]),
        ("T-shirt", ["t-shirt"]),  # a word of its own
        ("red, apple.", ["red", "apple"]),
        ("apple xyzzy", ["apple"]),
        ("of", ["of"]),
    ],
)
def test_a_name_is_the_mean_of_its_words(
    encoder: GloveTextEncoder, name: str, words: list[str]
) -> None:
    found = encoder.encode(BARE_NAME.sentences(name))
    torch.testing.assert_close(found, mean(*words)[None], atol=1e-6, rtol=0)


def test_the_bank_has_unit_rows_and_synonyms_of_equal_weight(encoder: GloveTextEncoder) -> None:
    found = embedded(encoder, *BASE)
    two = torch.stack([mean("pear"), mean("anjou", "pear")])  # xyzzy is in no file
    torch.testing.assert_close(found[1], normalize(normalize(two, dim=-1).mean(dim=0), dim=-1))
    torch.testing.assert_close(found[0], normalize(mean("apple"), dim=-1))


def test_all_names_without_a_known_word_are_named(encoder: GloveTextEncoder) -> None:
    many = [Category(i, f"qux{i}") for i in range(1, 101)]
    with pytest.raises(VocabularyError) as error:
        embedded(encoder, *many, *BASE)
    names = ", ".join(category.name for category in many)
    assert str(error.value) == f"The text encoder knows no word of 100 of 102 names: {names}."
    assert error.value.hint == "Remove or rename them, or give them synonyms that it knows."


def test_a_synonym_stands_in_for_a_name_without_a_vector(encoder: GloveTextEncoder) -> None:
    found = embedded(encoder, Category(1, "malus", synonyms=("apple",)))
    torch.testing.assert_close(found[0], normalize(mean("apple"), dim=-1))


def test_names_known_in_part_are_listed(encoder: GloveTextEncoder) -> None:
    categories = [*BASE, Category(3, "red xyzzy house-elf"), Category(4, "house of doll")]
    assert unread_words(encoder, categories) == {
        "xyzzy": ("xyzzy",),
        "red xyzzy house-elf": ("xyzzy", "elf"),
    }


def test_a_gloves_identity_is_that_of_its_text(file: Path, tmp_path: Path) -> None:
    first = loaded(file)
    assert (first.width, first.temperature) == (4, 0.01)
    copy = write_glove(tmp_path / "renamed.txt")
    other = write_glove(tmp_path / "other.txt", {"apple": (1, 2, 3, 5)})
    assert loaded(copy).identity == first.identity
    assert loaded(other).identity != first.identity


def test_prompts__the_bare_name_and_nothing_else(encoder: GloveTextEncoder) -> None:
    assert usual_prompts("glove:x.txt") == "bare"
    assert usual_prompts("ViT-B-32:openai") == "vild-63"
    bare = load_prompts("bare")
    assert bare == BARE_NAME
    assert bare.sentences("Bell_pepper") == ["bell pepper"]
    refuse_sentences(encoder, bare)
    refuse_sentences(encoder, Prompts("mine", ("{}",)))
    for prompts in (load_prompts("single"), Prompts("this-is", ("{}",), this_is=True)):
        with pytest.raises(VocabularyError) as error:
            refuse_sentences(encoder, prompts)
        assert str(error.value) == (
            f"GloVe reads names and no sentences, as the prompts '{prompts.name}' are."
        )
        assert error.value.hint == "Give --prompts bare, or leave --prompts out."


def carried(encoder: GloveTextEncoder) -> GloveTextEncoder:
    """What comes back out of a model file trained on BASE."""
    config, tensors = text_tower_state(encoder, BASE)
    back = text_encoder_from_state(config, tensors, offline=True)
    assert isinstance(back, GloveTextEncoder)
    return back


def test_a_model_carries_the_words_of_its_categories(encoder: GloveTextEncoder) -> None:
    config, tensors = text_tower_state(encoder, BASE)
    assert config == {
        "kind": "glove",
        "identity": encoder.identity,
        "temperature": 0.01,
        "width": 4,
        "file": "glove.tiny.4d",
        "sha256": encoder.source.sha256,
        "lacks": ["xyzzy"],
    }
    assert tensors["words"].numpy().tobytes() == b"anjou\napple\npear"
    expected = torch.tensor([VECTORS[word] for word in ("anjou", "apple", "pear")])
    assert torch.equal(tensors["vectors"], expected)


def test_a_model_names_its_own_categories_without_the_file(
    encoder: GloveTextEncoder, file: Path, cache: Path
) -> None:
    expected, back = embedded(encoder, *BASE), carried(encoder)
    forget(file, cache)
    assert back.identity == encoder.identity
    assert torch.equal(embedded(back, *BASE), expected)
    assert unread_words(back, BASE) == {"xyzzy": ("xyzzy",)}


def test_a_model_carries_a_word_cut_at_its_hyphen(file: Path, cache: Path) -> None:
    back_to_back = (Category(1, "doll-house"), Category(2, "T-shirt"))
    encoder = loaded(file)
    expected = embedded(encoder, *back_to_back)
    config, tensors = text_tower_state(encoder, back_to_back)
    forget(file, cache)
    back = text_encoder_from_state(config, tensors)
    assert torch.equal(embed_categories(back_to_back, back, BARE_NAME, cache=False), expected)


def test_other_names_are_read_from_the_file_by_its_hash(
    encoder: GloveTextEncoder, file: Path
) -> None:
    back = carried(encoder)
    file.unlink()  # what was parsed of it is still in the cache
    found = embedded(back, Category(1, "red apple"), Category(2, "T-shirt"))
    expected = normalize(torch.stack([mean("red", "apple"), mean("t-shirt")]), dim=-1)
    torch.testing.assert_close(found, expected)


def test_other_names_without_the_file_say_where_to_put_it(
    encoder: GloveTextEncoder, file: Path, cache: Path
) -> None:
    back = carried(encoder)
    text = file.read_bytes()
    forget(file, cache)
    # Half of the words of "red apple" are carried: it must not be taken for an apple.
    names = [Category(1, "apple"), Category(2, "red apple"), Category(3, "house")]
    with pytest.raises(ModelError) as error:
        embedded(back, *names)
    assert str(error.value) == (
        "The model's file carries the vectors of its own categories only, not of: red apple, house."
    )
    assert error.value.hint == (
        f"Put glove.tiny.4d.txt, which it was trained with, into {cache / 'weights'}"
    )
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / "glove.tiny.4d.txt").write_bytes(text)
    expected = normalize(torch.stack([mean("apple"), mean("red", "apple"), mean("house")]), dim=-1)
    torch.testing.assert_close(embedded(back, *names), expected)


def test_a_compound_is_not_taken_for_its_carried_parts(
    encoder: GloveTextEncoder, file: Path, cache: Path
) -> None:
    categories = (Category(1, "t"), Category(2, "shirt"))
    back = text_encoder_from_state(*text_tower_state(encoder, categories))
    found = embed_categories([Category(1, "T-shirt")], back, BARE_NAME, cache=False)
    torch.testing.assert_close(found[0], normalize(mean("t-shirt"), dim=-1))
    forget(file, cache)
    with pytest.raises(ModelError, match="own categories only, not of: t-shirt"):
        embed_categories([Category(1, "T-shirt")], back, BARE_NAME, cache=False)


def test_a_carried_encoder_travels_on(encoder: GloveTextEncoder, file: Path, cache: Path) -> None:
    config, tensors = text_tower_state(encoder, BASE)
    back = text_encoder_from_state(config, tensors)
    forget(file, cache)
    again, more = text_tower_state(back, BASE)
    assert again == config
    assert all(torch.equal(more[key], tensors[key]) for key in ("words", "vectors"))


def test_damaged_or_differently_cut_words_are_refused(encoder: GloveTextEncoder) -> None:
    config, tensors = text_tower_state(encoder, BASE)
    with pytest.raises(ModelError, match="word vectors are damaged: it lacks 'vectors'"):
        text_encoder_from_state(config, {"words": tensors["words"]})
    with pytest.raises(ModelError) as error:
        text_encoder_from_state({**config, "identity": "glove-2-abc"}, tensors)
    assert str(error.value) == (
        "The model's names were cut into words by other rules than this vildcli's."
    )


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no shared data at {SHARED}; set VILDCLI_SHARED_DATA"
)
class TestPublishedVectors:
    """GloVe's vectors of COCO's and VOC's names, as somebody else looked them up.

    One-word names hold GloVe's own five digits. Three names of two words hold the plain mean of
    theirs, of which one is known (of VOC's names in one word) and the other follows. "hot dog" and
    "cell phone" hold one word's vector, presumably `hotdog` and `cellphone`: no mean.
    """

    COMPOUNDS = (("teddy", "bear"), ("dining", "table"), ("potted", "plant"))

    @pytest.fixture
    def theirs(self) -> dict[str, np.ndarray]:
        found = {}
        for name in ("voc20", "coco80"):
            with np.load(SHARED / "glove" / f"glove_{name}.npz") as arrays:
                found |= dict(zip(arrays["names"].tolist(), arrays["vectors"], strict=True))
        return found

    def published(self, theirs: dict[str, np.ndarray]) -> dict[str, list[float]]:
        words = {name: row.tolist() for name, row in theirs.items() if " " not in name}
        words["table"], words["plant"] = words["diningtable"], words["pottedplant"]
        for first, second in self.COMPOUNDS:
            other = 2 * theirs[f"{first} {second}"].astype(float) - np.array(words[second])
            words[first] = [float(f"{x:.5g}") for x in other]
            # Five digits again: nothing else than an unweighted mean of plain vectors leaves them.
            assert np.abs(other - words[first]).max() < 1e-6
        return words

    def test_our_embeddings_are_theirs(self, theirs: dict[str, np.ndarray], tmp_path: Path) -> None:
        file = write_glove(tmp_path / "glove.300d.txt", self.published(theirs))
        encoder = loaded(file)
        names = [n for n in theirs if " " not in n] + [" ".join(c) for c in self.COMPOUNDS]
        assert len(names) == 65 + 6 + 3
        found = embedded(encoder, *(Category(i + 1, name) for i, name in enumerate(names)))
        expected = normalize(torch.tensor(np.stack([theirs[name] for name in names])), dim=-1)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
