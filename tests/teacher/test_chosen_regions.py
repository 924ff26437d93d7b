from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import NOVEL_ID, rewrite
from torch import Tensor
from torchvision.ops import box_iou

from vildcli.cli import run
from vildcli.data.lvis import AnnotatedImage, load_annotations
from vildcli.errors import DataError, ModelError, RunError
from vildcli.runs import file_sha256, read_run
from vildcli.teacher import chosen_regions, session
from vildcli.teacher.anchors import certainty, make_anchors
from vildcli.teacher.cache import TeacherCache
from vildcli.teacher.chosen_regions import (
    LEAST_SIDE,
    RegionChoice,
    apart_from,
    embed_objects,
    least_boxes,
    object_encoder,
)
from vildcli.teacher.crops import CropRecipe, ImageEncoder, cut_crop, embed_regions
from vildcli.teacher.ground_truth import base_truth
from vildcli.teacher.known_names import known_names
from vildcli.teacher.proposals import Proposals
from vildcli.teacher.session import TeachOptions, teach
from vildcli.training.own_cache import check_cache

STRIDE = 160  # of the published 32: a twentieth of the crops
COLOURS = ImageEncoder(  # how much of a crop is red, green, blue
    lambda crops: crops.mean((2, 3)) - 0.35,
    CropRecipe(8, (0.0,) * 3, (1.0,) * 3),
    0.1,
    "colours",
    torch.device("cpu"),
)


@pytest.fixture(autouse=True)
def few_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RegionChoice", partial(RegionChoice, stride=2 * STRIDE))


@pytest.fixture
def image() -> AnnotatedImage:
    return AnnotatedImage(1, "0.png", 60, 50)


def pixels() -> Tensor:
    """Two objects of different colours on grey."""
    drawn = torch.full((3, 50, 60), 90, dtype=torch.uint8)
    drawn[0, 5:25, 4:18] = 250
    drawn[2, 20:45, 35:58] = 250
    return drawn


def choice(data: Path, **changes: Any) -> RegionChoice:
    annotations = load_annotations(data)
    truth = base_truth(annotations, None)
    values: dict[str, Any] = {
        "encoder": COLOURS,
        "names": known_names("all", annotations.categories, truth.is_base),
        "texts": torch.eye(3),
        "truth": truth,
        "count": 10,
        "pick": "best",
        "stride": STRIDE,
    }
    return RegionChoice(**{**values, **changes})


def test_candidates__the_surest_of_all_anchors_apart_from_each_other(
    data: Path, image: AnnotatedImage
) -> None:
    """Against a plain loop: take the surest, drop what overlaps it, go on."""
    found = choice(data).candidates(image, pixels())
    boxes = make_anchors(50, 60, STRIDE)
    encoder = replace(COLOURS, recipe=replace(COLOURS.recipe, factors=(1.0,), fit="pad"))
    seen = certainty(embed_regions(pixels(), boxes, encoder), torch.eye(3), 0.1)
    left, expected = seen.objectness.argsort(descending=True, stable=True).tolist(), []
    while left:
        best = left.pop(0)
        expected.append(best)
        overlaps = box_iou(boxes[best : best + 1], boxes)[0]
        left = [i for i in left if overlaps[i] <= 0.7]
    assert torch.equal(found, boxes[expected])
    assert len(found) < len(boxes)


def test_candidates__no_more_than_a_thousand(
    data: Path, image: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = choice(data).candidates(image, pixels())
    monkeypatch.setattr(chosen_regions, "CANDIDATES", 7)
    assert torch.equal(choice(data).candidates(image, pixels()), every[:7])


def test_candidates__of_a_detector_are_its_boxes_and_no_others_are_cropped(
    data: Path, image: AnnotatedImage
) -> None:
    cropped: list[int] = []

    def encode(crops: Tensor) -> Tensor:
        cropped.append(len(crops))
        return COLOURS.encode(crops)

    boxes = torch.tensor([[4.0, 5, 18, 25], [0, 30, 20, 49], [35, 20, 58, 45], [35, 20, 58, 44]])
    among = Proposals(lambda image, pixels: boxes, "three boxes and a double", "made up")
    found = choice(data, among=among, encoder=replace(COLOURS, encode=encode)).candidates(
        image, pixels()
    )
    assert sum(cropped) == len(boxes)
    seen = choice(data).encoder.recipe
    exact = replace(COLOURS, recipe=replace(seen, factors=(1.0,), fit="pad"))
    surest = certainty(embed_regions(pixels(), boxes, exact), torch.eye(3), 0.1).objectness
    order = [i for i in surest.argsort(descending=True).tolist() if i != 3]  # NMS leaves one
    assert torch.equal(found, boxes[order])


def test_regions__ground_truth_first_then_what_is_apart_from_it(
    data: Path, image: AnnotatedImage
) -> None:
    found = choice(data)(image, pixels())
    truth = torch.tensor([[4.0, 5, 18, 25], [22, 5, 36, 25]])  # apple and pear, not the plum
    assert found.is_true is not None
    assert found.weights is not None
    assert found.is_true.tolist() == [True] * 2 + [False] * 10
    assert torch.equal(found.boxes[:2], truth)
    assert found.weights[:2].tolist() == [1, 1]
    assert (box_iou(found.boxes[2:], truth) < 0.3).all()
    encoder = object_encoder(COLOURS)
    torch.testing.assert_close(found.embeddings, embed_objects(pixels(), found.boxes, encoder))
    confidence = certainty(found.embeddings[2:], torch.eye(3), 0.1).confidence
    torch.testing.assert_close(found.weights[2:], confidence)


def test_regions__of_an_image_without_base_objects(data: Path) -> None:
    found = choice(data)(AnnotatedImage(99, "other.png", 60, 50), pixels())
    assert found.is_true is not None
    assert not found.is_true.any()
    assert len(found.boxes) == 10


def test_pick__unlike_base_leaves_out_what_is_called_base(
    data: Path, image: AnnotatedImage
) -> None:
    found = choice(data, pick="unlike-base")(image, pixels())
    chosen = certainty(found.embeddings[2:], torch.eye(3), 0.1)
    assert len(chosen.best) > 0
    assert set(chosen.best.tolist()) == {2}
    candidates = apart_from(choice(data).candidates(image, pixels()), found.boxes[:2])
    seen = embed_objects(pixels(), candidates, object_encoder(COLOURS))
    novel = candidates[certainty(seen, torch.eye(3), 0.1).best == 2]
    assert torch.equal(found.boxes[2:], novel[:10])


def test_pick__random_is_drawn_anew_for_each_image_and_seed(
    data: Path, image: AnnotatedImage
) -> None:
    drawn = choice(data, pick="random")
    first, again = drawn(image, pixels()).boxes, drawn(image, pixels()).boxes
    other = drawn(replace(image, file_name="1.png"), pixels()).boxes
    seed = choice(data, pick="random", seed=1)(image, pixels()).boxes
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, seed)
    best = choice(data)(image, pixels()).boxes
    assert not torch.equal(first, best)


def test_crops__are_larger_by_a_fifth_and_padded_with_black() -> None:
    encoder = object_encoder(COLOURS)
    white = torch.full((3, 100, 100), 255, dtype=torch.uint8)
    crop = cut_crop(white, [40, 45, 60, 55], encoder.recipe.factors[0], encoder.recipe)
    rows = (crop[0].float().mean(1) > 0).tolist()
    assert encoder.recipe.factors == (1.2,)
    assert rows == [False] * 2 + [True] * 4 + [False] * 2  # 24 x 12 pixels in 8 x 8


def test_least_boxes__no_crop_is_smaller_than_ten_pixels() -> None:
    boxes = torch.tensor([[10.0, 10, 11, 90], [0, 0, 100, 100]])
    widened = least_boxes(boxes, 800, 1333)
    sides = 1.2 * (widened[:, 2:] - widened[:, :2])
    torch.testing.assert_close(sides[0], torch.tensor([LEAST_SIDE, 96.0]))
    torch.testing.assert_close(widened[0, ::2].mean(), torch.tensor(10.5))
    assert torch.equal(widened[1], boxes[1])
    torch.testing.assert_close(least_boxes(boxes / 4, 200, 300)[0] * 4, widened[0])


@pytest.fixture
def teach_it(tmp_path: Path, clip: str) -> Callable[..., Path]:
    def teach_it(data: Path, out: str, **more: Any) -> Path:
        options = TeachOptions(
            data, data.parent, clip, "teacher", regions=5, device="cpu", offline=True, **more
        )
        quiet = lambda steps=1, note=None, facts=None: None  # noqa: E731
        return teach(options, tmp_path / out, force=False, advance=quiet).folder

    return teach_it


def part_bytes(cache: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((cache / "parts").iterdir())]


def test_teach__novel_annotations_change_nothing(data: Path, teach_it: Callable[..., Path]) -> None:
    before = teach_it(data, "before")

    def change(content: dict[str, Any]) -> None:
        novel = [a for a in content["annotations"] if a["category_id"] == NOVEL_ID]
        content["annotations"] = [a for a in content["annotations"] if a not in novel]
        for row in novel[1:]:  # one is gone, the others are elsewhere, and there are more of them
            content["annotations"] += [row | {"bbox": [1, 1, 50, 40]}]
            content["annotations"] += [row | {"id": row["id"] + 100, "bbox": [30, 2, 20, 44]}]

    rewrite(data, change)
    after = teach_it(data, "after")
    assert part_bytes(before) == part_bytes(after)
    headers = [read_run(folder, "teacher") for folder in (before, after)]
    assert headers[0]["settings"] == headers[1]["settings"]


def test_teach__base_annotations_do_change_it(data: Path, teach_it: Callable[..., Path]) -> None:
    before = teach_it(data, "out")
    rewrite(data, lambda content: content["annotations"][0].update(bbox=[1, 1, 50, 40]))
    with pytest.raises(RunError, match=r"other settings \(base: '"):
        teach_it(data, "out")
    assert part_bytes(before) != part_bytes(teach_it(data, "after"))


def test_teach__says_which_names_were_known(
    tmp_path: Path, data: Path, teach_it: Callable[..., Path]
) -> None:
    settings = read_run(teach_it(data, "all"), "teacher")["settings"]
    assert settings["proposals"] == settings["regions"] == "teacher"
    assert settings["names"] | {"fingerprint": ""} == {
        "which": "all", "count": 3, "beyond_base": 1, "fingerprint": "",
    }  # fmt: skip
    assert (settings["pick"], settings["among"]) == ("unlike-base", "anchors")
    assert settings["crops"]["factors"] == [1.2]
    assert settings["crops"]["fit"] == "pad"
    assert "adapted_from" not in settings
    header = read_run(teach_it(data, "base", names="base"), "teacher")
    assert header["settings"]["names"]["which"] == "base"
    assert (header["settings"]["pick"], header["settings"]["among"]) == ("best", "anchors")
    assert header["arguments"]["provenance"] == (
        "The teacher's own choice by 2 names (base), apart from base ground truth."
    )


def test_teach__among_the_boxes_of_a_file(
    data: Path, tmp_path: Path, teach_it: Callable[..., Path]
) -> None:
    """Thrice as many as are kept are asked about, and it is said what proposed them."""
    annotations = load_annotations(data)
    generator = torch.Generator().manual_seed(0)
    corners = 20 * torch.rand(40, 2, generator=generator)
    boxes = torch.cat([corners, corners + 10 + 15 * torch.rand(40, 2, generator=generator)], 1)
    rows = [
        {"image_id": image.id, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 1 - i / 40}
        for image in annotations.images
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist())
    ]
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(rows))
    folder = teach_it(data, "out", among=str(file), pick="best")
    cache = TeacherCache(folder, annotations.images, data.parent)
    first = annotations.images[0].id
    chosen = cache.boxes(first)[~cache.is_true(first)]
    asked = boxes[: 3 * 5]
    assert 0 < len(chosen) <= 5
    assert (torch.cdist(chosen, asked).amin(1) < 1e-3).all()
    header = read_run(folder, "teacher")
    assert header["settings"]["among"] == f"boxes {file_sha256(file)}"
    assert header["arguments"]["provenance"] == {
        "chosen": "The teacher's own choice by 3 names (all), apart from base ground truth.",
        "proposals": "The boxes of boxes.json; what made them is not known.",
    }


def test_teach__the_cache_holds_weights_and_the_figures_leave_the_truth_out(
    data: Path, teach_it: Callable[..., Path]
) -> None:
    folder = teach_it(data, "out", pick="best")
    annotations = load_annotations(data)
    cache = TeacherCache(folder, annotations.images, data.parent)
    for found in annotations.images:
        weights, is_true = cache.weights(found.id), cache.is_true(found.id)
        assert weights is not None
        assert is_true is not None
        assert is_true.tolist() == [True] * 2 + [False] * 5
        assert (weights[:2] == 1).all()
        assert ((weights[2:] > 0) & (weights[2:] <= 1)).all()
    groups = json.loads((folder / "accuracy.json").read_text())["groups"]
    assert groups["base"]["recall"] == 0  # the teacher's own regions are apart from them


def test_teach__names_that_miss_base_categories(
    tmp_path: Path, data: Path, teach_it: Callable[..., Path]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("apple\nplum\nfig\n")
    with pytest.raises(DataError) as error:
        teach_it(data, "out", names=str(names))
    assert str(error.value) == f"The names '{names}' miss 1 of 2 base categories: pear."
    assert not (tmp_path / "out").exists()


def test_teach__no_region_is_unlike_base_among_base_names(
    data: Path, teach_it: Callable[..., Path]
) -> None:
    with pytest.raises(DataError) as error:
        teach_it(data, "out", names="base", pick="unlike-base")
    assert str(error.value) == (
        "Every one of the names 'base' is base, so no region is unlike base."
    )
    assert error.value.hint == "Give --pick best or random, or --names all."


def test_a_cache_of_another_teacher_is_refused(
    data: Path, tmp_path: Path, teach_it: Callable[..., Path]
) -> None:
    cache = teach_it(data, "out")
    with pytest.raises(ModelError) as error:
        check_cache(cache, "the adapted one", lambda text: None)
    assert str(error.value) == (
        f"The teacher cache {cache} was filled by another teacher than --teacher."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--proposals', or --adapt."),
        (
            ["--adapt", "--proposals", "teacher"],
            "--adapt makes a teacher and --proposals a cache: one at a time.",
        ),
        (["--adapt", "--names", "all"], "--names says nothing about --adapt."),
        (
            ["--proposals", "teacher", "--adapt-loss", "softmax"],
            "--adapt-loss says nothing about --proposals teacher.",
        ),
        (["--proposals", "torchvision", "--pick", "best"], "--pick says nothing about these"),
        (["--proposals", "torchvision", "--among", "a"], "--among says nothing about these"),
        (["--proposals", "torchvision", "--base", "all"], "--base says nothing about these"),
    ],
)
def test_command__options_of_another_use_are_refused(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    paths = ["--data", str(data), "--images", str(data.parent), "--out", str(tmp_path / "out")]
    assert run(["teach", *paths, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_command__chooses_regions(
    data: Path, tmp_path: Path, clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--data", data, "--images", data.parent, "--teacher", clip, "--out", tmp_path / "out"]
    chosen = ["--proposals", "teacher", "--names", "all", "--pick", "random", "--regions", "6"]
    assert run(["teach", "--offline", "--device", "cpu", *map(str, [*paths, *chosen])]) == 0
    err = capsys.readouterr().err
    assert f"Teacher cache: {tmp_path / 'out'} (4 images, 4 of them new)" in err
    assert "train --system ezsd " in err
    assert (
        "Every anchor is cropped, up to 15,750 an image: --among a detector's boxes takes a tenth "
        "of that."
    ) in " ".join(err.split())
    settings = read_run(tmp_path / "out", "teacher")["settings"]
    assert (settings["kept"], settings["pick"]) == (6, "random")
