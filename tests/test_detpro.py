from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detpro_checkpoint import (
    PlainDetector,
    State,
    make_checkpoint,
    make_state,
    shapes,
    small_state,
    write_checkpoint,
)
from safetensors.torch import save_file
from stub_encoder import StubTextEncoder
from tiny_detector import tiny_card, tiny_detector
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.checkpoint import Model, load_model, save_model
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.detector import Detector
from vildcli.detector.scoring import score_regions
from vildcli.detpro import fill, is_detpro, load_detpro
from vildcli.errors import ModelError
from vildcli.labelling.model import OpenedModel, open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.runs import file_sha256
from vildcli.systems import SYSTEMS
from vildcli.vocabulary.category import Category, Vocabulary

CPU = torch.device("cpu")
HEIGHT, WIDTH = 90, 1333  # no resizing: the long side is what it is scaled to


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def state() -> State:
    return make_state()


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_checkpoint(tmp_path_factory.mktemp("detpro") / "epoch_20.pth", state)
    yield path
    path.unlink()  # 250 MB


@pytest.fixture(scope="module")
def model(file: Path) -> Model:
    return load_model(file, CPU)


@pytest.fixture(scope="module")
def image() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(1, 3, 9, 60, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic")
    return smooth[0].clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def pixels(image: Tensor) -> Tensor:
    """Normalised and padded to multiples of 32, by the published numbers."""
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    padded = torch.zeros(1, 3, 96, 1344)
    padded[0, :, :HEIGHT, :WIDTH] = (image.float() - mean) / std
    return padded


@pytest.fixture(scope="module")
def plain(state: State) -> PlainDetector:
    return PlainDetector(state)


@pytest.fixture(scope="module")
def pyramid(plain: PlainDetector, pixels: Tensor) -> list[Tensor]:
    return plain.pyramid(pixels)


def test_the_tables_hold_375_tensors() -> None:
    assert len(shapes()) == 375
    detector = sum(torch.Size(shape).numel() for shape in shapes().values())
    assert detector == pytest.approx(246e6 / 4, rel=0.01)  # 246 MB without CLIP


@torch.inference_mode()
def test_pyramid__stage_by_stage(model: Model, pixels: Tensor, pyramid: list[Tensor]) -> None:
    found = model.detector.backbone(pixels)
    assert [tuple(x.shape[2:]) for x in found] == [(24, 336), (12, 168), (6, 84), (3, 42), (2, 21)]
    for ours, theirs in zip(found, pyramid, strict=True):
        assert theirs.abs().mean() > 0.1
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_proposals__stage_by_stage(
    model: Model, plain: PlainDetector, image: Tensor, pyramid: list[Tensor]
) -> None:
    theirs = plain.proposals(pyramid, (HEIGHT, WIDTH), 1000)
    ours = model.detector.proposals(image, count=1000)
    assert len(theirs) == len(ours) > 200
    assert theirs[:, 4].max() - theirs[:, 4].min() > 0.3
    torch.testing.assert_close(ours[:100], theirs[:100, :4], atol=0.05, rtol=1e-3)
    nearest = (ours[:, None] - theirs[None, :, :4]).abs().amax(-1).min(1).values
    assert (nearest < 0.1).float().mean() > 0.99  # equal scores may come in another order


@torch.inference_mode()
def test_regions_and_scores__stage_by_stage(
    model: Model, plain: PlainDetector, image: Tensor, pyramid: list[Tensor]
) -> None:
    [regions] = model.detector.regions([image], count=40)
    found = plain.proposals(pyramid, (HEIGHT, WIDTH), 40)
    proposals, objectness = found[:, :4], found[:, 4]
    torch.testing.assert_close(regions.proposals, proposals, atol=0.05, rtol=1e-3)
    torch.testing.assert_close(regions.objectness, objectness, atol=1e-4, rtol=1e-3)
    pooled = plain.pooled(pyramid, proposals, 7)
    features, text_side = plain.head(pooled, "")
    _, image_side = plain.head(pooled, "_for_image")
    boxes = plain.boxes(features, proposals, (HEIGHT, WIDTH))
    masks = plain.masks(plain.pooled(pyramid, boxes, 14))
    assert (boxes - proposals).abs().max() > 5
    assert (text_side - image_side).abs().max() > 0.05
    assert masks.std() > 0.1
    torch.testing.assert_close(regions.boxes, boxes, atol=0.1, rtol=1e-3)
    for ours, theirs in ((regions.text_side, text_side), (regions.image_side, image_side)):
        assert ours is not None
        torch.testing.assert_close(ours.float(), theirs, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(regions.masks.float() / 255, masks, atol=0.01, rtol=0)

    generator = torch.Generator().manual_seed(6)
    texts = normalize(torch.randn(30, 512, generator=generator) + 4 * text_side[:30], dim=1)
    base = torch.arange(30) % 3 > 0
    head = model.detector.scoring_head(model.card.temperature)
    scores = score_regions(text_side, image_side, texts, base, head)
    wanted = plain.scores(text_side, image_side, texts, base)
    assert wanted.max() > 0.1
    torch.testing.assert_close(scores.fused, wanted, atol=1e-5, rtol=1e-3)


def test_card(model: Model, file: Path) -> None:
    card = model.card
    assert (card.system, card.temperature, card.embedding_width) == ("vild-ensemble", 0.007, 512)
    assert len(card.base_categories) == 866
    assert {category.frequency for category in card.base_categories} == {"f", "c"}
    assert card.prompts["name"] == "detpro-74"
    assert card.text_encoder == {"reference": "ViT-B-32:openai"}
    assert card.provenance == {
        "release": "DetPro (ViLD* or DetPro)",
        "init": "SoCo",
        "note": "vildcli was never run on the real file",
        "sha256": file_sha256(file),
    }
    assert not model.text_tower
    assert not model.detector.training
    json.dumps(card.as_dict())


def test_background__is_what_the_linear_layer_gives(model: Model, state: State) -> None:
    weight, bias = (state[f"roi_head.bg_embedding.{part}"] for part in ("weight", "bias"))
    assert model.detector.background is not None
    assert torch.equal(model.detector.background, weight[:, 0] + bias)


def test_saved_as_a_model_file__is_the_same_model(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "detpro.safetensors"
    save_model(path, model.detector, {}, model.card)
    again = load_model(path, CPU)
    path.unlink()
    assert again.identity == model.identity
    assert again.card.architecture == json.loads(json.dumps(model.card.as_dict()))["architecture"]
    ours, theirs = again.detector.state_dict(), model.detector.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert again.detector.architecture == model.detector.architecture


def opened(
    file: Path, monkeypatch: pytest.MonkeyPatch, **options: object
) -> tuple[OpenedModel, StubTextEncoder]:
    encoder = StubTextEncoder()
    monkeypatch.setattr(encoder, "width", 512, raising=False)
    monkeypatch.setattr(
        "vildcli.text.encoder.load_text_encoder", lambda reference, offline: encoder
    )
    names = ("bat_(animal)", "cup", "thing")
    categories = tuple(
        Category(i, name, synonyms=("other",)) for i, name in enumerate(names, start=1)
    )
    chosen = LabellingOptions(str(file), regions=10, device="cpu", **options)  # type: ignore[arg-type]
    return open_labelling_model(Vocabulary("three", categories), chosen), encoder


def test_labels_in_its_own_words(
    file: Path, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, encoder = opened(file, monkeypatch, context="none")
    assert len(encoder.sentences) == 3 * 74
    assert encoder.sentences[0] == "This is a bat_(animal)"
    assert not any("other" in sentence for sentence in encoder.sentences)
    head = found.labeller.head
    assert (head.temperature, head.image_temperature) == (0.007, 0.007)
    assert found.labeller.bank.is_base.tolist() == [True, True, False]
    [regions] = found.detector.regions([image])
    labels = found.labeller.label(regions)
    assert labels.text_scores is not None
    assert labels.image_scores is not None


def test_labels_with_a_prompt_file_of_the_authors(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = torch.randn(1, 4, 512, generator=torch.Generator().manual_seed(1)).half()
    torch.save(rows, tmp_path / "iou_neg5_ens.pth")
    found, encoder = opened(file, monkeypatch, text_bank=tmp_path / "iou_neg5_ens.pth")
    assert encoder.sentences == []
    wanted = normalize(rows[0, :3].float(), dim=1)
    torch.testing.assert_close(found.labeller.bank.text_embeddings, wanted)
    assert found.labeller.head.temperature == 0.007


def with_module(state: State) -> object:
    return make_checkpoint({f"module.{name}": value for name, value in state.items()})


def bare(state: State) -> object:
    return state


def stripped(state: State) -> object:
    kept = {k: v for k, v in state.items() if "clip_model" not in k and "num_batches" not in k}
    return make_checkpoint(kept, optimizer=False)


def with_surplus(state: State) -> object:
    """An unused classifier, and the three scalars of older CLIPs."""
    surplus = {"roi_head.bbox_head.fc_cls.weight": torch.zeros(2, 2)}
    scalars = {f"roi_head.clip_model.{name}": torch.tensor(224) for name in ("input_resolution",)}
    return make_checkpoint({**state, **surplus, **scalars})


def held(path: Path) -> dict[str, float]:
    """The one number of every weight of a detector read from a file."""
    state = load_detpro(path, CPU).detector.state_dict()
    assert all((value == value.flatten()[0]).all() for value in state.values())
    return {name: float(value.flatten()[0]) for name, value in state.items()}


@pytest.mark.parametrize(
    ("form", "zipped"),  # files of before 2020 are not
    [(with_module, True), (stripped, True), (with_surplus, True), (bare, False)],
)
def test_forms_of_the_same_weights(
    form: Callable[[State], object], zipped: bool, tmp_path: Path
) -> None:
    path, state = tmp_path / "x.pth", small_state()
    torch.save(form(state), path, _use_new_zipfile_serialization=zipped)
    assert is_detpro(path)
    found = held(path)
    weight, bias = (f"roi_head.bg_embedding.{part}" for part in ("weight", "bias"))
    assert found.pop("background") == float(state[weight][0, 0] + state[bias][0])
    counters = {
        name: value for name, value in found.items() if name.endswith("num_batches_tracked")
    }
    wanted = {float(state[name].flatten()[0]) for name in shapes()} - {
        float(state[name].flatten()[0]) for name in (weight, bias)
    }
    assert {value for name, value in found.items() if name not in counters} == wanted
    assert len(found) - len(counters) == 373
    assert found["image_head.project.bias"] == state["roi_head.projection_for_image.bias"][0]
    assert found["head.convs.3.1.running_var"] == state[
        "roi_head.bbox_head.shared_convs.3.bn.running_var"
    ][0]  # fmt: skip


def refusal(path: Path, content: object) -> ModelError:
    torch.save(content, path)
    with pytest.raises(ModelError) as error:
        load_detpro(path, CPU)
    assert "\n" not in str(error.value)
    return error.value


README = "Take the Mask R-CNN weights, ViLD* or DetPro, of DetPro's README."


def test_variants_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", small_state()
    three = {k.replace("shared_convs.", "0.shared_convs."): v for k, v in state.items()}
    one = {k: v for k, v in state.items() if "_for_image" not in k}
    fixed = {k: v for k, v in state.items() if "bg_embedding" not in k}
    said = {
        "is the Cascade model, whose heads come in threes": three,
        "has a single head and no image head": one,
        "was trained with a fixed background (fix_bg), which is not in the file": fixed,
    }
    for what, content in said.items():
        error = refusal(path, {"state_dict": content})
        assert str(error) == f"{path} {what}: it cannot be read."
        assert error.hint == README


def test_every_misfit_is_counted_and_the_first_are_named(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", small_state()
    changed = {k: v for k, v in state.items() if not k.startswith("roi_head.mask_head.convs")}
    changed["rpn_head.rpn_cls.bias"] = torch.zeros(6)
    changed["roi_head.bg_embedding.weight"] = torch.zeros(512)
    changed["neck.extra.weight"] = torch.zeros(1)
    error = refusal(path, {"state_dict": changed})
    convs = "roi_head.mask_head.convs"
    assert str(error) == (
        f"{path} is not the released architecture: 8 missing: {convs}.0.conv.weight, "
        f"{convs}.0.conv.bias, {convs}.1.conv.weight, {convs}.1.conv.bias, {convs}.2.conv.weight "
        "and 3 more; 2 of another shape: rpn_head.rpn_cls.bias (6,) for (3,), "
        "roi_head.bg_embedding.weight (512,) for (512, 1); 1 unknown: neck.extra.weight."
    )
    assert error.hint == README


def test_not_one_of_the_375_may_be_missing(untouched: Detector) -> None:
    state = small_state()
    for name in shapes():
        kept = {key: value for key, value in state.items() if key != name}
        with pytest.raises(ModelError) as error:
            fill(Path("x"), untouched, kept)
        assert str(error.value) == f"x is not the released architecture: 1 missing: {name}."


@pytest.fixture(scope="module")
def untouched() -> Detector:
    with torch.device("meta"):  # nothing is copied into it
        return Detector(ARCHITECTURES["detpro"], SYSTEMS["vild-ensemble"], 512)


def test_boxes_shrink_no_further_than_they_grow(untouched: Detector) -> None:
    references = torch.tensor([[0.0, 0, 1000, 1000]])
    found = untouched._decode(torch.tensor([[0.0, 0, -50, -10]]), references)
    sides = (found[0, 2:] - found[0, :2]).tolist()
    assert sides == pytest.approx([16, 1000 * math.exp(-2)], rel=1e-3)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", small_state()
    error = refusal(path, {"meta": {"folder": Path("/tmp")}, "state_dict": state})
    assert str(error).startswith(
        f"{path} holds more than tensors and plain values, and is not read: WeightsUnpickler error:"
    )
    assert error.hint == (
        "Such a file runs code. Get the authors' own, or one that holds state_dict alone."
    )


def test_a_cut_download_is_named(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ModelError) as error:
        load_model(path, CPU)
    assert str(error.value).startswith(f"{path} cannot be read: ")
    assert error.value.hint == "Download it again."


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": [1]}, {"a": 1}])
def test_no_state_dict(content: object, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    assert str(refusal(path, content)) == f"{path} holds no state_dict of tensors."


def test_other_files_are_not_taken_for_it(tmp_path: Path) -> None:
    save_model(tmp_path / "own.safetensors", tiny_detector(), {}, tiny_card())
    save_file({"roi_head.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    torch.save({"roi_heads.box_head.fc6.weight": torch.zeros(2)}, tmp_path / "torchvision.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html> roi_head. cannot be scanned for viruses")
    (tmp_path / "empty.pth").write_bytes(b"")
    assert not any(is_detpro(path) for path in tmp_path.iterdir() if path.is_file())
    with pytest.raises(ModelError, match=r"page\.pth is not a safetensors file"):
        load_model(tmp_path / "page.pth", CPU)
