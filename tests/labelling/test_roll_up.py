from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_student import save_clip, save_student

from vildcli.cli import run
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.roll_up import make_roll_up
from vildcli.labelling.thresholds import view_run
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary

BIRDS = Vocabulary(
    "birds",
    (
        Category(1, "house sparrow", parent="sparrow"),
        Category(2, "tree sparrow", parent="sparrow"),
        Category(3, "gull", parent="bird"),
        Category(4, "bird"),
        Category(5, "chair"),
    ),
    parents=(Category(9, "sparrow", parent="bird"),),
)


def labels(
    scores: list[list[float]], threshold: float, vocabulary: Vocabulary = BIRDS
) -> list[tuple[int, float] | None]:
    """Id and score of each region's label."""
    roll_up = make_roll_up(vocabulary, threshold)
    own = torch.tensor(scores)
    found = roll_up.of_entries(own, own.argmax(1).tolist())
    assert (found > 0).sum(1).max() <= 1
    best = found.max(1)
    return [
        (int(roll_up.ids[entry]), pytest.approx(score)) if score > 0 else None
        for score, entry in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def test_a_region_gets_the_first_name_upwards_that_is_sure() -> None:
    regions = [
        [0.6, 0.1, 0.0, 0.0, 0.1],  # sure of the species
        [0.3, 0.3, 0.0, 0.1, 0.1],  # of the kind: 0.6
        [0.2, 0.1, 0.15, 0.1, 0.1],  # of a bird at least: its own 0.1 and those below, 0.55
        [0.1, 0.1, 0.1, 0.1, 0.0],  # of nothing
        [0.0, 0.0, 0.0, 0.0, 0.7],
        [0.3, 0.0, 0.0, 0.0, 0.4],  # a chair is nothing broader
    ]
    assert labels(regions, 0.5) == [(1, 0.6), (9, 0.6), (4, 0.55), None, (5, 0.7), None]


def test_an_entry_of_its_own_threshold_has_that() -> None:
    categories = tuple(
        replace(c, threshold=0.25 if c.name == "house sparrow" else None) for c in BIRDS.categories
    )
    strict = replace(
        BIRDS, categories=categories, parents=(replace(BIRDS.parents[0], threshold=0.7),)
    )
    regions = [[0.3, 0.1, 0.0, 0.0, 0.0], [0.2, 0.4, 0.0, 0.0, 0.0]]
    assert labels(regions, 0.5, strict) == [(1, 0.3), (4, 0.6)]  # 0.6 are too few for a sparrow


def test_scores_are_at_most_one_and_circles_end() -> None:
    circle = Vocabulary(
        "circle", (Category(1, "a", parent="b"), Category(2, "b", parent="a"), Category(3, "c"))
    )
    assert labels([[0.9, 0.8, 0.0]], 0.95, circle) == [(1, 1.0)]  # each is below the other


def test_a_threshold_of_zero_never_rolls_up() -> None:
    scores = np.random.default_rng(0).random((20, 5)).astype(np.float32) / 5
    below = {3: [0, 1, 2, 3]}  # a bird's score is that of its kinds too
    expected = [
        (best + 1, pytest.approx(row[below.get(best, [best])].sum()))
        for row, best in zip(scores, scores.argmax(1).tolist(), strict=True)
    ]
    assert labels(scores.tolist(), 0.0) == expected


def test_detect_and_relabel_roll_up_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    model = save_student(tmp_path / "student.safetensors", save_clip(tmp_path / "clip"))
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    words = tmp_path / "birds.yaml"
    save_vocabulary(BIRDS, words)
    asked = ["--vocab", str(words), "--roll-up", "0.3", "--context", "none", "--floor", "0"]
    detect = ["detect", str(photos), "--model", str(model), "--keep-regions", "--device", "cpu"]
    out, again = tmp_path / "run", tmp_path / "again"
    assert run([*detect, *asked, "--out", str(out), "--offline"]) == 0
    assert run(["relabel", str(out), *asked, "--out", str(again), "--offline"]) == 0
    names = {c.id: c.name for c in view_run(out).vocabulary.categories}
    assert names[9] == "sparrow"
    found = [
        [(x.label, x.category_id, x.score) for x in image.labels]
        for image in view_run(out).labelled_images()
    ]
    assert found == [
        [(x.label, x.category_id, x.score) for x in image.labels]
        for image in view_run(again).labelled_images()
    ]
    kinds = {id_ for image in found for _, id_, _ in image}
    assert kinds & {4, 9}  # random weights are sure of little
    assert all(score >= 0.3 for image in found for _, _, score in image)
    coco = tmp_path / "coco.json"
    assert run(["export", str(out), "--to", "coco", "--out", str(coco), "--conf", "0"]) == 0
    content = json.loads(coco.read_text())
    assert {a["category_id"] for a in content["annotations"]} == kinds
    assert kinds <= {c["id"] for c in content["categories"]}


def test_settings__say_that_labels_roll_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    model = save_student(tmp_path / "student.safetensors", save_clip(tmp_path / "clip"))
    options = LabellingOptions(str(model), device="cpu", offline=True)
    plain = open_labelling_model(BIRDS, options).settings
    rolled = open_labelling_model(BIRDS, replace(options, roll_up=0.5)).settings
    assert "roll_up" not in plain
    assert rolled["roll_up"] == [0.5, [0.5] * 6]
