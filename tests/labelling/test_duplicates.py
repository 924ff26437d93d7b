from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from run_builder import build_run
from stub_model import StubDetector, StubModel, draw_images
from torch import Tensor

from vildcli.labelling import duplicates
from vildcli.labelling.duplicates import find_duplicates, write_duplicates
from vildcli.labelling.label import label_images
from vildcli.labelling.plan import read_plan
from vildcli.labelling.records import part_path, read_part, write_part_table
from vildcli.labelling.rows import image_embedding
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary

WIDTH = 32


class Looking(StubDetector):
    """One region an image, its embedding drawn by the red of the image and moved by its green."""

    def __init__(self, shared: float = 1.0) -> None:
        super().__init__()
        self.shared = shared

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        return [self.look(image) for image in images]

    def look(self, image: Tensor) -> Regions:
        red, green, _ = image[:, 0, 0].tolist()
        own, moved = (
            torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
            for seed in (red, 1000 + green)
        )
        side = self.shared * torch.ones(WIDTH) + own + 0.02 * moved
        none = image.shape[1:] == (1, 1)
        return Regions(
            boxes=torch.tensor([[0.0, 0.0, 4.0, 4.0]])[: 0 if none else 1],
            proposals=torch.tensor([[0.0, 0.0, 4.0, 4.0]])[: 0 if none else 1],
            objectness=torch.tensor([0.9])[: 0 if none else 1],
            masks=torch.zeros(0 if none else 1, 28, 28, dtype=torch.uint8),
            text_side=torch.nn.functional.normalize(side, dim=0).half()[None][: 0 if none else 1],
            image_side=None,
        )


def run_of(tmp_path: Path, shades: Sequence[tuple[int, int]], shared: float = 1.0) -> Path:
    photos = tmp_path / "photos"
    for i, (red, green) in enumerate(shades):
        draw_images(photos / "tmp", 1)
        from PIL import Image

        Image.new("RGB", (8, 8), (red, green, 0)).save(photos / f"{i:02d}.png")
    shutil.rmtree(photos / "tmp")
    Image.new("RGB", (1, 1)).save(photos / "none.png")
    (photos / "bad.png").write_text("hello")
    model = StubModel()
    model.detector = Looking(shared)
    vocabulary = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))
    found = find_images([str(photos)])
    run = open_labelling_run(tmp_path / "run", found, {}, vocabulary).folder
    label_images(run, model)
    return run


def test_find_duplicates__exact_and_near(tmp_path: Path) -> None:
    shades = [(i, 0) for i in range(20)]
    run = run_of(tmp_path, [*shades, (3, 0), (3, 0), (5, 1), (5, 2), (7, 0)], shared=3.0)
    found = find_duplicates(run)
    assert found.exact == ((4, 21, 22), (8, 25))
    assert found.near == ((6, 23, 24),)
    assert (found.exact_copies, found.near_copies, found.why_not) == (3, 2, "")
    assert found.cosines[0] > 0.99
    file = write_duplicates(run, found, read_plan(run))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows[0] == {
        "kind": "exact",
        "cosine": None,
        "image_ids": [4, 21, 22],
        "paths": ["photos/03.png", "photos/20.png", "photos/21.png"],
    }
    assert (rows[2]["kind"], rows[2]["image_ids"]) == ("near", [6, 23, 24])
    assert rows[2]["cosine"] == pytest.approx(found.cosines[0], abs=1e-4)


def test_find_duplicates__a_run_of_one_scene(tmp_path: Path) -> None:
    run = run_of(tmp_path, [(3, green) for green in range(6)])
    assert find_duplicates(run).near == ((1, 2, 3, 4, 5, 6),)


def test_find_duplicates__what_all_images_share_makes_none_near(tmp_path: Path) -> None:
    run = run_of(tmp_path, [(i, 0) for i in range(12)], shared=4.0)
    embeddings = np.stack(
        [e for e in read_part(run, "images", 0).column("embedding").to_pylist() if e]
    )
    cosines = embeddings @ embeddings.T - np.eye(len(embeddings))
    assert cosines.max() > 0.95  # by themselves they would pass for one another
    assert find_duplicates(run).near == ()


def test_find_duplicates__of_two_images(tmp_path: Path) -> None:
    assert find_duplicates(run_of(tmp_path, [(1, 0), (2, 0)])).near == ()


def test_find_duplicates__of_a_run_without_embeddings(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", tmp_path / "photos")
    found = find_duplicates(run)
    assert (found.near, found.why_not) == ((), "no image has an embedding")
    for path in (run / "images").iterdir():
        older = pq.read_table(path).drop_columns(["embedding"])
        write_part_table(run, "images", int(path.stem), older)
    assert find_duplicates(run).why_not == "no image has an embedding"
    assert "embedding" not in pq.read_table(part_path(run, "images", 0)).column_names


def test_image_embedding__is_the_mean_weighted_by_objectness() -> None:
    sides = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator()), dim=1)
    weights = torch.tensor([0.5, 0.25, 0.0])
    boxes = torch.zeros(3, 4)
    masks = torch.zeros(3, 28, 28, dtype=torch.uint8)
    regions = Regions(boxes, boxes, weights, masks, torch.ones(3, 4).half(), sides.half())
    wanted = (sides.numpy() * weights[:, None].numpy()).sum(0)
    embedding = image_embedding(regions)
    assert embedding is not None
    assert np.allclose(embedding, wanted / np.linalg.norm(wanted), atol=2e-3)
    assert embedding.dtype == np.float16


@pytest.mark.parametrize("side", [1, 4, 7])
def test_find_duplicates__block_by_block_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    shades = [(i % 9, i // 9) for i in range(20)]
    run = run_of(tmp_path, shades, shared=2.0)
    whole = find_duplicates(run)
    assert len(whole.near) > 1
    monkeypatch.setattr(duplicates, "_SIDE", side)
    blocks = find_duplicates(run)
    assert (blocks.exact, blocks.near) == (whole.exact, whole.near)
    assert blocks.cosines == pytest.approx(whole.cosines, abs=1e-5)


def test_find_duplicates__near_ones_not_among_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, [(1, 0), (1, 0), (1, 1), (2, 0)])
    monkeypatch.setattr(duplicates, "MOST", 3)
    found = find_duplicates(run)
    assert (found.exact, found.near) == (((1, 2),), ())
    assert found.why_not == "there are more than 3 images"


def test_find_duplicates__of_a_camera_that_saw_nothing_move() -> None:
    rows = np.tile(np.ones(16, np.float16), (3000, 1))
    rows[1500, :8] = -1
    rows[2000] = 0  # an image without regions
    (group,) = duplicates._near_groups(rows, duplicates.NEAR)
    assert group[0].tolist() == [i for i in range(3000) if i not in (1500, 2000)]
    assert group[1] == pytest.approx(1)
