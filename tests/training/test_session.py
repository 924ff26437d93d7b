"""Whole training runs, from files to labels, of every row of the systems table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import tiny_clip, tiny_config
from tiny_detector import TINY, TRAINED
from tiny_training import annotation, rewrite, write_images

from vildcli import console
from vildcli.checkpoint import load_model
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.errors import VildError
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.runs import read_run
from vildcli.systems import SYSTEMS
from vildcli.text.bank import load_text_bank
from vildcli.text.open_clip_models import save_open_clip
from vildcli.training import session
from vildcli.training.finetune import finetune_classifier
from vildcli.training.inputs import TrainingOptions
from vildcli.training.own_cache import given_proposals, teacher_chooses
from vildcli.training.processes import Processes
from vildcli.training.session import train_system
from vildcli.vocabulary.category import Category, Vocabulary

NARROW = {
    "small": replace(TINY, backbone="small"),
    "resnet50": replace(TINY, backbone="resnet50"),
}
FRUIT = Vocabulary("fruit", (Category(7, "pear"), Category(3, "apple")))


@pytest.fixture(autouse=True)
def narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones with narrow heads and small images, and no cache but this test's."""
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    for name, architecture in NARROW.items():
        monkeypatch.setitem(ARCHITECTURES, name, architecture)


def save_clip(folder: Path, shift: float = 0.0) -> str:
    model = tiny_clip(tiny_config())
    for parameter in model.parameters():
        parameter.data += shift
    save_open_clip(folder, model, tiny_config())
    return f"local-dir:{folder}"


def save_glove(path: Path) -> str:
    generator = torch.Generator().manual_seed(0)
    words = ("apple", "pear", "plum", "kiwi")
    lines = [
        f"{w} {' '.join(map(str, torch.randn(50, generator=generator).tolist()))}" for w in words
    ]
    path.write_text("\n".join(lines) + "\n")
    return f"glove:{path}"


def save_boxes(annotations: Path, path: Path) -> str:
    """Its objects as proposals, results' form."""
    content = json.loads(annotations.read_text())
    rows = [
        {"image_id": a["image_id"], "bbox": a["bbox"], "score": 0.5} for a in content["annotations"]
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def options_of(folder: Path, system: str, **changes: Any) -> TrainingOptions:
    """Two steps on the rectangles of `write_images`."""
    data = folder / "data"
    path = data / "train.json" if data.is_dir() else write_images(data)
    clip = folder / "clip"
    teacher = f"local-dir:{clip}" if clip.is_dir() else save_clip(clip)
    if SYSTEMS[system].teacher_regions:  # its own are chosen among thousands of anchors
        changes = {"proposals": save_boxes(path, folder / "boxes.json"), **changes}
    if SYSTEMS[system].words == "glove":
        changes = {"text_encoder": save_glove(folder / "glove.txt"), **changes}
    small = {"steps": 2, "batch": 2, "regions": 16, "proposals": 24, "warmup_steps": 1}
    overrides = {**small, **changes.pop("overrides", {})}
    return TrainingOptions(
        system, path, data, teacher, overrides=overrides, offline=True, device="cpu", **changes
    )


def train(options: TrainingOptions, out: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    model = train_system(options, out, force=False, progress=console.progress, say=said.append)
    return model, said


def refusal(options: TrainingOptions, out: Path) -> VildError:
    with pytest.raises(VildError) as error:
        train(options, out)
    assert not (out / "metrics.jsonl").exists()
    return error.value


# Every row on the small backbone; on the large one a row of each kind of head.
@pytest.mark.parametrize(
    ("system", "backbone"),
    [(system, "small") for system in TRAINED]
    + [(system, "resnet50") for system in ("supervised", "vild-ensemble", "ezsd")],
)
def test_every_row__steps_saves_loads_and_detects(
    system: str, backbone: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    model, _ = train(options_of(tmp_path, system, architecture=backbone), out)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]
    assert (out / "report.md").is_file()
    card = load_model(model, torch.device("cpu")).card
    assert (card.system, card.provenance["init"]) == (system, "scratch")
    assert [c.name for c in card.base_categories] == ["apple", "pear"]
    opened = open_labelling_model(FRUIT, LabellingOptions(model=str(out), device="cpu"))
    image = torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8)
    [regions] = opened.detector.regions([image])
    labels = opened.labeller.label(regions)
    assert len(regions) > 0
    assert set(labels.category_ids.tolist()) <= {7, 3}
    assert labels.is_base.all()


def test_parts_of_ezsd__alone_travel_in_the_model_file(tmp_path: Path) -> None:
    varied = {"semantic_boxes": True}
    options = options_of(
        tmp_path, "vild-text", variation=varied, overrides={"class_loss": "seesaw"}
    )
    model, _ = train(options, tmp_path / "run")
    loaded = load_model(model, torch.device("cpu"))
    assert loaded.card.variation == {"semantic_boxes": True, "class_loss": "seesaw"}
    assert loaded.detector.word_boxes is not None
    assert loaded.detector.logit_scale is None
    assert loaded.detector.background.shape == (2, 16)
    opened = open_labelling_model(FRUIT, LabellingOptions(model=str(model), device="cpu"))
    [regions] = opened.detector.regions([torch.zeros(3, 50, 60, dtype=torch.uint8)])
    labels = opened.labeller.label(regions)
    assert labels.boxes is not None
    assert len(labels.boxes) == len(labels) > 0
    settings = read_run(tmp_path / "run", "training")["settings"]
    assert settings["variation"] == {"semantic_boxes": True, "class_loss": "seesaw"}
    assert settings["recipe"]["class_loss"] == "seesaw"
    plain = options_of(tmp_path, "ezsd", variation={"semantic_boxes": False})
    before = load_model(train(plain, tmp_path / "plain")[0], torch.device("cpu"))
    assert before.card.variation == {"semantic_boxes": False}
    # On from a model without: what names say of boxes starts anew, the rest is taken over.
    options = options_of(tmp_path, "ezsd", init=str(tmp_path / "plain"), overrides={"steps": 1})
    assert load_model(train(options, tmp_path / "on")[0], torch.device("cpu")).detector.word_boxes
    error = refusal(replace(options, init=str(model)), tmp_path / "other")
    assert str(error) == f"{model} does not fit: 1 weights differ, first background."


def test_older_settings_and_cards_say_nothing_of_what_came_later(tmp_path: Path) -> None:
    options = options_of(tmp_path, "vild-text")
    model, _ = train(options, tmp_path / "run")
    settings = read_run(tmp_path / "run", "training")["settings"]
    assert not {"variation", "names"} & set(settings)
    later = {"warmup_start", "distilled_regions", "redrawn_regions", "region_weights", "class_loss"}
    assert not later & set(settings["recipe"])
    assert "variation" not in load_model(model, torch.device("cpu")).card.as_dict()


def test_variations__of_a_row_without_words_are_refused(tmp_path: Path) -> None:
    options = options_of(tmp_path, "supervised", overrides={"class_loss": "seesaw"})
    error = refusal(options, tmp_path / "run")
    assert str(error) == (
        "supervised is not trained against words, so it has no class loss to choose."
    )


def test_ezsd__asks_the_teacher_for_regions_and_takes_its_sentence(tmp_path: Path) -> None:
    nothing = replace(options_of(tmp_path, "ezsd"), proposals=None)
    for proposals, system, chooses, given in (
        (None, "ezsd", True, None),
        ("teacher", "ezsd", True, None),
        ("boxes.json", "ezsd", False, "boxes.json"),
        (None, "vild", False, None),
        ("teacher", "vild", True, None),
    ):
        options = replace(nothing, proposals=proposals)
        assert teacher_chooses(options, SYSTEMS[system]) == chooses
        assert given_proposals(options) == given
    model, _ = train(options_of(tmp_path, "ezsd"), tmp_path / "run")
    card = load_model(model, torch.device("cpu")).card
    assert card.prompts["templates"] == ["a photo of a {}"]
    chosen = options_of(tmp_path, "ezsd", prompts="single")
    card = load_model(train(chosen, tmp_path / "single")[0], torch.device("cpu")).card
    assert card.prompts["name"] == "single"


@pytest.mark.slow
def test_ezsd__with_nothing_given_has_the_teacher_choose(tmp_path: Path) -> None:
    """Among the boxes of a detector that is trained first; the model file tells by which names."""
    changes = {"proposals": None, "overrides": {"steps": 1}, "taught_regions": 5}
    for names, said in (("all", "3 names (all)"), ("base", "2 names (base)")):
        out = tmp_path / names
        model, _ = train(options_of(tmp_path, "ezsd", names=names, **changes), out)
        provenance = load_model(model, torch.device("cpu")).card.provenance
        assert said in provenance["proposals"]["chosen"]
        assert provenance["proposals"]["proposals"]["trained_on"] == ["apple", "pear"]
        assert read_run(out, "training")["settings"]["names"] == names
        cache = read_run(out / "teacher-cache", "teacher")["settings"]
        assert (cache["proposals"], cache["kept"]) == ("teacher", 5)


def test_distilling_rows_make_their_own_cache(tmp_path: Path) -> None:
    options = options_of(tmp_path, "vild")
    _, said = train(options, tmp_path / "run")
    assert said[0] == ("No --proposals: training vild-text on the base categories for them.")
    assert read_run(tmp_path / "run" / "proposals", "training")["settings"]["system"] == "vild-text"
    model = tmp_path / "run" / "proposals"
    _, said = train(replace(options, init=str(model)), tmp_path / "from-model")
    assert not any("--proposals" in line for line in said)  # the model's own
    provenance = load_model(tmp_path / "from-model", torch.device("cpu")).card.provenance
    assert provenance["init_provenance"]["trained_on"] == ["apple", "pear"]
    assert provenance["proposals"]["trained_on"] == ["apple", "pear"]
    assert not (tmp_path / "from-model" / "proposals").exists()


def test_init__of_another_text_encoder_is_warned_of(tmp_path: Path) -> None:
    options = options_of(tmp_path, "vild-text", overrides={"steps": 1})
    model, _ = train(options, tmp_path / "run")
    on = replace(options, init=str(model))
    _, said = train(on, tmp_path / "same")
    assert not any(line.startswith("Warning") for line in said)
    words = tiny_clip(tiny_config())
    words.token_embedding.weight.data.neg_()
    save_open_clip(tmp_path / "other", words, tiny_config())
    other = f"local-dir:{tmp_path / 'other'}"
    _, said = train(replace(on, teacher=other), tmp_path / "another")
    assert said == [
        f"Warning: {model} was trained against another text encoder than {other}: what it knows of "
        "words fits no longer."
    ]


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    options = options_of(tmp_path, "vild-text")
    model, _ = train(options, tmp_path / "run")
    before = model.stat().st_mtime_ns
    assert train(options, tmp_path / "run")[0].stat().st_mtime_ns == before


def test_closed_set__names_what_it_was_trained_on_alone(tmp_path: Path) -> None:
    train(options_of(tmp_path, "supervised"), tmp_path / "base")
    plum = Vocabulary("plum", (Category(1, "plum"), Category(2, "pear")))
    with pytest.raises(VildError) as error:
        open_labelling_model(plum, LabellingOptions(model=str(tmp_path / "base")))
    assert str(error.value) == (
        "A supervised model names only the 2 categories that it was trained on: not plum."
    )
    train(options_of(tmp_path, "supervised", base="all"), tmp_path / "all")
    open_labelling_model(plum, LabellingOptions(model=str(tmp_path / "all")))
    colours = replace(FRUIT, attributes={"colour": ("red",)})
    with pytest.raises(VildError) as error:
        open_labelling_model(colours, LabellingOptions(model=str(tmp_path / "all")))
    assert str(error.value) == "A supervised model has no text space, so it takes no attributes."


def test_repeat_factors__of_the_row(tmp_path: Path) -> None:
    train(options_of(tmp_path, "supervised-rfs"), tmp_path / "run")
    recipe = read_run(tmp_path / "run", "training")["settings"]["recipe"]
    assert recipe["repeat_threshold"] == 1e-3
    train(options_of(tmp_path, "supervised"), tmp_path / "plain")
    assert (
        read_run(tmp_path / "plain", "training")["settings"]["recipe"]["repeat_threshold"] is None
    )


def test_validation__is_measured_with_every_checkpoint(tmp_path: Path) -> None:
    options = options_of(tmp_path, "vild-text", overrides={"checkpoint_every": 1})
    options = replace(options, val=options.train, val_images=options.images)
    error = refusal(options, tmp_path / "run")
    assert str(error) == f"{options.train} is not an LVIS file: an image has no 'neg_category_ids'."

    def as_lvis(content: dict[str, Any]) -> None:
        for row in content["images"]:
            row |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}

    rewrite(options.train, as_lvis)
    train(options, tmp_path / "run")
    rows = [json.loads(x) for x in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert set(rows[0]) == {"step", "AP", "base AP50", "novel AP50"}
    assert (tmp_path / "run" / "ap.png").is_file()
    assert "Last validation: AP " in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("system", ["vild-text-clip", "clip-on-crops"])
def test_untrained_rows_are_refused(system: str, tmp_path: Path) -> None:
    error = refusal(options_of(tmp_path, system), tmp_path / "run")
    assert str(error) == f"{system} is not trained."


def test_glove__needs_vectors_and_others_need_clip(tmp_path: Path) -> None:
    error = refusal(
        replace(options_of(tmp_path, "glove"), text_encoder=None, teacher="ViT-B-32:openai"),
        tmp_path / "run",
    )
    assert str(error) == "glove is trained against glove embeddings, not ViT-B-32:openai."
    assert error.hint == "Give --text-encoder glove:FILE."


def test_teacher_of_another_cache_is_refused(tmp_path: Path) -> None:
    options = options_of(tmp_path, "vild-image")
    train(options, tmp_path / "run")
    cache = tmp_path / "run" / "teacher-cache"
    other = save_clip(tmp_path / "other", shift=0.1)
    error = refusal(replace(options, teacher=other, teacher_cache=cache), tmp_path / "second")
    assert str(error) == (
        f"The teacher cache {cache} was filled by another teacher than --teacher."
    )
    error = refusal(replace(options, system="vild-text", teacher_cache=cache), tmp_path / "third")
    assert str(error) == "vild-text distils nothing, so it takes no --teacher-cache."


def test_init__of_another_shape_is_refused(tmp_path: Path) -> None:
    train(options_of(tmp_path, "supervised"), tmp_path / "first")
    error = refusal(
        options_of(tmp_path, "vild-text", init=str(tmp_path / "first")), tmp_path / "run"
    )
    assert str(error) == (f"{tmp_path / 'first'} does not fit: 3 weights differ, first background.")


def test_novel_nonsense_trains_the_same_model(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    options = options_of(tmp_path, "vild-ensemble")
    first, _ = train(options, tmp_path / "first")

    def nonsense(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            if row["category_id"] == 30:
                row |= annotation(row["id"], row["image_id"], 30, [1, 2, -55, 0])

    rewrite(options.train, nonsense)
    second, _ = train(options, tmp_path / "second")
    ours, theirs = (
        load_model(m, torch.device("cpu")).detector.state_dict() for m in (first, second)
    )
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []


def test_finetuned_classifier__is_a_text_bank_that_learned(tmp_path: Path) -> None:
    options = options_of(tmp_path, "vild-ensemble", overrides={"checkpoint_every": 100})
    model, _ = train(options, tmp_path / "model")
    before = model.read_bytes()
    overrides = {**options.overrides, "steps": 12, "learning_rate": 0.05}
    chosen = replace(options, system="", init=str(tmp_path / "model"), overrides=overrides)
    bank_file = finetune_classifier(
        chosen, tmp_path / "bank", force=False, progress=console.progress, say=print
    )
    assert model.read_bytes() == before
    bank = load_text_bank(bank_file, ["plum", "apple"], temperature=1.0)
    assert bank.embeddings.norm(dim=1).tolist() == pytest.approx([1, 1])
    rows = (tmp_path / "bank" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["text"] for row in rows]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    plums = Vocabulary("plums", (Category(4, "plum"), Category(9, "apple")))
    ready = LabellingOptions(model=str(model), text_bank=bank_file, device="cpu")
    scored = open_labelling_model(plums, ready).labeller.bank.text_embeddings
    torch.testing.assert_close(scored[:2], bank.embeddings)
    plain = open_labelling_model(plums, replace(ready, text_bank=None)).labeller.bank
    assert (plain.text_embeddings[:2] * scored[:2]).sum(1).max() < 0.999  # every name moved


def test_finetuned_classifier__needs_a_model_with_words(tmp_path: Path) -> None:
    def refused(options: TrainingOptions) -> str:
        with pytest.raises(VildError) as error:
            finetune_classifier(
                options, tmp_path / "bank", force=False, progress=console.progress, say=print
            )
        return str(error.value)

    options = options_of(tmp_path, "supervised")
    assert refused(options) == "--finetune-classifier starts from a trained model."
    train(options, tmp_path / "closed")
    assert refused(replace(options, init=str(tmp_path / "closed"))) == (
        f"{tmp_path / 'closed'} is supervised: it has no text embeddings to learn."
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_of_several_processes_talks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr(
        session, "open_processes", lambda device: nullcontext(Processes(torch.device(device), rank))
    )
    options = options_of(tmp_path, "vild-text", drop_degenerate=True, prompts="no-such-prompts")
    rewrite(options.train, lambda content: content["annotations"][0].update(bbox=[5, 5, 0, 9]))
    said: list[str] = []
    with pytest.raises(VildError, match="no-such-prompts"):
        train_system(
            options, tmp_path / "out", force=False, progress=console.progress, say=said.append
        )
    assert said == (["Left out objects without area: 1."] if rank == 0 else [])


@pytest.mark.slow
def test_two_processes_train_on_what_one_would(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_images(folder)
    arguments = [
        *("train", "--system", "vild-text", "--train", str(folder / "train.json")),
        *("--images", str(folder), "--teacher", save_clip(tmp_path / "clip"), "--steps", "2"),
        *("--batch", "4", "--frozen-norms", "all", "--device", "cpu", "--offline"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}

    def losses(name: str, *starter: str) -> list[dict[str, float]]:
        command = [sys.executable, *starter, "-m", "vildcli", *arguments, "--out", name]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        for line in ("Training vild-text: 2/2", "Model: ", "Next: "):
            assert done.stderr.count(line) == 1, done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    one = losses("one")
    two = losses("two", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert len(one) == 2
    for ours, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
