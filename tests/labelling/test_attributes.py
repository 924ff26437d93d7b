"""Factorised vocabularies: p categories and q attribute values, never p x q."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stub_encoder import StubTextEncoder
from tiny_detector import BASE
from tiny_student import save_clip, save_student
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from vildcli.cli import run
from vildcli.detector.scoring import Fusion, ScoringHead, score_regions
from vildcli.errors import VocabularyError
from vildcli.labelling.head import read_head, write_head
from vildcli.labelling.labeller import VocabularyLabeller
from vildcli.labelling.model import OpenedModel, open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import HEAD_FILE, LabelRecord, iter_labelled_images
from vildcli.labelling.words import ATTRIBUTE_PROMPTS, Words, make_labeller, open_stored_labeller
from vildcli.text.encoder import load_text_encoder
from vildcli.text.templates import Prompts, load_prompts
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary

COLOURS = ("red", "green", "orange")
SIZES = ("small", "large")
# "orange" is a fruit and a colour.
FRUIT = Vocabulary(
    "fruit",
    (Category(3, "apple"), Category(5, "orange")),
    attributes={"colour": COLOURS, "size": SIZES},
)
PLAIN = replace(FRUIT, attributes={})
BARE = Prompts("bare", ("{}",))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return save_clip(tmp_path / "clip")


@pytest.fixture
def student(tmp_path: Path, clip: str) -> Path:
    return save_student(tmp_path / "student.safetensors", clip)


def opened(model: Path, vocabulary: Vocabulary = FRUIT, **options: Any) -> OpenedModel:
    chosen = LabellingOptions(model=str(model), offline=True, device="cpu", **options)
    return open_labelling_model(vocabulary, chosen)


def regions_of(model: OpenedModel) -> Regions:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8, generator=generator)
    return model.detector.regions([image])[0]


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator), dim=-1)


@pytest.mark.parametrize("system", ["vild-ensemble", "vild-text", "vild-image"])
def test_scores__are_the_product_of_two_softmaxes(tmp_path: Path, clip: str, system: str) -> None:
    model = opened(save_student(tmp_path / "model.safetensors", clip, system))
    regions, labeller = regions_of(model), model.labeller
    labels = labeller.label(regions)
    side = regions.text_side if system == "vild-text" else regions.image_side
    assert side is not None
    encoder = load_text_encoder(clip, offline=True)
    joint = {}
    for found in labels.attributes:
        values = FRUIT.attributes[found.set]
        sentences = [f"This is a photo of a{'n' * (v == 'orange')} {v} object." for v in values]
        texts = normalize(encoder.encode(sentences), dim=-1).double().numpy()
        # The text side too is read without background.
        logits = side[labels.regions].double().numpy() @ texts.T / labeller.head.image_temperature
        expected = softmax(logits)
        np.testing.assert_allclose(found.scores, expected.max(1), rtol=1e-4)
        assert list(found.names) == [values[i] for i in expected.argmax(1)]
        joint[found.set] = labels.scores.double().numpy() * expected.max(1)
        np.testing.assert_allclose(found.joint_scores, joint[found.set], rtol=1e-4)
    assert list(joint) == ["colour", "size"]
    # The whole table of pairs holds nothing better of the same name: its best is this product.
    bank = labeller.bank
    fused = score_regions(
        regions.text_side, regions.image_side, bank.text_embeddings, bank.is_base, labeller.head
    ).fused[labels.regions, :2]
    table = fused[:, :, None] * torch.tensor(expected)[:, None]
    np.testing.assert_allclose(table.amax((1, 2)), joint["size"], rtol=1e-4)


def test_attributes__change_no_label(student: Path) -> None:
    model = opened(student)
    regions = regions_of(model)
    with_them, without = (m.labeller.label(regions) for m in (model, opened(student, PLAIN)))
    assert len(without) > 0
    for name in ("regions", "category_ids", "is_base", "scores", "text_scores", "image_scores"):
        assert torch.equal(getattr(with_them, name), getattr(without, name)), name
    assert without.attributes == ()
    # A colour that is called as a category is: two softmaxes, neither takes from the other.
    assert {name for found in with_them.attributes for name in found.names} <= {*COLOURS, *SIZES}


def test_attributes__of_no_label(student: Path) -> None:
    labels = opened(student, floor=1.0).labeller.label(regions_of(opened(student)))
    assert len(labels) == 0
    assert [found.names for found in labels.attributes] == [(), ()]


def stub_labeller(
    categories: int, values: int, width: int = 64
) -> tuple[VocabularyLabeller, StubTextEncoder]:
    encoder = StubTextEncoder()
    vocabulary = Vocabulary(
        "many",
        tuple(Category(i, f"thing {i}") for i in range(1, categories + 1)),
        attributes={"kind": tuple(f"kind {i}" for i in range(values))},
    )
    head = ScoringHead(unit(1, width, 5)[0], 0.05, 0.05, Fusion("ensemble"))
    words = Words(encoder, BARE, BASE, None, BARE)
    return make_labeller(vocabulary, words, head, LabellingOptions(context="none"))[0], encoder


def test_cost__encodes_p_plus_q_texts() -> None:
    labeller, encoder = stub_labeller(40, 11)
    assert len(encoder.sentences) == len(set(encoder.sentences)) == 40 + 11
    assert sum(len(found.embeddings) for found in labeller.attributes) == 11


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = func(*args, **(kwargs or {}))
        for one in given if isinstance(given, (tuple, list)) else (given,):
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.untyped_storage().nbytes() // 4)
        return given


def test_cost__a_million_pairs_are_never_materialised() -> None:
    categories, values, count, width = 1000, 1000, 100, 64
    labeller, _ = stub_labeller(categories, values)
    boxes = torch.arange(count)[:, None] * 20.0 + torch.tensor([0.0, 0, 10, 10])
    regions = Regions(
        boxes=boxes,
        proposals=boxes,
        objectness=torch.linspace(1, 0, count),
        masks=torch.zeros(count, 28, 28, dtype=torch.uint8),
        text_side=unit(count, width, 1).half(),
        image_side=unit(count, width, 2).half(),
    )
    labeller = replace(labeller, policy=replace(labeller.policy, floor=0.0))
    with _Largest() as largest:
        labels = labeller.label(regions)
    assert len(labels) == count
    assert len(labels.attributes[0].names) == count
    assert largest.numbers <= count * (categories + values)


def labels_of(folder: Path) -> list[LabelRecord]:
    return [label for image in iter_labelled_images(folder) for label in image.labels]


def test_detect_then_relabel__gives_the_same_attributes(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i, 64, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
    save_vocabulary(FRUIT, Path("fruit.yaml"))
    mine = tmp_path / "mine.txt"
    mine.write_text("something {}\n")
    words = ["--vocab", "./fruit.yaml", "--offline"]
    of_mine = ["--attribute-prompts", str(mine)]
    detect = ["detect", "photos", "--model", str(student), "--device", "cpu", "--keep-regions"]
    assert run([*detect, *words, *of_mine, "--out", "first"]) == 0
    mine.unlink()  # the run remembers the sentences themselves
    assert run(["relabel", "first", *words, "--out", "second"]) == 0
    first, second = (labels_of(Path(folder)) for folder in ("first", "second"))
    assert len(first) > 0
    assert [label.attributes for label in first] == [label.attributes for label in second]
    for label in first:
        assert [attribute.set for attribute in label.attributes] == ["colour", "size"]
        for attribute in label.attributes:
            assert attribute.name in FRUIT.attributes[attribute.set]
            product = np.float32(label.score) * np.float32(attribute.score)
            assert np.float32(attribute.joint) == product
    settings = [
        json.loads(Path(f, "run.json").read_text())["settings"] for f in ("first", "second")
    ]
    assert settings[0]["attribute_prompts"] == Prompts("", ("something {}",)).fingerprint
    assert settings[1]["attribute_prompts"] == settings[0]["attribute_prompts"]
    other = ["relabel", "first", *words, "--attribute-prompts", ATTRIBUTE_PROMPTS, "--out", "third"]
    assert run(other) == 0
    third = labels_of(Path("third"))
    assert [label.attributes for label in third] != [label.attributes for label in first]
    assert [label.score for label in third] == [label.score for label in first]


def test_settings__name_the_prompts_of_attributes_only_where_there_are_any(student: Path) -> None:
    assert "attribute_prompts" not in opened(student, PLAIN).settings
    usual = opened(student).settings["attribute_prompts"]
    assert usual == load_prompts("attributes").fingerprint
    assert opened(student, attribute_prompts="single").settings["attribute_prompts"] != usual


def test_shipped_prompts__are_one_sentence_for_an_adjective() -> None:
    assert load_prompts(ATTRIBUTE_PROMPTS).sentences("orange") == [
        "This is a photo of an orange object."
    ]


def test_head__of_an_older_run_has_the_usual_prompts(tmp_path: Path, student: Path) -> None:
    opened(student).save_head(tmp_path)
    path = tmp_path / HEAD_FILE
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["head"])
    assert values.pop("attribute_prompts")["name"] == "attributes"
    number = str(values.pop("format"))
    save_file(load_file(path), path, {"format": number, "head": json.dumps(values)})
    assert read_head(tmp_path).attribute_prompts is None
    _, said = open_stored_labeller(tmp_path, FRUIT, LabellingOptions(offline=True))
    assert said["attribute_prompts"] == load_prompts("attributes").fingerprint


def test_bare_names__have_bare_attributes(tmp_path: Path, student: Path) -> None:
    model = opened(student, prompts="bare")
    assert model.settings["attribute_prompts"] == load_prompts("bare").fingerprint
    write_head(tmp_path, model.head)
    stored = read_head(tmp_path).attribute_prompts
    assert stored is not None
    assert stored.templates == ("{}",)


def test_bare_names__refuse_sentences_for_attributes(tmp_path: Path) -> None:
    from tiny_detector import WIDTH
    from tiny_glove import wide, write_glove

    encoder = load_text_encoder(f"glove:{write_glove(tmp_path / 'glove.txt', wide(WIDTH))}")
    words = Words(encoder, BARE, BASE, None, load_prompts(ATTRIBUTE_PROMPTS))
    head = ScoringHead(torch.ones(WIDTH), 0.01, 0.01, Fusion("text"))
    vocabulary = Vocabulary("fruit", BASE, attributes={"colour": ("red", "of glass")})
    with pytest.raises(VocabularyError) as error:
        make_labeller(vocabulary, words, head, LabellingOptions(context="none"))
    assert str(error.value) == (
        "GloVe reads names and no sentences, as the prompts 'attributes' are."
    )
    bare = replace(words, attribute_prompts=BARE)
    with pytest.raises(VocabularyError, match="knows no word of 1 of 2 names: of glass"):
        make_labeller(vocabulary, bare, head, LabellingOptions(context="none"))
    known = replace(vocabulary, attributes={"colour": ("red", "glassy red")})
    labeller, _ = make_labeller(known, bare, head, LabellingOptions(context="none"))
    assert labeller.unread == {"glassy red": ("glassy",)}
