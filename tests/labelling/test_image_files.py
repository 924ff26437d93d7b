from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stub_model import StubModel, draw_images

from vildcli.data.images import read_image
from vildcli.errors import DataError
from vildcli.export.names import FileNames
from vildcli.export.selection import Selection
from vildcli.labelling.image_files import file_name, image_file, image_is_there
from vildcli.labelling.label import label_images
from vildcli.labelling.plan import image_path
from vildcli.labelling.records import ImageRecord, iter_images
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.thresholds import view_run
from vildcli.review.sheet import write_contact_sheet
from vildcli.vocabulary.category import Category, Vocabulary

VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of one plain image and an archive with two, one of them without a suffix."""
    photos = draw_images(tmp_path / "photos", 3)
    with tarfile.open(photos / "x.tar", "w") as archive:
        archive.add(photos / "0001.png", "deep/a.png")
        archive.add(photos / "0002.png", "deep/scan")
    for name in ("0001.png", "0002.png"):
        (photos / name).unlink()
    found = find_images([str(photos)])
    folder = open_labelling_run(tmp_path / "run", found, {}, VOCABULARY).folder
    label_images(folder, StubModel())
    return folder


def files(run: Path) -> dict[str, Path]:
    return {
        image.path: image_file(run, image, image_path(run, image)) for image in iter_images(run)
    }


def test_an_archive_is_labelled_as_its_files_would_be(run: Path, tmp_path: Path) -> None:
    plain = draw_images(tmp_path / "plain", 3)
    other = open_labelling_run(tmp_path / "other", find_images([str(plain)]), {}, VOCABULARY).folder
    label_images(other, StubModel())
    for part in ("regions", "labels"):
        ours, theirs = (r / part / "000000.parquet" for r in (run, other))
        assert ours.read_bytes() == theirs.read_bytes()
    images = list(iter_images(run))
    assert [image.path for image in images] == ["0000.png", "x.tar#deep/a.png", "x.tar#deep/scan"]
    assert [image.sha256 for image in images] == [image.sha256 for image in iter_images(other)]


def test_image_file__is_the_image_itself_or_a_copy_of_its_bytes(run: Path, tmp_path: Path) -> None:
    plain = draw_images(tmp_path / "plain", 3)
    found = files(run)
    assert found["0000.png"] == tmp_path / "photos" / "0000.png"
    assert found["x.tar#deep/a.png"].parent == run / "extracted"
    assert found["x.tar#deep/a.png"].suffix == ".png"
    copies = [found["x.tar#deep/a.png"], found["x.tar#deep/scan"]]
    assert [c.read_bytes() for c in copies] == [
        (plain / name).read_bytes() for name in ("0001.png", "0002.png")
    ]
    written = [copy.stat().st_mtime_ns for copy in copies]
    assert files(run) == found
    assert [copy.stat().st_mtime_ns for copy in copies] == written


def test_image_file__of_a_member_that_is_gone(run: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos" / "x.tar", "w") as archive:
        archive.add(tmp_path / "photos" / "0000.png", "b.png")
    with pytest.raises(DataError) as caught:
        files(run)
    assert str(caught.value) == ("x.tar#deep/a.png: cannot be read (x.tar has no such member).")
    (tmp_path / "photos" / "x.tar").unlink()
    assert not image_is_there(tmp_path / "photos" / "x.tar#deep/a.png")


def test_image_file__a_moved_archive_is_found(run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").rename(tmp_path / "usb")
    record = next(image for image in iter_images(run) if "a.png" in image.path)
    place = image_path(run, record, tmp_path / "usb")
    assert read_image(image_file(run, record, place)).sha256 == record.sha256


def test_readers_of_a_run_see_into_archives(run: Path, tmp_path: Path) -> None:
    write_contact_sheet(run, tmp_path / "sheet.png", limit=3)
    selection = Selection(view_run(run))
    names = FileNames(selection)
    records = list(iter_images(run))
    assert [names.image(r) for r in records] == ["0000.png", "x.tar#deep/a.png", "x.tar#deep/scan"]
    assert [selection.path(r).exists() for r in records] == [True] * 3


def test_file_name__of_a_frame_ends_as_its_copy_does() -> None:
    assert file_name("a/v.mp4#t=1.5") == "a/v.mp4#t=1.5.png"
    assert file_name("x.tar#a/b.jpg") == "x.tar#a/b.jpg"
    assert file_name("a.jpg") == "a.jpg"


def test_image_file__of_a_frame(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [video] is not installed")
    from tiny_video import draw_video

    draw_video(tmp_path / "v.mp4")
    place = tmp_path / "v.mp4#t=0.5"
    decoded = read_image(place)
    record = ImageRecord(1, "s", "v.mp4#t=0.5", 48, 32, decoded.sha256, 1, 1, "ok", None)
    copy = image_file(tmp_path / "run", record, place)
    assert copy.name == f"{decoded.sha256}.png"
    assert np.array_equal(np.asarray(Image.open(copy)), decoded.pixels)
