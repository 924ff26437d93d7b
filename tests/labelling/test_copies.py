from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stub_model import StubModel, draw_images

from vildcli.labelling.copies import find_copies
from vildcli.labelling.label import LabellingJob, Watch, label_images
from vildcli.labelling.plan import Shard, read_plan, units_of
from vildcli.labelling.records import done_units, iter_images, iter_labelled_images, read_part
from vildcli.labelling.run import LabellingRun, open_labelling_run
from vildcli.labelling.sources import FoundImages, find_images
from vildcli.vocabulary.category import Category, Vocabulary

VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """20 images, then copies of two of them and of a file that is no image."""
    folder = draw_images(tmp_path / "photos", 20)
    (folder / "bad.png").write_text("hello")
    for name, original in (("x", "0003"), ("y", "0003"), ("z", "0017"), ("zz", "bad")):
        shutil.copyfile(folder / f"{original}.png", folder / f"{name}.png")
    return folder


def opened(folder: Path, photos: Path, **options: Any) -> LabellingRun:
    return open_labelling_run(folder, find_images([str(photos)]), {}, VOCABULARY, **options)


def copies(found: FoundImages) -> dict[str, str]:
    pairs = find_copies(found.images, lambda image: found.roots[image.source] / image.path)
    return {copy[1]: original[1] for copy, original in pairs.items()}


def test_find_copies__by_bytes_wherever_they_lie(photos: Path) -> None:
    with tarfile.open(photos / "t.tar", "w") as archive:
        archive.add(photos / "0003.png", "a.png")
    (photos / "same-size.png").write_bytes(b"\0" * (photos / "0003.png").stat().st_size)
    (photos / "nowhere.png").symlink_to(photos / "gone.png")
    (photos / "nowhere2.png").symlink_to(photos / "gone.png")
    assert copies(find_images([str(photos)])) == {
        "t.tar#a.png": "0003.png",
        "x.png": "0003.png",
        "y.png": "0003.png",
        "z.png": "0017.png",
        "zz.png": "bad.png",
    }


def test_find_copies__reads_only_what_has_the_size_of_another(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_images([str(photos)])
    Image.new("RGB", (99, 99)).save(photos / "large.png")
    read: list[str] = []
    opening = Path.open

    def watched(self: Path, *rest: Any, **options: Any) -> Any:
        read.append(self.name)
        return opening(self, *rest, **options)

    monkeypatch.setattr(Path, "open", watched)
    copies(found)
    assert "large.png" not in read
    assert "0003.png" in read


def test_plan__copies_get_units_of_their_own(photos: Path, tmp_path: Path) -> None:
    plan = opened(tmp_path / "run", photos, dedupe=True).plan
    assert [image.image_id for image in plan] == list(range(1, 26))
    assert {i.path: i.copy_of for i in plan if i.copy_of} == {
        "x.png": 4, "y.png": 4, "z.png": 18, "zz.png": 21,
    }  # fmt: skip
    by_unit = {u: [i.path for i in images] for u, images in units_of(plan).items()}
    assert [len(images) for images in by_unit.values()] == [16, 5, 4]
    assert by_unit[2] == ["x.png", "y.png", "z.png", "zz.png"]
    assert read_plan(tmp_path / "run") == plan


def without_place(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("image_id", "path", "mtime_ns")}


@pytest.mark.parametrize("keep", [True, False])
def test_label_images__copies_get_the_labels_and_keep_their_row(
    photos: Path, tmp_path: Path, keep: bool
) -> None:
    run = opened(tmp_path / "run", photos, dedupe=True).folder
    whole = opened(tmp_path / "whole", photos).folder
    job, model = LabellingJob(keep_regions=keep), StubModel()
    steps: list[int] = []
    summary = label_images(run, model, job, Watch(advance=steps.append))
    label_images(whole, StubModel(), job)
    assert (summary.images, summary.labelled, summary.failed) == (25, 23, 2)
    assert sum(steps) == 25
    assert sum(map(len, model.detector.batches)) == 20
    for table in ("regions", "labels", "images"):
        ours = [r for u in range(3) for r in read_part(run, table, u).to_pylist()]
        theirs = [r for u in range(2) for r in read_part(whole, table, u).to_pylist()]
        ours.sort(key=lambda row: row["image_id"])
        assert len(ours) == len(theirs)
        assert ours == theirs
    reasons = {image.path: image.reason for image in iter_images(run) if image.reason}
    assert reasons["zz.png"] == ("zz.png: not a readable JPEG, PNG, GIF, BMP, TIFF or WebP image.")
    assert {i.image.path for i in iter_labelled_images(run) if len(i.labels) == 2} >= {"x.png"}


def test_label_images__copies_wait_for_originals_of_another_process(
    photos: Path, tmp_path: Path
) -> None:
    run = opened(tmp_path / "run", photos, dedupe=True).folder
    summary = label_images(run, StubModel(), shard=Shard(1, 2))  # units 0 and 2
    assert done_units(run) == [0]
    assert (summary.images, summary.labelled) == (20, 16)
    label_images(run, StubModel(), shard=Shard(2, 2))
    assert done_units(run) == [0, 1]
    model = StubModel()
    assert label_images(run, model, shard=Shard(1, 2)).resumed == 16
    assert model.detector.batches == []
    assert done_units(run) == [0, 1, 2]


def test_continue__what_was_copied_of_a_changed_file_is_looked_at_again(
    photos: Path, tmp_path: Path
) -> None:
    run = opened(tmp_path / "run", photos, dedupe=True).folder
    label_images(run, StubModel())
    Image.new("RGB", (50, 40), "red").save(photos / "0003.png")
    Image.new("RGB", (30, 40), "red").save(photos / "z.png")
    continued = opened(run, photos)
    assert (continued.changed, continued.left()) == (5, 16 + 4)
    assert not any(image.copy_of for image in continued.plan)
    label_images(run, StubModel())
    widths = {image.path: image.width for image in iter_images(run)}
    assert (widths["0003.png"], widths["x.png"], widths["y.png"], widths["z.png"]) == (
        50,
        24,
        24,
        30,
    )
    assert opened(run, photos).state == "complete"


def test_continue__new_files_may_be_copies_of_planned_ones(photos: Path, tmp_path: Path) -> None:
    run = opened(tmp_path / "run", photos, dedupe=True).folder
    label_images(run, StubModel())
    shutil.copyfile(photos / "x.png", photos / "0.png")
    shutil.copyfile(photos / "x.png", photos / "new.png")
    Image.new("RGB", (50, 40), "red").save(photos / "other.png")
    plan = opened(run, photos, dedupe=True, add_new=True).plan
    assert [(i.image_id, i.path, i.copy_of, i.unit) for i in plan[25:]] == [
        (26, "0.png", 4, 4),
        (27, "new.png", 4, 4),
        (28, "other.png", None, 3),
    ]
    model = StubModel()
    label_images(run, model)
    assert sum(map(len, model.detector.batches)) == 1
    assert opened(run, photos).state == "complete"
