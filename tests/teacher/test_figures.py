from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import NOVEL_ID, rewrite
from torch import Tensor

from vildcli.data.lvis import load_annotations
from vildcli.errors import DataError
from vildcli.teacher import figures
from vildcli.teacher.cache import TeacherCache, embed_proposals, fill_cache
from vildcli.teacher.crops import CropRecipe, ImageEncoder
from vildcli.teacher.figures import (
    GroupFigures,
    TeacherFigures,
    doubt_about,
    measure_teacher,
    read_teacher_figures,
    write_teacher_figures,
)

# The objects of tiny_training are red, green and blue: category k is brightest in channel k.
SEEING = ImageEncoder(
    lambda pixels: pixels.mean((2, 3)) - pixels.mean((1, 2, 3))[:, None],
    CropRecipe(8, (0.0,) * 3, (1.0,) * 3, factors=(1.0,)),
    0.01,
    "stub",
    torch.device("cpu"),
)
# Of the three objects of each image: one met exactly, one with IoU 0.5, one with a bit less.
PROPOSALS = [[4.0, 5, 18, 25], [22, 5, 36, 15], [40, 5, 54, 14.9]]


def measured(tmp_path: Path, data: Path, texts: Tensor, encoder=SEEING) -> TeacherFigures:  # type: ignore[no-untyped-def]
    annotations = load_annotations(data)
    boxes = torch.tensor(PROPOSALS)
    fill_cache(
        tmp_path / "filled",
        annotations.images,
        data.parent,
        regions_of=embed_proposals(
            lambda image, pixels: boxes + torch.tensor([0, 3.0, 0, 3]) * (image.id - 1), encoder
        ),
        advance=lambda steps=1, note=None: None,
    )
    cache = TeacherCache(tmp_path / "filled", annotations.images, data.parent)
    return measure_teacher(
        cache, annotations, data.parent, encoder, lambda: texts, data="hash", prompts="words"
    )


def test_a_teacher_that_knows(tmp_path: Path, data: Path) -> None:
    found = measured(tmp_path, data, torch.eye(3))
    assert found == {
        "data": "hash",
        "prompts": "words",
        "categories": 3,
        "chance": 1 / 3,
        "groups": {
            "all": {"asked": 12, "accuracy": 1.0, "objects": 12, "recall": 8 / 12},
            "base": {"asked": 8, "accuracy": 1.0, "objects": 8, "recall": 1.0},
            "novel": {"asked": 4, "accuracy": 1.0, "objects": 4, "recall": 0.0},
        },
    }
    assert doubt_about(found) is None


def test_a_teacher_with_another_ones_words(tmp_path: Path, data: Path) -> None:
    groups = measured(tmp_path, data, torch.eye(3)[[1, 0, 2]])["groups"]
    assert [groups[name]["accuracy"] for name in ("all", "base", "novel")] == [1 / 3, 0.0, 1.0]


def test_no_frequencies_no_novel(tmp_path: Path, data: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        del content["categories"][1]["frequency"]

    assert list(measured(tmp_path, rewrite(data, change), torch.eye(3))["groups"]) == ["all"]


def test_crowds_and_boxes_without_area_do_not_count(tmp_path: Path, data: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"][1]["bbox"][2] = 0

    assert measured(tmp_path, rewrite(data, change), torch.eye(3))["groups"]["all"]["asked"] == 10


def test_annotation_ids_need_not_be_unique(tmp_path: Path, data: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            row["id"] = 1

    groups = measured(tmp_path, rewrite(data, change), torch.eye(3))["groups"]
    assert (groups["novel"]["asked"], groups["novel"]["recall"]) == (4, 0.0)


def test_no_true_boxes(tmp_path: Path, data: Path) -> None:
    rewrite(data, lambda content: content.update(annotations=[]))
    found = measured(tmp_path, data, torch.zeros(0))  # the words are not asked for
    assert found["groups"]["all"] == {
        "asked": 0, "accuracy": None, "objects": 0, "recall": None,
    }  # fmt: skip
    assert doubt_about(found) is None


def test_at_most_so_many_are_asked_and_always_the_same(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "BOXES", 5)
    first = measured(tmp_path, data, torch.eye(3)[[1, 0, 2]])["groups"]
    assert (first["all"]["asked"], first["all"]["objects"]) == (5, 12)
    assert first["base"]["asked"] + first["novel"]["asked"] == 5
    assert measured(tmp_path, data, torch.eye(3)[[1, 0, 2]])["groups"] == first


def test_novel_boxes_reach_the_figures_and_no_embedding(tmp_path: Path, data: Path) -> None:
    measured(tmp_path, data, torch.eye(3))
    before = [p.read_bytes() for p in sorted((tmp_path / "filled" / "parts").iterdir())]

    def nonsense(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            if row["category_id"] == NOVEL_ID:
                row["bbox"] = [0, 0, 60, 50]

    groups = measured(tmp_path, rewrite(data, nonsense), torch.eye(3))["groups"]
    assert groups["base"] == {"asked": 8, "accuracy": 1.0, "objects": 8, "recall": 1.0}
    assert [p.read_bytes() for p in sorted((tmp_path / "filled" / "parts").iterdir())] == before


@pytest.mark.parametrize(
    ("accuracy", "categories", "doubted"),
    [
        (0.29, 10, True),
        (0.31, 10, False),
        (0.6, 3, True),  # three times chance is not to be had
        (0.7, 3, False),
        (1.0, 1, False),
        (0.002, 1203, True),
        (0.003, 1203, False),
    ],
)
def test_doubt(accuracy: float, categories: int, doubted: bool) -> None:
    group = GroupFigures(asked=9, accuracy=accuracy, objects=9, recall=0.5)
    found = TeacherFigures(
        data="", prompts="", categories=categories, chance=1 / categories, groups={"all": group}
    )
    assert (doubt_about(found) is not None) == doubted


def test_doubt__the_words() -> None:
    group = GroupFigures(asked=9, accuracy=0.125, objects=9, recall=0.5)
    found = TeacherFigures(data="", prompts="", categories=10, chance=0.1, groups={"all": group})
    assert doubt_about(found) == (
        "The teacher names 12.5% of the true boxes right, and chance is 10.0%: "
        "its weights, the prompts or the image folder are not what they should be."
    )


def test_figures_are_kept(tmp_path: Path, data: Path) -> None:
    found = measured(tmp_path, data, torch.eye(3))
    assert read_teacher_figures(tmp_path) is None
    write_teacher_figures(tmp_path, found)
    assert read_teacher_figures(tmp_path) == found
    path = tmp_path / "accuracy.json"
    assert json.loads(path.read_text()) == found
    path.write_text('{"groups": {}}')
    with pytest.raises(DataError) as error:
        read_teacher_figures(tmp_path)
    assert str(error.value) == f"{path} is damaged: KeyError('all')."
    assert error.value.hint == "Delete it and run `vildcli teach` again."
