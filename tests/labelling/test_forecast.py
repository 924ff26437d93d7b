from __future__ import annotations

import time
from pathlib import Path

import pytest
from stub_model import REGIONS, StubModel, draw_images

from vildcli.labelling.forecast import try_images
from vildcli.labelling.label import LabellingJob, label_images
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.stored import RegionType
from vildcli.vocabulary.category import Category, Vocabulary

VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))


def test_try_images__measures_the_model_on_images_of_the_run(tmp_path: Path) -> None:
    found = find_images([str(draw_images(tmp_path / "photos", 40))])
    model = StubModel(seconds=0.05)
    begin = time.perf_counter()
    trial = try_images(found, found.images, VOCABULARY, model, LabellingJob(batch_size=4))
    took = time.perf_counter() - begin
    assert [len(batch) for batch in model.detector.batches] == [1, 4]
    assert trial.images == 4
    assert 0.05 <= 4 * trial.seconds_per_image <= took - 0.05  # a warm-up is not counted


def test_try_images__stays_within_its_budget(tmp_path: Path) -> None:
    found = find_images([str(draw_images(tmp_path / "photos", 40))])
    model = StubModel(seconds=0.2)
    job = LabellingJob(batch_size=8)
    assert try_images(found, found.images, VOCABULARY, model, job, budget=0.5).images <= 2


def test_try_images__of_a_run_of_one_image(tmp_path: Path) -> None:
    found = find_images([str(draw_images(tmp_path / "photos", 1))])
    trial = try_images(found, found.images, VOCABULARY, StubModel(), LabellingJob())
    assert trial.images == 1


@pytest.mark.parametrize("kept", ["float16", "int8", None])
def test_try_images__space_is_that_of_the_run(tmp_path: Path, kept: RegionType | None) -> None:
    found = find_images([str(draw_images(tmp_path / "photos", 100))])
    job = LabellingJob(keep_regions=kept is not None, region_dtype=kept or "float16")
    trial = try_images(found, found.images, VOCABULARY, StubModel(), job)
    foretold = trial.space_per_image.times(100)
    total = foretold.records + (foretold.embeddings[kept] if kept else 0)
    run = open_labelling_run(tmp_path / "run", found, {}, VOCABULARY).folder
    label_images(run, StubModel(), job)
    tables = ("regions", "labels", "images")
    written = sum(file.stat().st_size for t in tables for file in (run / t).iterdir())
    # Parts of a few images carry more of what each file begins and ends with.
    assert 0.6 < total / written < 1.4
    assert foretold.embeddings["float16"] > foretold.embeddings["int8"] > 100 * REGIONS * 784 / 2
