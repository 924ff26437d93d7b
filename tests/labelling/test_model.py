from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_detector import BASE
from tiny_student import save_clip, save_student

from vildcli import weights
from vildcli.cli import run
from vildcli.errors import ModelError, RunError, VildError
from vildcli.labelling.head import read_head
from vildcli.labelling.labeller import VocabularyLabeller
from vildcli.labelling.model import OpenedModel, open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import iter_labelled_images
from vildcli.labelling.relabel import relabel_run
from vildcli.labelling.words import open_stored_labeller
from vildcli.runs import read_run
from vildcli.text.bank import embed_vocabulary, save_text_bank
from vildcli.text.encoder import load_text_encoder
from vildcli.text.templates import load_prompts
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary

WORDS = Vocabulary("fruit", (Category(3, "apple"), Category(5, "banana")))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """Reference of a tiny CLIP with random weights."""
    return save_clip(tmp_path / "clip")


@pytest.fixture
def student(tmp_path: Path, clip: str) -> Path:
    return save_student(tmp_path / "student.safetensors", clip)


def opened(model: object, vocabulary: Vocabulary = WORDS, **options: Any) -> OpenedModel:
    options = {"offline": True, "device": "cpu", **options}
    return open_labelling_model(vocabulary, LabellingOptions(model=str(model), **options))


def labeller_of(model: OpenedModel) -> VocabularyLabeller:
    assert isinstance(model.labeller, VocabularyLabeller)
    return model.labeller


def refusal(model: object, vocabulary: Vocabulary = WORDS, **options: Any) -> VildError:
    with pytest.raises(VildError) as error:
        opened(model, vocabulary, **options)
    return error.value


def pixels(seed: int = 0, height: int = 50, width: int = 70) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def draw(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        image = pixels(i, 40 + i, 64).permute(1, 2, 0).numpy()
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_a_trained_model_labels(student: Path) -> None:
    model = opened(student)
    regions = model.detector.regions([pixels()])[0]
    labels = model.labeller.label(regions)
    assert len(labels) > 0
    assert set(labels.category_ids.tolist()) <= {3, 5}
    # apple is in the model's base list, banana is not.
    assert labels.is_base.tolist() == [i == 3 for i in labels.category_ids.tolist()]
    assert labels.text_scores is not None
    assert labels.image_scores is not None
    assert model.default_conf == 0.2
    assert model.settings["system"] == "vild-ensemble"
    assert model.settings["regions"] == 300
    assert model.seconds_per_image is None


def test_context__is_the_base_categories_less_the_users_own(student: Path) -> None:
    bank = labeller_of(opened(student)).bank
    assert len(bank.text_embeddings) == 3  # apple, banana and pear
    assert bank.dropped == ("apple",)
    assert bank.category_ids.tolist() == [3, 5]
    alone = labeller_of(opened(student, context="none")).bank
    assert len(alone.text_embeddings) == 2


def test_context__naming_a_context_name_changes_no_other_score(student: Path) -> None:
    more = Vocabulary("more", (*WORDS.categories, Category(9, "pear", synonyms=("anjou",))))
    regions = opened(student).detector.regions([pixels()])[0]

    def scores(vocabulary: Vocabulary) -> torch.Tensor:
        from vildcli.detector.scoring import score_regions

        labeller = labeller_of(opened(student, vocabulary))
        bank = labeller.bank
        fused: torch.Tensor = score_regions(
            regions.text_side, regions.image_side, bank.text_embeddings, bank.is_base, labeller.head
        ).fused
        return fused[:, :2]

    torch.testing.assert_close(scores(more), scores(WORDS))


def test_settings__say_everything_that_decides_a_label(student: Path) -> None:
    first = opened(student).settings
    assert opened(student).settings == first
    changes: list[dict[str, Any]] = [
        {"floor": 0.1},
        {"max_det": 5},
        {"nms": "class"},
        {"context": "none"},
        {"prompts": "clip-80"},
        {"fusion": "uniform:0.6"},
        {"regions": 7},
    ]
    for change in changes:
        assert opened(student, **change).settings != first, change
    assert opened(student, Vocabulary("x", (Category(3, "apple"),))).settings != first
    json.dumps(first)


def test_fusion__one_exponent(student: Path) -> None:
    head = labeller_of(opened(student, fusion="uniform:0.6")).head
    assert (head.fusion.kind, head.fusion.base_weight) == ("uniform", 0.6)


@pytest.mark.parametrize("rule", ["uniform", "uniform:2", "uniform:x", "mean:0.5", ""])
def test_fusion__other_rules_are_refused(student: Path, rule: str) -> None:
    error = refusal(student, fusion=rule)
    assert str(error) == f"--fusion {rule} cannot be used with this model."
    assert error.hint == (
        "Write objectness:W, or for a model that has two sides uniform:W, W from 0 to 1."
    )


def test_fusion__objectness_goes_into_score_and_settings(student: Path) -> None:
    plain, weighted = opened(student), opened(student, fusion="objectness")
    assert labeller_of(weighted).head.fusion.objectness_weight == 0.5
    assert plain.settings["fusion"] == ["ensemble", 2 / 3]
    assert weighted.settings["fusion"] == ["ensemble", 2 / 3, 0.5]


def test_fusion__needs_two_sides(tmp_path: Path, clip: str) -> None:
    model = save_student(tmp_path / "text.safetensors", clip, "vild-text")
    assert str(refusal(model, fusion="uniform:0.5")).startswith("--fusion uniform:0.5 cannot")


@pytest.mark.parametrize("suffix", [".safetensors", ".npy"])
def test_text_bank__gives_the_labels_of_its_encoder(
    tmp_path: Path, student: Path, clip: str, suffix: str
) -> None:
    prompts = load_prompts("single")
    vocabulary = Vocabulary("fruit", WORDS.categories, negatives=("leaf",))
    bank = embed_vocabulary(vocabulary, load_text_encoder(clip, offline=True), prompts)
    path = tmp_path / f"bank{suffix}"
    if suffix == ".npy":
        np.save(path, bank.embeddings.numpy())
    else:
        save_text_bank(bank, path)
    given = opened(student, vocabulary, text_bank=path, prompts="single")
    made = opened(student, vocabulary, context="none", prompts="single")
    torch.testing.assert_close(
        labeller_of(given).bank.text_embeddings, labeller_of(made).bank.text_embeddings
    )
    assert len(labeller_of(given).bank.text_embeddings) == 3  # the negative too
    assert given.settings["text_bank"] != made.settings["text_bank"]


def test_text_bank__of_another_encoder_is_refused(tmp_path: Path, student: Path) -> None:
    other = load_text_encoder(save_clip(tmp_path / "other", shift=0.1), offline=True)
    path = tmp_path / "bank.safetensors"
    save_text_bank(embed_vocabulary(WORDS, other, load_prompts("single")), path)
    error = refusal(student, text_bank=path)
    assert str(error) == f"{path} was made with another text encoder than the model's."
    np.save(tmp_path / "wide.npy", np.ones((2, 24), np.float32))
    error = refusal(student, text_bank=tmp_path / "wide.npy")
    assert error.hint == "Make it with the model's, whose vectors have 16 numbers."


def test_text_bank__has_no_context(tmp_path: Path, student: Path) -> None:
    error = refusal(student, text_bank=tmp_path / "bank.safetensors", context="lvis-v1")
    assert str(error) == "--text-bank cannot be scored among the names of --context."


def test_teacher__makes_vild_text_clip_of_vild_text(tmp_path: Path, clip: str) -> None:
    model = save_student(tmp_path / "text.safetensors", clip, "vild-text")
    with_clip = opened(model, teacher=clip)
    assert with_clip.settings["system"] == "vild-text-clip"
    assert with_clip.settings["regions"] == 100
    regions = with_clip.detector.regions([pixels()])[0]
    assert regions.text_side is not None
    assert regions.image_side is not None
    assert with_clip.seconds_per_image is not None
    labels = with_clip.labeller.label(regions)
    assert labels.text_scores is not None
    assert labels.image_scores is not None
    plain = opened(model)
    assert plain.detector.regions([pixels()])[0].image_side is None


def test_teacher__only_with_vild_text(student: Path, clip: str) -> None:
    error = refusal(student, teacher=clip)
    assert str(error) == (
        "--teacher adds CLIP on crops to a vild-text model; this one is vild-ensemble."
    )
    assert error.hint == "Leave --teacher out, or give a vild-text model."


def test_teacher__another_clip_than_the_models_is_refused(tmp_path: Path, clip: str) -> None:
    model = save_student(tmp_path / "text.safetensors", clip, "vild-text")
    other = save_clip(tmp_path / "other", shift=0.1)
    assert str(refusal(model, teacher=other)) == (
        f"{other} is not the CLIP whose text this model was trained against."
    )


def test_clip_on_crops__with_a_models_proposals(student: Path, clip: str) -> None:
    model = opened("clip-on-crops", teacher=clip, proposals=str(student), context="none")
    assert model.settings["system"] == "clip-on-crops"
    regions = model.detector.regions([pixels()])[0]
    assert regions.text_side is None
    labels = model.labeller.label(regions)
    assert len(labels) > 0
    assert labels.text_scores is None
    assert not labels.is_base.any()
    assert model.seconds_per_image is not None
    assert model.seconds_per_image() > 0


def test_clip_on_crops__missing_weights_are_named(clip: str, tmp_path: Path) -> None:
    error = refusal("clip-on-crops", teacher=clip)
    assert str(error) == (
        "The weights of torchvision's Mask R-CNN are not here, and the network is forbidden."
    )
    path = weights.plan_fetch(["torchvision"])[0].path
    assert path.is_relative_to(tmp_path)
    assert error.hint == (
        f"Run 'vildcli fetch' where there is a network and copy {path.name} to {path}"
    )


def test_no_such_device(student: Path) -> None:
    for device in ("gpu", "cuda:99"):
        error = refusal(student, device=device)
        assert str(error) == f"There is no device '{device}' here."
        assert isinstance(error, ModelError)


def test_nms_within_groups(student: Path) -> None:
    kinds = Vocabulary("kinds", (Category(1, "fruit"), Category(2, "apple", parent="fruit")))
    labeller = labeller_of(opened(student, kinds, nms="group"))
    assert labeller.groups is not None
    assert len(set(labeller.groups.tolist())) == 1


def labels_of(folder: Path) -> list[list[tuple[Any, ...]]]:
    return [
        [(row.category_id, row.score, row.is_base, row.box) for row in image.labels]
        for image in iter_labelled_images(folder)
    ]


def test_detect_then_relabel_gives_the_same_labels(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", str(student), "--classes", "apple, banana", "--offline", "--device"]
    detect = ["detect", "photos", *arguments, "cpu", "--keep-regions", "--regions", "20"]
    assert run([*detect, "--out", "first", "--workers", "1"]) == 0
    first = tmp_path / "first"
    assert sum(map(len, labels_of(first))) > 0
    assert read_run(first, "labelling")["settings"]["system"] == "vild-ensemble"
    # Only what the run stored and the model's text tower: no image, no detector.
    shutil.rmtree(tmp_path / "photos")
    stored = read_head(first)
    assert stored.base == BASE
    vocabulary = Vocabulary("again", (Category(1, "apple"), Category(2, "banana")))
    labeller, said = open_stored_labeller(first, vocabulary, LabellingOptions(offline=True))
    assert said["text_encoder"] == stored.text_encoder
    relabel_run(first, labeller, tmp_path / "second", settings=said, vocabulary=vocabulary)
    assert labels_of(tmp_path / "second") == labels_of(first)
    relabel = ["relabel", "first", "--classes", "apple, banana", "--out", "third", "--offline"]
    assert run(relabel) == 0
    assert labels_of(tmp_path / "third") == labels_of(first)


def test_relabel__needs_the_model_it_was_made_with(
    tmp_path: Path, student: Path, clip: str
) -> None:
    opened(student).save_head(tmp_path / "run")
    assert open_stored_labeller(tmp_path / "run", WORDS, LabellingOptions(offline=True))
    save_student(student, save_clip(tmp_path / "other", shift=0.1))
    with pytest.raises(ModelError) as error:
        open_stored_labeller(tmp_path / "run", WORDS, LabellingOptions(offline=True))
    assert str(error.value) == (
        f"{student} is not the text encoder that {tmp_path / 'run'} was made with any more."
    )


def test_head__newer_damaged_and_missing(tmp_path: Path, student: Path) -> None:
    opened(student).save_head(tmp_path)
    path = tmp_path / "regions" / "head.safetensors"
    assert read_head(tmp_path).head.fusion.kind == "ensemble"
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["head"])
    save_file(load_file(path), path, {"head": json.dumps({**values, "format": 9})})
    with pytest.raises(RunError, match=r"has format 9; this vildcli reads up to 1\.$"):
        read_head(tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"head\.safetensors is damaged: "):
        read_head(tmp_path)
    path.unlink()
    with pytest.raises(RunError) as error:
        read_head(tmp_path)
    assert error.value.hint == "Run detect with --keep-regions."


def test_head__is_the_same_file_again(tmp_path: Path, student: Path) -> None:
    """Runs that share a head are told by its bytes."""
    model = opened(student)
    written = set()
    for _ in range(8):  # of two keys in an order of the moment, one time in 128 all would agree
        model.save_head(tmp_path)
        written.add((tmp_path / "regions" / "head.safetensors").read_bytes())
    assert len(written) == 1


@pytest.mark.slow
def test_clip_on_crops__torchvisions_proposals(tmp_path: Path, clip: str) -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    network.rpn.head.cls_logits.bias.data.fill_(2.0)
    path = weights.plan_fetch(["torchvision"])[0].path
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    from vildcli.teacher.torchvision_proposals import TorchvisionProposer

    proposer = TorchvisionProposer(path, torch.device("cpu"), count=100)
    proposer.model.transform.min_size, proposer.model.transform.max_size = (64,), 96
    found: Regions = proposer([pixels(0, 64, 90)])[0]
    assert 0 < len(found) <= 100
    assert found.text_side is None
    assert (found.objectness[:-1] >= found.objectness[1:]).all()
    assert found.boxes[:, 2].max() <= 90
    assert found.boxes[:, 3].max() <= 64
    path.write_bytes(b"damaged")
    error = refusal("clip-on-crops", teacher=clip)
    assert str(error).startswith(f"{path} does not hold torchvision's maskrcnn_resnet50_fpn: ")
