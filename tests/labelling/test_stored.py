from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from stub_model import StubModel, draw_images

from vildcli.data.images import read_image
from vildcli.labelling.label import LabellingJob, label_images
from vildcli.labelling.records import iter_labelled_images, read_part
from vildcli.labelling.relabel import relabel_run, stored_regions
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.stored import as_stored, from_int8, to_int8
from vildcli.types import RegionLabels, Regions
from vildcli.vocabulary.category import Category, Vocabulary

VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))


def unit(rows: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)


def rotation(width: int) -> NDArray[np.float64]:
    """Hadamard matrices along the diagonal, each as large as a power of two that divides all."""
    block = max(2**i for i in range(12) if width % 2**i == 0)
    one = np.ones((1, 1))
    while len(one) < block:
        one = np.kron(np.array([[1, 1], [1, -1]]), one)
    return np.kron(np.eye(width // block), one / np.sqrt(block))


@pytest.mark.parametrize("width", [64, 192, 33])
def test_int8__keeps_the_direction_within_half_a_step(width: int) -> None:
    side = unit(200, width)
    codes = to_int8(side)
    assert codes.dtype == torch.int8
    assert torch.equal(codes.abs().amax(1), torch.full((200,), 127, dtype=torch.int8))
    rotated = side.double().numpy() @ rotation(width)
    steps = np.abs(rotated).max(1, keepdims=True) / 127
    assert (np.abs(codes.numpy() * steps - rotated) <= steps / 2 + 1e-6).all()
    again = from_int8(codes)
    assert again.norm(dim=1).numpy() == pytest.approx(1, abs=1e-6)
    scaled = codes.numpy() / np.linalg.norm(codes.numpy(), axis=1, keepdims=True)
    assert again.numpy() == pytest.approx(scaled @ rotation(width), abs=1e-6)


def test_int8__one_large_number_costs_the_others_little() -> None:
    side = unit(200, 512)
    side[:, 7] = 0.9  # as CLIP's have
    side = torch.nn.functional.normalize(side, dim=1)
    error = (from_int8(to_int8(side)) - side).norm(dim=1).max()
    plain = (side * 127 / side.abs().amax(1, keepdim=True)).round()
    plain_error = (torch.nn.functional.normalize(plain, dim=1) - side).norm(dim=1).min()
    assert error < plain_error / 3


def test_int8__does_not_depend_on_the_other_rows() -> None:
    side = unit(50, 96)
    assert torch.equal(from_int8(to_int8(side))[10:20], from_int8(to_int8(side[10:20])))
    assert to_int8(side[:0]).shape == (0, 96)


def test_int8__what_was_stored_is_stored_again_the_same() -> None:
    codes = to_int8(unit(500, 512).half())
    assert torch.equal(to_int8(from_int8(codes)), codes)


def test_int8__a_row_of_zeros_stays_one() -> None:
    zeros = torch.zeros(1, 4)
    assert torch.equal(from_int8(to_int8(zeros)), zeros)


def test_as_stored__float16_is_what_a_detector_gives() -> None:
    (regions,) = StubModel().detector.regions([torch.ones(3, 8, 8, dtype=torch.uint8)])
    assert as_stored(regions, "float16") is regions
    small = as_stored(regions, "int8")
    assert small.image_side is None
    assert torch.equal(small.boxes, regions.boxes)


class Cosines:
    """Scores regions by their embeddings' own numbers, so that any rounding shows."""

    def label(self, regions: Regions) -> RegionLabels:
        assert regions.text_side is not None
        scores, rows = regions.text_side.float()[:, 0].sigmoid().sort(descending=True)
        return RegionLabels(rows, torch.ones_like(rows), rows > 0, scores)


def test_label_images__int8_regions_are_relabelled_exactly(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 5)
    found = find_images([str(photos)])
    model = StubModel()
    model.labeller = Cosines()  # type: ignore[assignment]
    run = open_labelling_run(tmp_path / "run", found, {"keep_regions": True}, VOCABULARY).folder
    label_images(run, model, LabellingJob(keep_regions=True, region_dtype="int8"))
    model.save_head(run)
    column = read_part(run, "regions", 0).column("text_side")
    assert column.type == pa.list_(pa.int8())
    for (_, stored), name in zip(stored_regions(run, 0), sorted(photos.iterdir()), strict=True):
        pixels = torch.from_numpy(read_image(name).pixels).permute(2, 0, 1)
        (regions,) = model.detector.regions([pixels])
        assert torch.equal(stored.text_side, as_stored(regions, "int8").text_side)
        plain = replace(regions, text_side=regions.text_side.float())
        assert not torch.equal(stored.text_side, plain.text_side)
    relabel_run(run, Cosines(), tmp_path / "again", settings={}, vocabulary=VOCABULARY)
    for one, other in zip(
        iter_labelled_images(run), iter_labelled_images(tmp_path / "again"), strict=True
    ):
        assert [row.score for row in one.labels] == [row.score for row in other.labels]
        assert [row.region for row in one.labels] == [row.region for row in other.labels]
