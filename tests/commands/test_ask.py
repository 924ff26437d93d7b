from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_detector import WIDTH, tiny_card, tiny_detector
from tiny_glove import wide, write_glove
from tiny_student import save_clip, save_student

from vildcli.checkpoint import save_model
from vildcli.cli import run as vildcli
from vildcli.text.encoder import load_text_encoder, text_tower_state
from vildcli.text.glove import BARE_NAME


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three photographs and a model, where commands are called."""
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    save_student(tmp_path / "model.safetensors", save_clip(tmp_path / "clip"))
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> str:
    detect = ["detect", "photos", "--model", "model.safetensors", "--classes", "apple", "--out"]
    more = ["--keep-regions", "--regions", "20", "--device", "cpu", "--offline"]
    assert vildcli([*detect, "run", *more]) == 0
    capsys.readouterr()
    return "run"


OF_IMAGE = ["--model", "model.safetensors", "--device", "cpu", "--offline", "--objectness", "0"]


def ask(*arguments: str) -> int:
    return vildcli(["ask", *arguments])


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_image__table_picture_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["--text", "a husky; a shiba inu"]
    assert ask("photos/0.png", *OF_IMAGE, *texts, "--json") == 0
    said = capsys.readouterr()
    (given,) = objects(said.out)
    assert given["image"] == str(Path("photos/0.png").absolute())
    assert given["texts"] == ["a husky", "a shiba inu"]
    assert given["softmax"] is False
    regions = given["regions"]
    assert 0 < len(regions) <= 25
    best = [max(region["scores"]) for region in regions]
    assert best == sorted(best, reverse=True)
    for region in regions:
        assert list(region) == ["region", "box", "objectness", "name", "name_score", "scores"]
        assert region["name"] in ("apple", "pear")  # the model's base categories
        assert all(-1 <= score <= 1 for score in region["scores"])
    table = said.err.splitlines()
    assert table[0] == "photos/0.png"
    assert table[1].split("  ")[0] == "#"
    assert table[1].endswith("a husky  a shiba inu")
    assert len(table) == len(regions) + 3
    assert table[-1] == "Picture: runs/ask/0.png"
    with Image.open("runs/ask/0.png") as picture:
        assert picture.format == "PNG"
    assert given["picture"] == str(Path("runs/ask/0.png").absolute())


def test_image__softmax_top_and_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--softmax", "--top", "2", "--classes", "fig, kiwi", "--out", "a.png", "--json"]
    assert ask("photos/0.png", *OF_IMAGE, "--text", "red; blue; green", *more) == 0
    (given,) = objects(capsys.readouterr().out)
    assert len(given["regions"]) == 2
    for region in given["regions"]:
        assert sum(region["scores"]) == pytest.approx(1)
        assert region["name"] in ("fig", "kiwi")
    assert Path("a.png").exists()


def test_image__questions_are_read_until_an_empty_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("red; blue\nhusky\n\nnever asked\n"))
    assert ask("photos/0.png", *OF_IMAGE, "--json") == 0
    said = capsys.readouterr()
    assert [given["texts"] for given in objects(said.out)] == [["red", "blue"], ["husky"]]
    assert "> " not in said.err
    monkeypatch.setattr(sys, "stdin", io.StringIO("red"))
    assert ask("photos/0.png", *OF_IMAGE) == 0  # the end of the file ends too
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert ask("photos/0.png", *OF_IMAGE) == 0


def test_image__a_word_that_cannot_be_read_does_not_end_the_questions(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_text_encoder(f"glove:{write_glove(place / 'glove.16d.txt', wide(WIDTH))}")
    config, carried = text_tower_state(encoder, ())
    prompts = {"name": "bare", "templates": list(BARE_NAME.templates)}
    card = tiny_card("glove", prompts=prompts, text_encoder=config, temperature=0.01)
    save_model(place / "model.safetensors", tiny_detector("glove"), carried, card)
    monkeypatch.setattr(sys, "stdin", io.StringIO("xyzzy\nglassy doll; red\n"))
    assert ask("photos/0.png", *OF_IMAGE, "--json") == 0
    said = capsys.readouterr()
    assert [given["texts"] for given in objects(said.out)] == [["glassy doll", "red"]]
    assert "Error: The text encoder knows no word of 1 of 1 names: xyzzy.\n" in said.err
    assert "Warning: Words without a vector were left out: glassy of 'glassy doll'.\n" in said.err
    assert ask("photos/0.png", *OF_IMAGE, "--text", "xyzzy") == 1


def test_image__none_of_its_regions_is_sure_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("photos/0.png", *OF_IMAGE, "--objectness", "1", "--text", "a") == 2
    assert capsys.readouterr().err == (
        "Error: No region of photos/0.png is worth asking about: the surest has objectness 0.50.\n"
        "Hint: Give a lower --objectness.\n"
    )


def test_run__finds_regions_of_each_text(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["--text", "a red umbrella; husky", "--top", "4", "--offline"]
    assert ask(run, *texts, "--json") == 0
    said = capsys.readouterr()
    (given,) = objects(said.out)
    assert list(given) == ["run", "softmax", "found", "picture"]
    assert [one["question"] for one in given["found"]] == ["a red umbrella", "husky"]
    for one in given["found"]:
        scores = [region["score"] for region in one["regions"]]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)
        assert {region["path"] for region in one["regions"]} <= {"0.png", "1.png", "2.png"}
    assert "Picture: run/ask.png" in said.err
    assert Path("run/ask.png").exists()
    # The same regions are asked one by one: what a run stores is what an image gives.
    region = given["found"][0]["regions"][0]
    image = f"photos/{region['path']}"
    assert ask(image, *OF_IMAGE, *texts[:2], "--regions", "20", "--json") == 0
    (of_image,) = objects(capsys.readouterr().out)
    scores = {one["region"]: one["scores"][0] for one in of_image["regions"]}
    assert scores[region["region"]] == pytest.approx(region["score"], abs=1e-6)


def test_run__shares(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(run, "--text", "a; b", "--softmax", "--top", "3", "--offline", "--json") == 0
    (given,) = objects(capsys.readouterr().out)
    a, b = (one["regions"] for one in given["found"])
    assert all(0 < region["score"] < 1 for region in (*a, *b))
    shares = {(region["image_id"], region["region"]): region["score"] for region in a}
    for region in b:
        other = shares.get((region["image_id"], region["region"]))
        assert other is None or other + region["score"] == pytest.approx(1)
    assert ask(run, "--text", "a", "--softmax", "--offline") == 0
    assert "Warning: The share of a single text is 1 everywhere.\n" in capsys.readouterr().err


def test_run__the_model_has_moved(
    run: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "model.safetensors").rename(place / "moved.safetensors")
    assert ask(run, "--text", "a", "--offline") == 1
    assert "There is no model at" in capsys.readouterr().err
    assert ask(run, "--text", "a", "--offline", "--model", "moved.safetensors") == 0
    save_student(place / "moved.safetensors", save_clip(place / "other", shift=0.1))
    assert ask(run, "--text", "a", "--offline", "--model", "moved.safetensors") == 1
    assert "moved.safetensors is not the text encoder that run" in capsys.readouterr().err


def test_run__like_a_region_needs_no_model(
    run: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "model.safetensors").unlink()
    assert ask(run, "--like", "0.png#5,5,60,45", "--top", "3", "--json") == 0
    said = capsys.readouterr()
    (given,) = objects(said.out)
    assert list(given) == ["run", "like", "found", "picture"]
    assert given["like"]["image_id"] == 1
    (one,) = given["found"]
    assert one["question"] == "like 0.png#5,5,60,45"
    own = (given["like"]["image_id"], given["like"]["region"])
    assert own not in {(region["image_id"], region["region"]) for region in one["regions"]}
    assert len(one["regions"]) == 3
    assert f"Like region {own[1]} of 0.png, whose box overlaps by 0." in said.err


def test_run__without_embeddings(capsys: pytest.CaptureFixture[str]) -> None:
    detect = ["detect", "photos", "--model", "model.safetensors", "--classes", "apple"]
    assert vildcli([*detect, "--device", "cpu", "--offline", "--out", "plain"]) == 0
    capsys.readouterr()
    for question in (["--text", "a"], ["--like", "0.png#0,0,70,50"]):
        assert ask("plain", *question) == 1
        assert capsys.readouterr().err.endswith(
            "Error: plain kept no region embeddings.\nHint: Run detect with --keep-regions.\n"
        )


def test_run__of_a_supervised_model_can_be_searched_by_regions_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tiny_card("supervised", text_encoder={}, prompts={}, temperature=1.0)
    save_model(place / "model.safetensors", tiny_detector("supervised"), {}, card)
    detect = ["detect", "photos", "--model", "model.safetensors", "--classes", "apple"]
    more = ["--device", "cpu", "--keep-regions", "--out", "closed"]
    assert vildcli([*detect, *more]) == 0
    capsys.readouterr()
    assert ask("closed", "--text", "a") == 1
    assert capsys.readouterr().err.startswith("Error: A supervised model has no text space, so it")
    assert ask("closed", "--like", "1.png#0,0,70,50") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos/0.png", "--text", " ; "], '--text holds no text; write for example "red; blue".'),
        (
            ["photos/0.png", "--like", "a#1,2,3,4"],
            "--like is of no use: photos/0.png is an image.",
        ),
        (["run", "--vocab", "coco"], "--vocab is of no use: run is a run."),
        (["run", "--like", "a#1,2,3,4", "--text", "a"], "--like takes neither --text nor --soft"),
        (["run", "--like", "a#1,2,3"], "'a#1,2,3' is not IMAGE#x1,y1,x2,y2."),
        (["run", "--like", "1,2,3,4"], "'1,2,3,4' is not IMAGE#x1,y1,x2,y2."),
        (["nowhere", "--text", "a"], "Path 'nowhere' does not exist."),
    ],
)
def test_usage(
    run: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    more = OF_IMAGE if arguments[0].startswith("photos") else []
    assert ask(*arguments, *more) == 2
    assert message in capsys.readouterr().err


def test_out__is_not_overwritten(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.png").touch()
    text = ["--text", "a", "--offline", "--out", "mine.png"]
    assert ask(run, *text) == 1
    assert capsys.readouterr().err == (
        "Error: mine.png exists.\nHint: Choose another --out, or --force to overwrite it.\n"
    )
    assert ask(run, *text, "--force") == 0
    assert Path("mine.png").stat().st_size > 0


def test_folder__that_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("photos", "--text", "a") == 1
    assert capsys.readouterr().err.startswith("Error: photos is not a labelling run: it has no")
