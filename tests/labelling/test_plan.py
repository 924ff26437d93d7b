from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vildcli.errors import DataError, RunError
from vildcli.labelling.plan import (
    PLAN_FILE,
    Shard,
    compare_plan,
    image_path,
    make_plan,
    read_plan,
    unit_size,
    units_of,
    write_plan,
)
from vildcli.labelling.sources import FoundImage
from vildcli.runs import open_run


def listed(count: int) -> list[FoundImage]:
    return [FoundImage("photos", f"{i:06d}.jpg", 100 + i, 5) for i in range(count)]


@pytest.mark.parametrize(
    ("images", "size"), [(1, 16), (16_999, 16), (17_000, 17), (100_000, 100), (10**6, 256)]
)
def test_unit_size(images: int, size: int) -> None:
    assert unit_size(images) == size


def test_make_plan__numbers_in_order_and_cuts_units() -> None:
    plan = make_plan(listed(40))
    assert [image.image_id for image in plan] == list(range(1, 41))
    assert [len(images) for images in units_of(plan).values()] == [16, 16, 8]
    assert plan == make_plan(listed(40))


def test_make_plan__appends_in_units_of_their_own() -> None:
    plan = make_plan(listed(20))
    more = make_plan(listed(2), after=plan)
    assert [(image.image_id, image.unit) for image in more] == [(21, 2), (22, 2)]


def test_shard__shards_share_the_units_out() -> None:
    shards = [Shard(i, 3) for i in (1, 2, 3)]
    assert [u for u in range(7) if shards[0].holds(u)] == [0, 3, 6]
    assert all(sum(shard.holds(unit) for shard in shards) == 1 for unit in range(20))


def test_compare_plan() -> None:
    images = listed(4)
    plan = make_plan(images)
    extra = FoundImage("photos", "zz.jpg", 1, 1)
    changes = compare_plan(plan, [images[0], replace(images[1], mtime_ns=6), images[2], extra])
    assert changes.changed == (replace(plan[1], mtime_ns=6),)
    assert changes.vanished == (plan[3],)
    assert changes.new == (extra,)


def test_plan__round_trip(tmp_path: Path) -> None:
    plan = make_plan(listed(20))
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan


def test_read_plan__of_a_newer_format(tmp_path: Path) -> None:
    table = pa.table({"image_id": [1]}).replace_schema_metadata({"format": "2"})
    pq.write_table(table, tmp_path / PLAN_FILE)
    with pytest.raises(RunError) as caught:
        read_plan(tmp_path)
    assert str(caught.value) == f"{tmp_path}/plan.parquet has format 2; this vildcli reads up to 1."
    assert caught.value.hint == "Update vildcli."


def test_read_plan__damaged(tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"plan\.parquet is damaged: "):
        read_plan(tmp_path)


def run_with(folder: Path, **sources: str) -> Path:
    open_run(folder, kind="labelling", settings={}, arguments={"sources": sources})
    return folder


def test_image_path__where_it_was_and_where_it_moved_to(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", photos="/data/photos")
    image = make_plan(listed(1))[0]
    assert image_path(run, image) == Path("/data/photos/000000.jpg")
    assert image_path(run, image, Path("/usb")) == Path("/usb/000000.jpg")


def test_image_path__moved_images_of_several_sources(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", photos="/data/photos", scans="/data/scans")
    image = make_plan(listed(1))[0]
    usb = tmp_path / "usb"
    assert image_path(run, image, usb) == usb / "000000.jpg"
    (usb / "photos").mkdir(parents=True)
    (usb / "photos" / "000000.jpg").touch()
    assert image_path(run, image, usb) == usb / "photos" / "000000.jpg"
