from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detector import tiny_card, tiny_detector
from tiny_student import save_clip, save_student

from vildcli import cli
from vildcli.checkpoint import save_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.thresholds import view_run
from vildcli.selection import influence
from vildcli.selection.curvature import mean_gradient
from vildcli.selection.detector_pass import as_known
from vildcli.text.encoder import text_encoder_of, text_tower_state
from vildcli.text.open_clip_models import load_open_clip


def draw(folder: Path, names: list[str], seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for name in names:
        pixels = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / name)


def write_reference(file: Path, names: list[str], category: str = "apple") -> Path:
    images = [{"id": i, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(names)]
    objects = [
        {"id": i + 1, "image_id": i, "category_id": 9, "bbox": [6 + i, 5, 30, 30]}
        for i in range(len(names))
    ]
    content = {
        "images": images,
        "annotations": objects,
        "categories": [{"id": 9, "name": category}],
    }
    file.write_text(json.dumps(content))
    return file


def save_naming_student(path: Path, clip: str) -> None:
    """An ezsd model, whose names move boxes by a lot."""
    encoder = text_encoder_of(load_open_clip(clip, offline=True))
    config, tower = text_tower_state(encoder)
    detector = tiny_detector("ezsd")
    assert detector.word_boxes is not None
    assert detector.background is not None
    torch.nn.init.normal_(detector.word_boxes.weight, std=3)
    torch.nn.init.constant_(detector.background, -0.2)  # not all is background
    detector.start_at(encoder.temperature)
    card = tiny_card("ezsd", text_encoder=config, temperature=encoder.temperature)
    save_model(path, detector, tower, card)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/, runs about them by model.safetensors and naming.safetensors, held.json, held/."""
    folder = tmp_path_factory.mktemp("isal")
    draw(folder / "photos", [f"{i}.png" for i in range(5)], seed=1)
    draw(folder / "held", ["a.png", "b.png"], seed=2)
    write_reference(folder / "held.json", ["a.png", "b.png"])
    clip = save_clip(folder / "clip")
    save_student(folder / "model.safetensors", clip, "vild-text")
    save_student(folder / "ensemble.safetensors", clip, "vild-ensemble")
    save_naming_student(folder / "naming.safetensors", clip)
    words = ["--classes", "apple, pear", "--context", "none", "--offline", "--regions", "12"]
    for name, run in (("model", "run"), ("naming", "naming-run")):
        model = ["--model", str(folder / f"{name}.safetensors"), "--workers", "1"]
        out = ["--out", str(folder / run)]
        assert cli.run(["detect", str(folder / "photos"), *words, *model, *out]) == 0
    return folder


def select(
    place: Path, out: Path, *more: object, model: str = "model.safetensors", run: str = "run"
) -> int:
    given = ["--strategy", "isal", "--budget", "3", "--out", str(out), "--offline"]
    file = model if model == "clip-on-crops" else str(place / model)
    return cli.run(["select", str(place / run), *given, "--model", file, *map(str, more)])


def held(place: Path) -> tuple[str, Path]:
    return "--reference", place / "held.json"


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith(("Error: ", "Hint: "))]


def test_select__isal_ranks_by_influence_and_reports_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "next.txt"
    assert select(place, out, *held(place), "--json") == 0
    shown = capsys.readouterr()
    assert f"Reference: 2 images of {place}/held.json. Do not evaluate on it." in shown.err
    found = json.loads(shown.out)
    assert (found["influences"], found["computed"], found["failed"]) == (5, 5, 0)
    assert (found["resets"], found["unknown_layers"]) == ({}, [])
    scores = json.loads(out.with_suffix(".json").read_text())
    rows = [*scores["chosen"], *scores["others"]]
    values = [row["value"] for row in rows]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 5
    for row in rows:
        assert row["per_box"] == pytest.approx(row["value"] / row["boxes"])
        assert row["per_minute"] == pytest.approx(row["value"] / row["minutes"], rel=1e-2)
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(("name", "run"), [("model", "run"), ("naming", "naming-run")])
def test_measure_influences__none_is_the_dot_product_of_two_autograd_gradients(
    place: Path, tmp_path: Path, name: str, run: str
) -> None:
    out = tmp_path / "next.txt"
    file = f"{name}.safetensors"
    assert select(place, out, *held(place), "--inverse", "none", model=file, run=run) == 0
    scores = json.loads(out.with_suffix(".json").read_text())
    value = {row["image_id"]: row["value"] for row in (*scores["chosen"], *scores["others"])}
    view = view_run(place / run)
    model = str(place / file)
    loss = influence.loss_of(influence.open_model(view, LabellingOptions(model=model)))

    def pixels(file: Path) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    reference = mean_gradient(
        loss(pixels(place / "held" / name), as_known([[6 + i, 5, 36 + i, 35]], [0]), i)
        for i, name in enumerate(["a.png", "b.png"])
    )
    [image] = [i for i in view.labelled_images() if i.image.path == "2.png"]
    pseudo = [label for label in image.labels if label.score >= 0.1]
    columns = {c.id: k for k, c in enumerate(view.vocabulary.categories)}
    known = as_known([p.box for p in pseudo], [columns[p.category_id] for p in pseudo])
    own = loss(pixels(place / "photos" / "2.png"), known, image.image.image_id).gradient()
    dot = sum(float((reference[layer] * own[layer]).sum()) for layer in reference)
    assert value[image.image.image_id] == pytest.approx(dot, rel=1e-4)


def test_select__isal_goes_on_where_it_was_killed(place: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "next.txt", tmp_path / "again.txt"
    assert select(place, out, *held(place)) == 0
    shutil.copytree(tmp_path / "next.isal", tmp_path / "again.isal")
    unit = tmp_path / "again.isal" / "units" / "000000.json"
    known = json.loads(unit.read_text())
    gone = known.pop("2")
    unit.write_text(json.dumps(known))
    before = (tmp_path / "again.isal" / "direction.safetensors").stat().st_mtime_ns
    assert select(place, again, *held(place)) == 0
    assert again.read_text() == out.read_text()
    assert json.loads(unit.read_text())["2"] == pytest.approx(gone, rel=1e-6)
    assert (tmp_path / "again.isal" / "direction.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_select__isal_by_lissa_reports_its_scales(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--inverse", "lissa", "--chains", 2, "--depth", 4, "--json")
    assert select(place, tmp_path / "next.txt", *held(place), *more) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert "Scales of LiSSA: objectness " in shown.err
    assert set(found["scales"]) == {"objectness", "deltas", "boxes", "projection"}
    assert all(scale >= 1 for scale in found["scales"].values())
    assert set(found["resets"].values()) == {0}


def test_select__isal_lists_an_image_that_cannot_be_read(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "photos", tmp_path / "moved")
    (tmp_path / "moved" / "3.png").write_bytes(b"no image")
    out = tmp_path / "next.txt"
    assert select(place, out, *held(place), "--images", tmp_path / "moved") == 3
    assert "Warning: Image 4: " in capsys.readouterr().err
    left = (tmp_path / "next.left-out.txt").read_text()
    assert left == f"{tmp_path}/moved/3.png\n"
    shutil.copy(place / "photos" / "3.png", tmp_path / "moved")  # mended: it is tried again
    assert select(place, out, *held(place), "--images", tmp_path / "moved", "--force") == 0
    assert not (tmp_path / "next.left-out.txt").exists()


def test_select__isal_refuses_before_it_computes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "next.txt"
    run, file = place / "run", place / "held.json"
    assert select(place, out) == 2
    assert "isal needs --reference JSON." in capsys.readouterr().err
    assert select(place, out, *held(place), model="ensemble.safetensors") == 1
    assert said(capsys) == [
        f"Error: {run} was not made by {place}/ensemble.safetensors: its pseudo boxes are another "
        "model's.",
        "Hint: Give the --model that detect was given.",
    ]
    assert select(place, out, *held(place), model="clip-on-crops") == 1
    assert said(capsys)[0] == (
        "Error: isal needs a trained detector: clip-on-crops has no layer that review would train."
    )
    assert select(place, out, *held(place), "--prompts", "vild-63") == 1
    assert said(capsys)[0] == f"Error: {run} was made with other prompts than vild-63."
    assert select(place, out, *held(place), "--text-bank", file) == 1
    assert said(capsys) == [
        f"Error: {run} was made with other text embeddings than {file}.",
        "Hint: Give the --text-bank that detect was given, or none where it had none.",
    ]
    inside = write_reference(tmp_path / "in.json", ["0.png"])
    assert select(place, out, "--reference", inside, "--reference-images", place / "photos") == 1
    assert said(capsys) == [
        f"Error: 1 of the 1 images of {inside} are in the pool of {run}; the first is 0.png.",
        f"Hint: They are labelled: take them out of the pool with --reviewed {inside}.",
    ]
    assert select(place, out, *held(place), "--evaluation", file) == 1
    assert said(capsys)[0].startswith(f"Error: {file} is the evaluation set: choosing by it ")
    other = write_reference(tmp_path / "other.json", ["a.png"], "kiwi")
    assert select(place, out, "--reference", other, "--reference-images", place / "held") == 1
    assert said(capsys)[0] == (
        f"Error: {other} has objects of 1 categories that the run did not look for: kiwi."
    )
    assert select(place, out, *held(place), "--images", tmp_path) == 1
    assert said(capsys) == [
        f"Error: 5 of 5 images of {run} are gone; the first is {tmp_path}/0.png. isal needs the "
        "model and the images, since a run stores no features.",
        "Hint: Give --images DIR where they have moved, or another --strategy.",
    ]
    assert not (tmp_path / "next.isal").exists()


def test_select__isal_as_published_and_reviewed_references(place: Path, tmp_path: Path) -> None:
    file = place / "held.json"
    assert select(
        place, tmp_path / "a.txt", *held(place), "--evaluation", file, "--as-published"
    ) == 0  # fmt: skip
    inside = write_reference(tmp_path / "in.json", ["0.png"])
    more = ("--reference", inside, "--reference-images", place / "photos", "--reviewed", inside)
    assert select(place, tmp_path / "b.txt", *more) == 0
    assert "0.png" not in (tmp_path / "b.txt").read_text()


def test_select__isal_keeps_another_choices_work(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "next.txt"
    assert select(place, out, *held(place)) == 0
    out.unlink()
    out.with_suffix(".json").unlink()
    capsys.readouterr()
    assert select(place, out, *held(place), "--inverse", "none") == 1
    assert said(capsys)[0].startswith(f"Error: {tmp_path}/next.isal holds a run with other ")
    assert select(place, out, *held(place), "--inverse", "none", "--force") == 0


def test_model_of__a_run_knows_its_model(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    model = tmp_path / "training"  # a folder, as `vildcli train` leaves it
    model.mkdir()
    header["arguments"]["model"] = f"model:{model}"
    (tmp_path / "run" / "run.json").write_text(json.dumps(header))
    assert influence.model_of(place / "run") == str(place / "model.safetensors")
    assert influence.model_of(tmp_path / "run") == str(model)
    model.rmdir()
    assert influence.model_of(tmp_path / "run") is None
    del header["arguments"]["model"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(header))
    assert influence.model_of(tmp_path / "run") is None
