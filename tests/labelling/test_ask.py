from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stub_encoder import StubTextEncoder
from tiny_detector import BASE, WIDTH, tiny_card, tiny_detector
from tiny_glove import wide, write_glove
from tiny_student import save_clip, save_student
from torch.nn.functional import normalize

from vildcli.checkpoint import save_model
from vildcli.detector.scoring import score_regions
from vildcli.errors import ModelError, VocabularyError
from vildcli.labelling.ask import (
    AskingModel,
    ImageRegions,
    TextReader,
    answer,
    choose_regions,
    find_regions,
    score_texts,
    split_texts,
    text_reader,
)
from vildcli.labelling.model import open_asking_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.words import Words
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import load_text_encoder
from vildcli.text.templates import Prompts, load_prompts
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
TEXTS = ("a red umbrella", "husky", "shiba inu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return save_clip(tmp_path / "clip")


def opened(
    folder: Path, clip: str, system: str = "vild-ensemble", vocabulary: Vocabulary | None = None
) -> AskingModel:
    model = save_student(folder / f"{system}.safetensors", clip, system)
    options = LabellingOptions(model=str(model), device="cpu", offline=True)
    return open_asking_model(vocabulary, options)


def regions(boxes: list[list[float]], objectness: list[float], seed: int = 0) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    sides = normalize(torch.randn(2, len(boxes), WIDTH, generator=generator), dim=-1).half()
    return Regions(
        boxes=torch.tensor(boxes).float(),
        proposals=torch.tensor(boxes).float(),
        objectness=torch.tensor(objectness),
        masks=torch.arange(len(boxes), dtype=torch.uint8)[:, None, None].expand(-1, 28, 28),
        text_side=sides[0],
        image_side=sides[1],
    )


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("a; b ;c", ("a", "b", "c")),
        ("a red umbrella, open\n", ("a red umbrella, open",)),
        ("b; a; b;", ("b", "a")),
        (" ; \n", ()),
        ("", ()),
    ],
)
def test_split_texts(line: str, texts: tuple[str, ...]) -> None:
    assert split_texts(line) == texts


def test_text_reader__encodes_only_what_is_new(own_cache: Path) -> None:
    encoder, prompts = StubTextEncoder(), Prompts("two", ("a {}.", "the {}."))
    reader = TextReader(encoder, prompts)
    first = reader.embed(["husky", "shiba inu"])
    assert encoder.sentences == ["a husky.", "the husky.", "a shiba inu.", "the shiba inu."]
    second = reader.embed(["shiba inu", "pug"])
    assert encoder.sentences[4:] == ["a pug.", "the pug."]
    assert torch.equal(second[0], first[1])
    categories = (Category(1, "shiba inu"), Category(2, "pug"))
    torch.testing.assert_close(second, embed_categories(categories, encoder, prompts))
    # A question is no vocabulary: it leaves nothing in the cache.
    (bank,) = own_cache.rglob("*.safetensors")
    assert bank.parent.name == "text"


def test_choose_regions__as_the_demo_page_does() -> None:
    found = regions(
        [
            [0, 0, 50, 50],  # shown
            [2, 2, 52, 52],  # overlaps the first, by more than 0.6
            [100, 0, 110, 22],  # exactly 220 square pixels
            [100, 50, 110, 72.5],  # shown: 225
            [0, 100, 50, 150],  # shown: exactly at the limit
            [200, 0, 250, 50],  # too unsure
        ],
        [0.99, 0.98, 0.97, 0.96, 0.9, 0.89],
    )
    assert choose_regions(found).tolist() == [0, 3, 4]
    assert choose_regions(found, objectness=0.5).tolist() == [0, 3, 4, 5]
    assert choose_regions(found, limit=1).tolist() == [0]


def test_choose_regions__a_surer_region_suppresses_whatever_the_order() -> None:
    found = regions([[0, 0, 50, 50], [2, 2, 52, 52]], [0.95, 0.99])
    assert choose_regions(found).tolist() == [1]
    many = regions([[60.0 * i, 0, 60 * i + 50, 50] for i in range(40)], [0.95] * 40)
    assert len(choose_regions(many)) == 25


def test_score_texts__cosines_and_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    side, texts = torch.randn(2, 5, WIDTH, generator=generator)
    a, b = side.double().numpy(), texts.double().numpy()
    cosines = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(score_texts(side, texts), cosines, rtol=1e-4, atol=1e-6)
    exponents = np.exp(cosines / 0.07)
    shares = exponents / exponents.sum(1, keepdims=True)
    np.testing.assert_allclose(score_texts(side, texts, 0.07), shares, rtol=1e-4)


def test_answer__best_first_with_their_own_numbers() -> None:
    found = regions([[0, 0, 50, 50], [0, 60, 50, 90], [0, 100, 50, 150]], [0.99, 0.98, 0.97])
    rows = torch.tensor([0, 4, 7])
    assert found.image_side is not None
    asked = ImageRegions(rows, found, found.image_side, 0.1, (), 0.99)
    texts = found.image_side[[2, 0]].float()  # the third region's own embedding, and the first's
    given = answer(asked, texts)
    assert {region.region for region in given[:2]} == {0, 7}
    assert given[2].region == 4
    scores = score_texts(found.image_side, texts)
    for region in given:
        place = rows.tolist().index(region.region)
        assert region.scores == tuple(scores[place].tolist())
        assert region.box == tuple(found.boxes[place].tolist())
        assert region.mask[0, 0] == place
        assert region.name is None
    shares = answer(asked, texts, softmax=True)
    assert all(sum(region.scores) == pytest.approx(1) for region in shares)


@pytest.mark.parametrize("system", ["vild-ensemble", "vild-image", "vild-text"])
def test_find_regions__compares_with_the_image_side_where_there_is_one(
    tmp_path: Path, clip: str, system: str
) -> None:
    model = opened(tmp_path, clip, system)
    found = find_regions(model, PIXELS, objectness=0.0)
    assert 0 < len(found) <= 25
    (every,) = model.detector.regions([torch.from_numpy(PIXELS).permute(2, 0, 1)])
    side = every.text_side if system == "vild-text" else every.image_side
    assert side is not None
    assert torch.equal(found.side, side[found.rows])
    assert found.temperature == model.head.temperature
    assert found.highest_objectness == every.objectness.max()


def test_find_regions__names_by_the_current_vocabulary(tmp_path: Path, clip: str) -> None:
    fruit = Vocabulary("fruit", (Category(7, "banana"), Category(2, "pear"), Category(5, "fig")))
    for vocabulary in (fruit, None):
        model = opened(tmp_path, clip, vocabulary=vocabulary)
        found = find_regions(model, PIXELS, objectness=0.0)
        labeller = model.labeller
        assert labeller is not None
        bank = labeller.bank
        chosen = found.regions
        fused = score_regions(
            chosen.text_side, chosen.image_side, bank.text_embeddings, bank.is_base, labeller.head
        ).fused[:, : len(bank.category_ids)]
        categories = (vocabulary or Vocabulary("base", BASE)).categories
        best, column = fused.max(1)
        expected = [categories[i].name for i in column.tolist()]
        assert [name for name, _ in found.names] == expected
        assert [score for _, score in found.names] == best.tolist()


def test_open__without_base_categories_nothing_is_named(tmp_path: Path, clip: str) -> None:
    proposals = save_student(tmp_path / "student.safetensors", clip)
    options = LabellingOptions(teacher=clip, proposals=str(proposals), device="cpu", offline=True)
    model = open_asking_model(None, options)
    found = find_regions(model, PIXELS, objectness=0.0)
    assert len(found) > 0
    assert found.names == ()
    assert model.head.fusion.kind == "image"


def test_find_regions__of_an_image_too_small_for_any(tmp_path: Path, clip: str) -> None:
    found = find_regions(opened(tmp_path, clip), np.zeros((10, 10, 3), np.uint8), objectness=0.0)
    assert len(found) == 0
    assert found.names == ()


def test_open__a_supervised_model_has_no_words(tmp_path: Path) -> None:
    path = tmp_path / "supervised.safetensors"
    card = tiny_card("supervised", text_encoder={}, prompts={}, temperature=1.0)
    save_model(path, tiny_detector("supervised"), {}, card)
    with pytest.raises(ModelError) as error:
        open_asking_model(None, LabellingOptions(model=str(path), device="cpu"))
    assert str(error.value) == (
        "A supervised model has no text space, so it cannot be asked in words."
    )
    assert error.value.hint == "Use a ViLD model, whose classifier is made of words."


def test_text_reader__answers_in_one_sentence_unless_asked_otherwise(tmp_path: Path) -> None:
    encoder = load_text_encoder(save_clip(tmp_path / "clip"), offline=True)
    many = load_prompts("vild-63")
    words = Words(encoder, many, BASE, None, load_prompts("attributes"))
    assert text_reader(words).prompts == load_prompts("single")
    assert text_reader(words, "vild-63").prompts == many


def test_text_reader__of_glove_reads_words_and_no_sentences(tmp_path: Path) -> None:
    encoder = load_text_encoder(f"glove:{write_glove(tmp_path / 'glove.txt', wide(WIDTH))}")
    bare = load_prompts("bare")
    with pytest.raises(VocabularyError, match="GloVe reads names and no sentences"):
        text_reader(Words(encoder, load_prompts("single"), BASE, None, bare))
    reader = text_reader(Words(encoder, bare, BASE, None, bare))
    assert reader.unread(["red doll", "glassy doll"]) == {"glassy doll": ("glassy",)}
    with pytest.raises(VocabularyError) as error:
        reader.embed(["red doll", "xyzzy"])
    assert str(error.value) == "The text encoder knows no word of 1 of 2 names: xyzzy."
    assert reader.embed(["red doll"]).shape == (1, WIDTH)
