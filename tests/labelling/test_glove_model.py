"""A model trained against GloVe, from its file to labels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detector import BASE, WIDTH, tiny_card, tiny_detector
from tiny_glove import VECTORS, wide, write_glove
from torch.nn.functional import normalize

from vildcli.checkpoint import load_model, save_model
from vildcli.cli import run
from vildcli.errors import VildError
from vildcli.labelling.labeller import VocabularyLabeller
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import iter_labelled_images
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import load_text_encoder, text_encoder_from_state, text_tower_state
from vildcli.text.glove import BARE_NAME
from vildcli.vocabulary.category import Category, Vocabulary

FILE = "glove.tiny.16d.txt"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path, cache: Path) -> Path:
    """A model file on a machine that has never seen its GloVe file."""
    file = write_glove(tmp_path / FILE, wide(WIDTH))
    encoder = load_text_encoder(f"glove:{file}")
    config, carried = text_tower_state(encoder, BASE)
    card = tiny_card(
        "glove", prompts=asdict(BARE_NAME), text_encoder=config, temperature=encoder.temperature
    )
    path = tmp_path / "glove.safetensors"
    save_model(path, tiny_detector("glove"), carried, card)
    file.unlink()
    for kept in (cache / "word-vectors").iterdir():
        kept.unlink()
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def put_file(cache: Path) -> None:
    (cache / "weights").mkdir(parents=True)
    write_glove(cache / "weights" / FILE, wide(WIDTH))


def names(*said: str) -> Vocabulary:
    return Vocabulary("mine", tuple(Category(i, name) for i, name in enumerate(said, start=1)))


def labeller(model: Path, vocabulary: Vocabulary, **options: str) -> VocabularyLabeller:
    chosen = LabellingOptions(model=str(model), device="cpu", offline=True, **options)  # type: ignore[arg-type]
    opened = open_labelling_model(vocabulary, chosen)
    assert isinstance(opened.labeller, VocabularyLabeller)
    return opened.labeller


def labels(run: Path) -> list[tuple[int, int, float, tuple[float, ...]]]:
    return [
        (image.image.image_id, label.category_id, label.score, tuple(label.box))
        for image in iter_labelled_images(run)
        for label in image.labels
    ]


def test_a_model_file_brings_its_words_back(model: Path) -> None:
    loaded = load_model(model, torch.device("cpu"))
    encoder = text_encoder_from_state(loaded.card.text_encoder, loaded.text_tower)
    found = embed_categories(BASE, encoder, BARE_NAME, cache=False)
    rows = torch.tensor(
        [[float(f"{x:.5g}") for x in wide(WIDTH)[word]] for word in ("apple", "pear", "anjou")]
    )
    pear = normalize(rows[1:], dim=-1).mean(dim=0)
    torch.testing.assert_close(found, normalize(torch.stack([rows[0], pear]), dim=-1))
    carried = sum(tensor.nbytes for tensor in loaded.text_tower.values())
    assert carried == 3 * WIDTH * 4 + len("anjou\napple\npear")
    assert len(VECTORS) > 3


def test_its_own_names_need_no_file_and_are_the_context(model: Path) -> None:
    bank = labeller(model, names("Apple", "pear")).bank
    assert bank.temperature == 0.01
    assert bank.is_base.tolist() == [True, True]
    assert labeller(model, names("pear")).bank.dropped == ("pear",)


def test_a_new_name_needs_the_file(model: Path, cache: Path) -> None:
    with pytest.raises(VildError) as error:
        labeller(model, names("pear", "red house"))
    assert str(error.value) == (
        "The model's file carries the vectors of its own categories only, not of: red house."
    )
    assert error.value.hint == (f"Put {FILE}, which it was trained with, into {cache / 'weights'}")
    put_file(cache)
    bank = labeller(model, names("pear", "red house")).bank
    assert bank.is_base.tolist() == [True, False, True]  # apple is the context


def test_a_name_that_nothing_covers_is_named(model: Path, cache: Path) -> None:
    put_file(cache)
    with pytest.raises(VildError) as error:
        labeller(model, names("pear", "xyzzy", "qux"))
    assert str(error.value) == "The text encoder knows no word of 2 of 3 names: xyzzy, qux."


def test_sentences_are_refused(model: Path) -> None:
    with pytest.raises(VildError) as error:
        labeller(model, names("pear"), prompts="vild-63")
    assert str(error.value) == "GloVe reads names and no sentences, as the prompts 'vild-63' are."


def test_a_teacher_is_refused(model: Path) -> None:
    with pytest.raises(VildError, match="this one is glove"):
        labeller(model, names("pear"), teacher="ViT-B-32:openai")


def test_detect_and_relabel(
    model: Path, photos: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    detect = ["detect", str(photos), "--model", str(model), "--keep-regions", "--offline"]
    more = ["--device", "cpu", "--floor", "0"]
    assert run([*detect, *more, "--classes", "apple, pear", "--out", str(first)]) == 0
    relabel = ["relabel", str(first), "--offline", "--floor", "0", "--classes"]
    assert run([*relabel, "red house, pear", "--out", str(second)]) == 1
    assert "own categories only, not of: red house." in capsys.readouterr().err
    put_file(cache)
    assert run([*relabel, "red house, pear", "--out", str(second)]) == 0
    assert run([*detect, *more, "--classes", "red house, pear", "--out", str(third)]) == 0
    assert labels(first)
    assert labels(second) == labels(third) != labels(first)


def test_names_read_in_part_are_warned_of(
    model: Path, photos: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_file(cache)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    words = ["--classes", "glassy pear, apple", "--offline", "--out"]
    detect = ["detect", str(photos), "--model", str(model), "--keep-regions", "--device", "cpu"]
    for command in ([*detect, *words, first], ["relabel", first, *words, second]):
        assert run(command) == 0
        assert (
            "Warning: Words without a vector were left out: glassy of 'glassy pear'.\n"
            in capsys.readouterr().err
        )


def test_a_bank_made_where_the_file_is_serves_where_it_is_not(
    model: Path, photos: Path, tmp_path: Path, cache: Path
) -> None:
    vocabulary, bank = tmp_path / "mine.txt", tmp_path / "mine.safetensors"
    vocabulary.write_text("red house\npear\n")
    elsewhere = write_glove(tmp_path / FILE, wide(WIDTH))
    embed = ["embed", str(vocabulary), "--text-encoder", f"glove:{elsewhere}", "--out", str(bank)]
    assert run(embed) == 0
    elsewhere.unlink()
    for kept in (cache / "word-vectors").iterdir():
        kept.unlink()
    detect = ["detect", str(photos), "--model", str(model), "--vocab", str(vocabulary)]
    out = ["--text-bank", str(bank), "--device", "cpu", "--offline", "--out", str(tmp_path / "run")]
    assert run([*detect, *out]) == 0
