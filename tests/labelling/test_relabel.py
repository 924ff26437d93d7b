from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from stub_model import StubLabeller, StubModel, draw_images

from vildcli.data.images import read_image
from vildcli.errors import RunError
from vildcli.labelling.label import LabellingJob, label_images
from vildcli.labelling.records import iter_labelled_images, part_path
from vildcli.labelling.relabel import relabel_run, stored_regions
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.summary import LabellingSummary
from vildcli.runs import read_run, write_json
from vildcli.vocabulary.category import Category, Vocabulary

VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))


def detected(folder: Path, keep_regions: bool = True) -> Path:
    photos = draw_images(folder / "photos", 20)
    draw_images(folder / "photos" / "dots", 1, size=(1, 1))
    found = find_images([str(photos)])
    settings = {"names": "fruit", "keep_regions": keep_regions}
    run = open_labelling_run(folder / "run", found, settings, VOCABULARY).folder
    model = StubModel()
    label_images(run, model, LabellingJob(keep_regions=keep_regions))
    if keep_regions:
        model.save_head(run)
    return run


def relabelled(run: Path, out: Path, names: str = "fruit", categories: int = 2) -> LabellingSummary:
    labeller = StubLabeller(categories)
    return relabel_run(run, labeller, out, settings={"names": names}, vocabulary=VOCABULARY)


def test_relabel__the_same_labeller_gives_the_same_bytes(tmp_path: Path) -> None:
    run = detected(tmp_path)
    summary = relabelled(run, tmp_path / "again")
    assert (summary.images, summary.labelled, summary.labels, summary.resumed) == (21, 21, 40, 0)
    for unit in range(2):
        for table in ("regions", "labels", "images"):
            old, new = (part_path(r, table, unit) for r in (run, tmp_path / "again"))
            assert old.read_bytes() == new.read_bytes()
    assert relabelled(run, tmp_path / "again").resumed == 21


def test_relabel__another_labeller_keeps_images_and_regions(tmp_path: Path) -> None:
    run = detected(tmp_path)
    relabelled(run, tmp_path / "other", names="one", categories=1)
    old, new = (list(iter_labelled_images(r)) for r in (run, tmp_path / "other"))
    assert [image.image for image in old] == [image.image for image in new]
    assert [[row.box for row in image.labels] for image in old] == [
        [row.box for row in image.labels] for image in new
    ]
    assert {row.category_id for image in new for row in image.labels} == {1}
    assert {row.category_id for image in old for row in image.labels} == {1, 2}


def test_relabel__a_relabelled_run_can_be_relabelled(tmp_path: Path) -> None:
    run = detected(tmp_path)
    relabelled(run, tmp_path / "one", names="one", categories=1)
    relabelled(tmp_path / "one", tmp_path / "back")
    assert part_path(run, "labels", 0).read_bytes() == (
        part_path(tmp_path / "back", "labels", 0).read_bytes()
    )


def test_relabel__says_what_made_the_regions(tmp_path: Path) -> None:
    """As detect would say it; what decides names is the new labeller's alone."""
    run = detected(tmp_path)
    header = read_run(run, "labelling")
    of_regions = {
        "system": "vild", "model": "abc", "regions": 30, "tile": [800, 0.2], "region_dtype": "int8",
    }  # fmt: skip
    header["settings"] |= {**of_regions, "context": "none", "roll_up": [0.5, []]}
    write_json(run / "run.json", header)
    relabelled(run, tmp_path / "one")
    relabelled(tmp_path / "one", tmp_path / "two")
    for out in ("one", "two"):
        assert read_run(tmp_path / out, "labelling")["settings"] == {
            **of_regions,
            "names": "fruit",
            "keep_regions": True,
            "regions_of": header["fingerprint"],
            "record_format": 1,
        }


def test_relabel__works_where_links_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Path) -> None:
        raise OSError("cross-device link")

    run = detected(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    assert relabelled(run, tmp_path / "again").labels == 40


def test_relabel__needs_stored_embeddings(tmp_path: Path) -> None:
    run = detected(tmp_path, keep_regions=False)
    with pytest.raises(RunError) as caught:
        relabelled(run, tmp_path / "again")
    assert str(caught.value) == f"{run} has no stored region embeddings."


def test_relabel__never_into_itself(tmp_path: Path) -> None:
    run = detected(tmp_path)
    with pytest.raises(RunError, match=r"run is the run to relabel\.$"):
        relabelled(run, run)


def test_stored_regions__are_those_of_the_detector(tmp_path: Path) -> None:
    run = detected(tmp_path)
    found = list(stored_regions(run, 0))
    assert [image_id for image_id, _ in found] == list(range(1, 17))
    for image_id, stored in found:
        pixels = read_image(tmp_path / "photos" / f"{image_id - 1:04d}.png").pixels
        (regions,) = StubModel().detector.regions([torch.from_numpy(pixels).permute(2, 0, 1)])
        assert stored.image_side is None
        for name in ("boxes", "proposals", "objectness", "masks", "text_side"):
            assert torch.equal(getattr(stored, name), getattr(regions, name))


def test_stored_regions__of_float16_have_no_dictionary(tmp_path: Path) -> None:
    """It would take four times as long to read them."""
    run = detected(tmp_path)
    group = pq.ParquetFile(part_path(run, "regions", 0)).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    plain = {c.path_in_schema for c in columns if not c.has_dictionary_page}
    assert "text_side.list.element" in plain
    assert plain.isdisjoint({"image_id", "box.list.element", "mask"})


def test_stored_regions__of_a_unit_without_any(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2, size=(1, 1))
    found = find_images([str(photos)])
    run = open_labelling_run(tmp_path / "run", found, {}, VOCABULARY).folder
    label_images(run, StubModel(), LabellingJob(keep_regions=True))
    assert list(stored_regions(run, 0)) == []
