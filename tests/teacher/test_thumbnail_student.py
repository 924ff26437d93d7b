from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.data.lvis import load_annotations
from vildcli.teacher import thumbnail_student
from vildcli.teacher.anchors import make_anchors
from vildcli.teacher.thumbnail_student import (
    CELLS,
    ThumbnailStudent,
    open_student,
    thumbnails,
)

STRIDE = 160


def photograph(height: int = 50, width: int = 60) -> Tensor:
    """Blocks of colour."""
    generator = torch.Generator().manual_seed(2)
    blocks = torch.randint(0, 256, (3, 5, 6), dtype=torch.uint8, generator=generator)
    return blocks.repeat_interleave(10, 1).repeat_interleave(10, 2)[:, :height, :width]


def ask(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """A teacher that is the surer the redder a box is; its embeddings are mean colours."""
    colours = []
    for x1, y1, x2, y2 in boxes.tolist():
        crop = pixels[:, int(y1) : int(y2) + 1, int(x1) : int(x2) + 1].float()
        colours.append(crop.mean((1, 2)) / 255)
    seen = torch.stack(colours)
    return normalize(seen, dim=-1), seen[:, 0]


def opened(folder: Path, data: Path, **changes: Any) -> ThumbnailStudent:
    values: dict[str, Any] = {
        "ask": ask,
        "stride": STRIDE,
        "seed": 0,
        "device": torch.device("cpu"),
        "advance": lambda steps=1, note=None, facts=None: None,
    }
    images = load_annotations(data).images
    return open_student(folder, images, data.parent, **{**values, **changes})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnail_student, "_STEPS", 5)


def test_thumbnails__are_the_mean_colours_of_cells() -> None:
    """Against a plain loop, where a pixel counts by the share of it that is covered."""
    image = torch.randint(
        0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    boxes = torch.tensor(
        [[0.0, 0, 30, 20], [2.3, 4.6, 6.1, 17.9], [29, 19, 30, 20], [7, 3, 23, 19]]
    )
    found = thumbnails(image, boxes)
    assert found.shape == (4, 3, CELLS, CELLS)
    for box, thumbnail in zip(boxes.tolist(), found, strict=True):
        shares = []
        for low, high, length in ((box[0], box[2], 30), (box[1], box[3], 20)):
            edges = [low + (high - low) * i / CELLS for i in range(CELLS + 1)]
            shares.append(
                torch.tensor(
                    [
                        [max(0.0, min(b, p + 1) - max(a, p)) / (b - a) for p in range(length)]
                        for a, b in pairwise(edges)
                    ]
                )
            )
        across, down = shares
        torch.testing.assert_close(
            thumbnail, down @ (image.float() / 255) @ across.T, atol=1e-5, rtol=0
        )


def test_student__guesses_what_the_teacher_says(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an image that it was not taught on, and the contrary of a contrary teacher."""
    monkeypatch.setattr(thumbnail_student, "_STEPS", 100)
    monkeypatch.setattr(thumbnail_student, "FITTED_ANCHORS", 200)

    def contrary(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        embeddings, objectness = ask(pixels, boxes)
        return embeddings, -objectness

    anchors = make_anchors(50, 60, STRIDE)
    said = ask(photograph(), anchors.boxes)[1]

    def correlation(folder: str, **changes: Any) -> float:
        guessed = opened(tmp_path / folder, data, **changes)(photograph(), anchors)
        assert guessed.shape == said.shape
        return float(torch.corrcoef(torch.stack([guessed, said]))[0, 1])

    assert correlation("taught") > 0.8
    assert correlation("contrary", ask=contrary) < -0.8


@pytest.mark.usefixtures("short")
def test_student__is_kept_in_the_folder(tmp_path: Path, data: Path) -> None:
    def fail(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("taught again")

    anchors = make_anchors(50, 60, STRIDE)
    state = torch.get_rng_state()
    first = opened(tmp_path, data)(photograph(), anchors)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(opened(tmp_path, data, ask=fail)(photograph(), anchors), first)
    (tmp_path / "student.safetensors").write_bytes(b"damaged")
    assert torch.equal(opened(tmp_path, data)(photograph(), anchors), first)


@pytest.mark.usefixtures("short")
def test_student__costs_a_few_crops_of_a_few_images(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnail_student, "FITTED_IMAGES", 2)
    monkeypatch.setattr(thumbnail_student, "FITTED_ANCHORS", 30)
    asked: list[int] = []

    def counting(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(boxes))
        return ask(pixels, boxes)

    opened(tmp_path, data, ask=counting)
    assert asked == [30, 30]
