"""The loop of docs/selection.md, command by command, with a COCO file for the people in the App."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest
from tiny_detector import TINY
from tiny_student import save_clip
from tiny_training import write_images

from vildcli.cli import run as vildcli
from vildcli.detector.architecture import ARCHITECTURES

pytestmark = pytest.mark.slow


def part(truth: Path, names: Collection[str], out: str) -> None:
    """The true labels of some images, numbered from 1 as every annotation tool does."""
    content = json.loads(truth.read_text())
    images = [image for image in content["images"] if image["file_name"] in names]
    ids = {image["id"]: number for number, image in enumerate(images, start=1)}
    kept = [one for one in content["annotations"] if one["image_id"] in ids]
    content["annotations"] = [
        {**one, "id": number, "image_id": ids[one["image_id"]]}
        for number, one in enumerate(kept, start=1)
    ]
    content["images"] = [{**image, "id": ids[image["id"]]} for image in images]
    Path(out).write_text(json.dumps(content))


def chosen(out: str) -> set[str]:
    return {Path(line).name for line in Path(out).read_text().splitlines()}


def test_loop__from_a_model_to_the_next_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(ARCHITECTURES, "small", TINY)
    truth = write_images(tmp_path / "photos", 6)
    labelled = {"0.png", "1.png"}
    part(truth, labelled, "train.json")
    part(write_images(tmp_path / "held-out", 8), {"6.png", "7.png"}, "held-out.json")
    few = ("--steps", "2", "--batch", "2", "--device", "cpu", "--offline")
    teacher = ("--base", "all", "--teacher", save_clip(tmp_path / "clip"), *few)
    words = ("--classes", "apple, pear, plum", "--context", "none", "--regions", "12", "--offline")

    def step(*command: str) -> None:
        assert vildcli([*command]) == 0, capsys.readouterr().err

    def train(annotations: str, out: str, *more: str) -> None:
        given = ("--train", annotations, "--images", "photos", "--out", out)
        step("train", "--system", "vild-text", *given, *teacher, *more)

    def select(run: str, reviewed: str, out: str) -> None:
        given = ("--reference", "held-out.json", "--reviewed", reviewed, "--pseudo-score", "0.02")
        more = ("--budget", "2", "--diverse", "--out", out, "--offline")
        step("select", run, "--strategy", "isal", *given, *more)

    train("train.json", "runs/vild")
    step("detect", "photos", "--model", "runs/vild", *words, "--out", "runs/photos")
    select("runs/photos", "train.json", "next.txt")
    first = chosen("next.txt")
    assert len(first) == 2
    assert first.isdisjoint(labelled)
    part(truth, first, "corrections.json")
    merge = ("--renumber", "--images", "photos", "--out", "more.json")
    step("merge", "train.json", "corrections.json", *merge)
    more = json.loads(Path("more.json").read_text())
    assert {image["file_name"] for image in more["images"]} == labelled | first
    assert len(more["annotations"]) == 12
    train("more.json", "runs/vild-2", "--init", "runs/vild")
    step("detect", "photos", "--model", "runs/vild-2", *words, "--out", "runs/photos-2")
    select("runs/photos-2", "more.json", "next-2.txt")
    second = chosen("next-2.txt")
    assert second == {f"{i}.png" for i in range(6)} - labelled - first
    said = json.loads(Path("next-2.json").read_text())
    assert (said["strategy"], said["settings"]["inverse"]) == ("isal", "ekfac")
    assert said["settings"]["reviewed"] == ["more.json"]
