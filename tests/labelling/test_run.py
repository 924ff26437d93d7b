from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from stub_model import StubModel, draw_images

from vildcli.errors import RunError
from vildcli.labelling.label import label_images
from vildcli.labelling.plan import image_path, read_plan, write_plan
from vildcli.labelling.records import SCHEMAS, done_units, iter_images, part_path, read_part
from vildcli.labelling.run import LabellingRun, check_out, open_labelling_run, write_failures
from vildcli.labelling.sources import find_images
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary

VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(7, "pear", threshold=0.4)))


def opened(folder: Path, photos: Path, floor: float = 0.01, **options: Any) -> LabellingRun:
    found = find_images([str(photos)])
    return open_labelling_run(folder, found, {"floor": floor}, VOCABULARY, **options)


def labelled(folder: Path, photos: Path) -> Path:
    label_images(opened(folder, photos).folder, StubModel())
    return folder


def test_open__new_continued_complete(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 20)
    run = opened(tmp_path / "run", photos)
    assert (run.state, run.left(), run.done_units) == ("new", 20, frozenset())
    label_images(run.folder, StubModel())
    part_path(run.folder, "images", 1).unlink()
    run = opened(tmp_path / "run", photos)
    assert (run.state, run.left()) == ("continued", 4)
    label_images(run.folder, StubModel())
    assert opened(tmp_path / "run", photos).state == "complete"


def test_open__writes_what_a_reader_needs(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 1)
    run = opened(tmp_path / "run", photos, arguments={"batch": 8}).folder
    header = json.loads((run / "run.json").read_text())
    assert header["settings"] == {"floor": 0.01, "record_format": 1}
    assert header["arguments"] == {"batch": 8, "sources": {"photos": str(photos)}}
    assert load_vocabulary(str(run / "vocabulary.yaml")).categories == VOCABULARY.categories


def test_open__an_interrupted_start_is_completed(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 1)
    run = opened(tmp_path / "run", photos).folder
    (run / "plan.parquet").unlink()
    (run / "vocabulary.yaml").unlink()
    assert opened(run, photos).left() == 1
    assert (run / "vocabulary.yaml").exists()


def test_open__another_setting_is_refused_by_name(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 1)
    opened(tmp_path / "run", photos)
    with pytest.raises(RunError) as caught:
        opened(tmp_path / "run", photos, floor=0.2)
    assert str(caught.value) == (
        f"{tmp_path}/run holds a run with other settings (floor: 0.01 there, 0.2 now)."
    )


def test_open__other_sources_are_refused(tmp_path: Path) -> None:
    photos, scans = (draw_images(tmp_path / name, 1) for name in ("photos", "scans"))
    opened(tmp_path / "run", photos)
    with pytest.raises(RunError) as caught:
        opened(tmp_path / "run", scans)
    assert str(caught.value) == (
        f"{tmp_path}/run labels other sources ({photos} there, {scans} now)."
    )


def test_open__a_newer_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 1)
    run = labelled(tmp_path / "run", photos)
    part = part_path(run, "labels", 0)
    table = pq.read_table(part).replace_schema_metadata({"format": "9"})
    pq.write_table(table, part)
    with pytest.raises(RunError) as caught:
        read_part(run, "labels", 0)
    assert str(caught.value) == f"{part} has format 9; this vildcli reads up to 1."
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**header, "format": 9}))
    with pytest.raises(RunError) as caught:
        opened(run, photos)
    assert str(caught.value) == f"{run}/run.json has format 9; this vildcli reads up to 1."


def test_force__deletes_a_run_but_nothing_foreign(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 1)
    run = labelled(tmp_path / "run", photos)
    assert opened(run, photos, floor=0.2, force=True).state == "new"
    assert done_units(run) == []
    foreign = draw_images(tmp_path / "foreign", 1)
    for content in (None, "{}", "[]", "no JSON"):
        if content:
            (foreign / "run.json").write_text(content)
        with pytest.raises(RunError, match=r"foreign was not made by vildcli, so --force does not"):
            opened(foreign, photos, force=True)
    assert (foreign / "0000.png").exists()


def test_force__never_deletes_the_images_to_label(tmp_path: Path) -> None:
    run = labelled(tmp_path / "run", draw_images(tmp_path / "photos", 1))
    photos = draw_images(run / "photos", 1)
    with pytest.raises(RunError, match=r"holds the images themselves .* does not delete it\.$"):
        opened(run, photos, force=True)
    assert (photos / "0000.png").exists()


def test_continue__a_changed_image_redoes_its_unit_only(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 40)
    run = labelled(tmp_path / "run", photos)
    written = {unit: part_path(run, "labels", unit).stat().st_mtime_ns for unit in range(3)}
    Image.new("RGB", (50, 40), "red").save(photos / "0020.png")
    continued = opened(run, photos)
    assert (continued.state, continued.changed, continued.left()) == ("continued", 1, 16)
    assert done_units(run) == [0, 2]
    label_images(run, StubModel())
    again = {unit: part_path(run, "labels", unit).stat().st_mtime_ns for unit in range(3)}
    assert [again[unit] != written[unit] for unit in range(3)] == [False, True, False]
    assert [image.width for image in iter_images(run)][20] == 50
    assert opened(run, photos).state == "complete"


def test_continue__new_files_are_reported_and_appended_only_when_asked(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 20)
    run = labelled(tmp_path / "run", photos)
    ids = {image.path: image.image_id for image in read_plan(run)}
    Image.new("RGB", (8, 8)).save(photos / "000.png")  # sorts first
    reported = opened(run, photos)
    assert (reported.state, reported.new, reported.added) == ("complete", 1, 0)
    assert len(read_plan(run)) == 20
    added = opened(run, photos, add_new=True)
    assert (added.state, added.new, added.added, added.left()) == ("continued", 0, 1, 1)
    assert label_images(run, StubModel()).resumed == 20
    assert {image.path: image.image_id for image in iter_images(run)} == {**ids, "000.png": 21}


def test_continue__limit_says_how_many_images_a_run_may_have(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 5)
    assert len(opened(tmp_path / "run", photos, limit=2).plan) == 2
    assert opened(tmp_path / "run", photos, limit=2).new == 0
    assert opened(tmp_path / "run", photos).new == 3
    assert len(opened(tmp_path / "run", photos, limit=4, add_new=True).plan) == 4


def test_continue__a_vanished_file_of_a_done_unit_keeps_its_labels(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 3)
    run = labelled(tmp_path / "run", photos)
    (photos / "0001.png").unlink()
    continued = opened(run, photos)
    assert (continued.state, continued.vanished) == ("complete", 1)
    assert [image.status for image in iter_images(run)] == ["ok"] * 3


def test_a_moved_run_is_read_with_its_moved_images(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2)
    run = labelled(tmp_path / "run", photos)
    shutil.move(run, tmp_path / "elsewhere")
    shutil.move(photos, tmp_path / "album")
    run = tmp_path / "elsewhere"
    files = [image_path(run, image, tmp_path / "album") for image in iter_images(run)]
    assert files == [tmp_path / "album" / name for name in ("0000.png", "0001.png")]
    assert all(file.exists() for file in files)


def test_check_out(tmp_path: Path) -> None:
    check_out(tmp_path / "new" / "run")
    draw_images(tmp_path / "full", 1)
    with pytest.raises(RunError, match=r"full is not a labelling run: it has no run\.json\.$"):
        check_out(tmp_path / "full")
    with pytest.raises(RunError, match=r"0000\.png is not a folder\.$"):
        check_out(tmp_path / "full" / "0000.png" / "run")


def test_check_out__read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunError) as caught:
        check_out(tmp_path / "run")
    assert str(caught.value) == f"{tmp_path}/run cannot be written: no permission to write."


def test_open__a_folder_that_turns_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RunError) as caught:
        opened(tmp_path / "run", draw_images(tmp_path / "photos", 1))
    assert str(caught.value) == f"{tmp_path}/run cannot be written: Permission denied."


def test_write_failures(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 1)
    (photos / "empty.jpg").touch()
    run = labelled(tmp_path / "run", photos)
    assert [image.path for image in write_failures(run)] == ["empty.jpg"]
    (line,) = (run / "failed.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "image_id": 2,
        "source": "photos",
        "path": "empty.jpg",
        "reason": "empty.jpg: the file is empty.",
    }


def test_every_part_has_its_schema(tmp_path: Path) -> None:
    run = labelled(tmp_path / "run", draw_images(tmp_path / "photos", 1))
    for table, schema in SCHEMAS.items():
        assert read_part(run, table, 0).schema.equals(schema)


def test_open__beside_another_process_that_is_just_starting(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.4711.json").touch()
    assert opened(tmp_path / "run", draw_images(tmp_path / "photos", 1)).state == "new"


def test_open__other_frames_of_a_video_are_refused(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 1)
    (photos / "v.mp4").touch()

    def opened_every(seconds: str) -> LabellingRun:
        found = find_images([str(photos)], every=Fraction(seconds))
        return open_labelling_run(tmp_path / "run", found, {}, VOCABULARY)

    assert [image.path for image in opened_every("0.5").plan] == ["0000.png", "v.mp4#t=0"]
    assert opened_every("1/2").state == "continued"
    with pytest.raises(RunError) as caught:
        opened_every("2")
    assert str(caught.value) == (
        f"{tmp_path}/run labels other frames (every 1/2 s there, every 2 s now)."
    )


def test_open__the_first_of_two_processes_decides_the_plan(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2)
    run = opened(tmp_path / "run", photos).folder
    plan = read_plan(run)
    write_plan(run, plan[:1], first=True)
    assert read_plan(run) == plan
    write_plan(run, plan[:1])
    assert read_plan(run) == plan[:1]
    assert not list(run.glob(".*"))


def test_open__unwanted_images_are_neither_planned_nor_new(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 5)
    some = {"0001.png", "0003.png"}
    first = opened(tmp_path / "run", photos, wanted=lambda image: image.path in some)
    assert [image.path for image in first.plan] == sorted(some)
    later = opened(tmp_path / "run", photos, wanted=lambda image: image.path == "0004.png")
    assert (later.new, later.vanished, len(later.plan)) == (1, 0, 2)
    added = opened(
        tmp_path / "run", photos, wanted=lambda image: image.path == "0004.png", add_new=True
    )
    assert [image.path for image in added.plan] == ["0001.png", "0003.png", "0004.png"]
