from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stub_model import REGIONS, StubModel, draw_images

from vildcli.data.images import DecodedImage, read_image
from vildcli.errors import RunError
from vildcli.export.coco import export_coco
from vildcli.export.selection import Selection
from vildcli.labelling import label
from vildcli.labelling.label import LabellingJob, Watch, label_images
from vildcli.labelling.plan import Shard
from vildcli.labelling.records import (
    done_units,
    iter_images,
    iter_labelled_images,
    part_path,
    read_part,
)
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.thresholds import view_run
from vildcli.vocabulary.category import Category, Vocabulary

KEEP = LabellingJob(keep_regions=True)
VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))


def opened(folder: Path, photos: Path, **options: Any) -> Path:
    settings = StubModel().settings
    return open_labelling_run(
        folder, find_images([str(photos)]), settings, VOCABULARY, **options
    ).folder


def parts(run: Path) -> dict[str, str]:
    """Hash of every part, by its place in the run."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob("*/[0-9]*.parquet"))
    }


def test_label_images__writes_what_the_model_says(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 3)
    model = StubModel()
    run = opened(tmp_path / "run", photos)
    watch = Watch()
    summary = label_images(run, model, watch=watch, skipped=2)
    assert (summary.images, summary.labelled, summary.failed) == (3, 3, 0)
    assert (summary.skipped, summary.resumed, summary.labels) == (2, 0, 6)
    assert summary.run == str(run)
    assert summary.peak_rss_mib > 10
    assert watch.seconds.write > 0
    for stored in iter_labelled_images(run):
        pixels = read_image(photos / stored.image.path).pixels
        (regions,) = model.detector.regions([torch.from_numpy(pixels).permute(2, 0, 1)])
        named = model.labeller.label(regions)
        assert (stored.image.width, stored.image.height) == (24, 16)
        assert [row.region for row in stored.labels] == named.regions.tolist() == [0, 2]
        assert [row.category_id for row in stored.labels] == named.category_ids.tolist()
        assert [row.score for row in stored.labels] == named.scores.tolist()
        assert stored.labels[0].image_score is None
        assert stored.labels[1].box == tuple(regions.boxes[2].tolist())
        assert np.array_equal(stored.labels[1].mask, regions.masks[2].numpy())


def test_label_images__keeps_labelled_regions_without_or_all_with_embeddings(
    tmp_path: Path,
) -> None:
    photos = draw_images(tmp_path / "photos", 1)
    few = opened(tmp_path / "few", photos)
    label_images(few, StubModel())
    rows = read_part(few, "regions", 0).to_pylist()
    assert [row["region"] for row in rows] == [0, 2]
    assert [row["text_side"] for row in rows] == [None, None]
    every = opened(tmp_path / "every", photos)
    label_images(every, StubModel(), KEEP)
    rows = read_part(every, "regions", 0).to_pylist()
    assert [row["region"] for row in rows] == list(range(REGIONS))
    pixels = torch.from_numpy(read_image(photos / "0000.png").pixels).permute(2, 0, 1)
    (regions,) = StubModel().detector.regions([pixels])
    assert regions.text_side is not None
    stored = torch.tensor([row["text_side"] for row in rows], dtype=torch.float16)
    assert torch.equal(stored, regions.text_side)
    assert parts(few)["labels/000000.parquet"] == parts(every)["labels/000000.parquet"]


def test_label_images__a_bad_image_is_a_row_with_its_reason(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2)
    (photos / "0000a.jpg").touch()
    (photos / "text.jpg").write_text("hello")
    run = opened(tmp_path / "run", photos)
    summary = label_images(run, StubModel())
    assert (summary.images, summary.labelled, summary.failed) == (4, 2, 2)
    failed = [image for image in iter_images(run) if image.status == "failed"]
    assert [(image.image_id, image.reason) for image in failed] == [
        (2, "0000a.jpg: the file is empty."),
        (4, "text.jpg: not a readable JPEG, PNG, GIF, BMP, TIFF or WebP image."),
    ]


def test_label_images__an_image_without_regions_is_ok(tmp_path: Path) -> None:
    run = opened(tmp_path / "run", draw_images(tmp_path / "photos", 1, size=(1, 1)))
    summary = label_images(run, StubModel(), KEEP)
    assert (summary.labelled, summary.labels) == (1, 0)
    assert [stored.labels for stored in iter_labelled_images(run)] == [()]


def test_label_images__a_file_that_vanished_is_a_failed_row(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2)
    run = opened(tmp_path / "run", photos)
    (photos / "0001.png").unlink()
    assert label_images(run, StubModel()).failed == 1
    reasons = [image.reason for image in iter_images(run)]
    assert reasons == [None, "0001.png: cannot be read (No such file or directory)."]


def test_label_images__a_batch_never_crosses_a_unit(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 37)
    (photos / "0003.png").write_bytes(b"")
    model = StubModel()
    label_images(opened(tmp_path / "run", photos), model, LabellingJob(batch_size=6))
    assert [len(batch) for batch in model.detector.batches] == [6, 6, 3, 6, 6, 4, 5]


def test_label_images__an_error_of_the_model_is_not_swallowed(tmp_path: Path) -> None:
    class Broken(StubModel):
        def __init__(self) -> None:
            super().__init__()
            self.detector.regions = self.fail  # type: ignore[method-assign]

        def fail(self, images: Any) -> Any:
            raise RuntimeError("weights are nonsense")

    run = opened(tmp_path / "run", draw_images(tmp_path / "photos", 2))
    with pytest.raises(RuntimeError, match="weights are nonsense"):
        label_images(run, Broken())
    assert done_units(run) == []


def test_label_images__interrupted_and_continued_equals_unbroken(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 40)
    whole = opened(tmp_path / "whole", photos)
    label_images(whole, StubModel(), KEEP)
    broken = opened(tmp_path / "broken", photos)

    def stop(images: int) -> None:
        if done_units(broken):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_images(broken, StubModel(), KEEP, Watch(advance=stop))
    assert done_units(broken) == [0]
    summary = label_images(broken, StubModel(), KEEP)
    assert (summary.images, summary.resumed, summary.labels) == (40, 16, 80)
    assert parts(broken) == parts(whole)


def test_label_images__a_lost_part_of_a_done_unit_is_made_again(tmp_path: Path) -> None:
    run = opened(tmp_path / "run", draw_images(tmp_path / "photos", 20))
    label_images(run, StubModel())
    before = parts(run)
    part_path(run, "labels", 1).unlink()
    assert label_images(run, StubModel()).resumed == 16
    assert parts(run) == before


def test_label_images__shards_make_the_same_parts(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 40)
    whole = opened(tmp_path / "whole", photos)
    label_images(whole, StubModel())
    shared = opened(tmp_path / "shared", photos)
    summary = label_images(shared, StubModel(), shard=Shard(2, 2))
    assert (summary.images, done_units(shared)) == (16, [1])
    label_images(shared, StubModel(), shard=Shard(1, 2))
    assert parts(shared) == parts(whole)


def test_label_images__a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    run = opened(tmp_path / "run", draw_images(tmp_path / "photos", 1))
    (run / "labels").write_text("in the way")
    with pytest.raises(RunError) as caught:
        label_images(run, StubModel())
    assert str(caught.value) == f"{run} cannot be written: File exists."


def test_label_images__reports_progress(tmp_path: Path) -> None:
    run = opened(tmp_path / "run", draw_images(tmp_path / "photos", 20))
    steps: list[int] = []
    label_images(run, StubModel(), watch=Watch(advance=steps.append))
    assert steps == [8, 8, 4]


def test_label_images__decoded_images_are_few_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[weakref.ref[Any]] = []
    most = 0

    def alive() -> int:
        return sum(pixels() is not None for pixels in decoded)

    def counted(path: Path, name: str) -> DecodedImage:
        nonlocal most
        image = read_image(path, name)
        decoded.append(weakref.ref(image.pixels))
        most = max(most, alive())
        return image

    monkeypatch.setattr(label, "read_image", counted)

    class Patient(StubModel):
        """Its first batch takes until the decoders are ahead, however busy the machine is."""

        def __init__(self) -> None:
            super().__init__()
            first, patience = self.detector.regions, time.monotonic() + 60

            def regions(images: Any) -> Any:
                while most <= 4 and time.monotonic() < patience:
                    time.sleep(0.001)
                return first(images)

            self.detector.regions = regions  # type: ignore[method-assign]

    run = opened(tmp_path / "run", draw_images(tmp_path / "photos", 40))
    label_images(run, Patient(), LabellingJob(batch_size=4, workers=3))
    gc.collect()
    assert 4 < most <= 4 + 3 + 4 + 1  # ahead of the model, its batch, and the one being handed over
    assert alive() == 0


KILLER = """
import os, random, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
import vildcli.labelling.records as records
from stub_model import StubDetector, StubModel
from vildcli.labelling.label import LabellingJob, label_images
torch.set_num_threads(1)
run, random = Path(sys.argv[2]), random.Random(0)
job = LabellingJob(keep_regions=True, batch_size=4)

def die_at(step):
    passed = 0
    def watched(function, half_written=False):
        def call(*arguments, **options):
            nonlocal passed
            passed += 1
            if passed == step:
                if half_written:
                    function(*arguments, **options)
                    os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    StubDetector.regions = watched(StubDetector.regions)
    records.pq.write_table = watched(records.pq.write_table, half_written=True)
    os.fsync, os.replace = watched(os.fsync), watched(os.replace)

for attempt in range(11):
    child = os.fork()
    if child == 0:
        if attempt < 10:
            die_at(random.randrange(1, 25))
        label_images(run, StubModel(), job)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) != (attempt < 10):
        sys.exit(f"attempt {attempt}: {status}")
"""


def in_another_process(run: Path, script: str) -> None:
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", script, tests, str(run)], check=True, timeout=400)


@pytest.mark.slow
def test_label_images__killed_at_any_point_equals_unbroken(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 320)
    whole = opened(tmp_path / "whole", photos)
    label_images(whole, StubModel(), LabellingJob(keep_regions=True, batch_size=4))
    killed = opened(tmp_path / "killed", photos)
    in_another_process(killed, KILLER)
    assert parts(killed) == parts(whole)
    for run in (whole, killed):
        export_coco(Selection(view_run(run, conf=0.0)), tmp_path / f"{run.name}.json")
    exported = [(tmp_path / f"{name}.json").read_bytes() for name in ("whole", "killed")]
    assert exported[0] == exported[1]
