from __future__ import annotations

import os
from pathlib import Path

import pytest
from stub_model import draw_images

from vildcli.errors import NothingToDoError
from vildcli.labelling.sources import FoundImages, find_images


def paths(found: FoundImages) -> list[tuple[str, str]]:
    return [(image.source, image.path) for image in found.images]


def test_find_images__folder_is_walked_and_sorted(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos" / "b", 1)
    draw_images(tmp_path / "photos" / "a" / "deep", 2)
    draw_images(tmp_path / "photos", 1)
    found = find_images([str(tmp_path / "photos")])
    names = ["0000.png", "a/deep/0000.png", "a/deep/0001.png", "b/0000.png"]
    assert paths(found) == [("photos", name) for name in names]
    assert found.roots == {"photos": tmp_path / "photos"}


def test_find_images__content_counts_where_the_suffix_does_not(tmp_path: Path) -> None:
    (draw_images(tmp_path, 1) / "0000.png").rename(tmp_path / "scan")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.JPG").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "more.txt").touch()
    (tmp_path / "README").write_text("hello")
    found = find_images([str(tmp_path)])
    assert [path for _, path in paths(found)] == ["empty.jpg", "scan", "text.JPG"]
    assert found.skipped_text() == "3 files skipped: 2 .txt, 1 without a suffix"


@pytest.mark.parametrize(
    "magic",
    [
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"RIFF1234WEBP",
    ],
)
def test_find_images__knows_formats_by_their_first_bytes(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "x").write_bytes(magic + b"\0" * 16)
    assert paths(find_images([str(tmp_path)])) == [(tmp_path.name, "x")]


def test_find_images__mixes_files_folders_and_globs_without_doubles(tmp_path: Path) -> None:
    draw_images(tmp_path / "a", 2)
    draw_images(tmp_path / "b" / "c", 2)
    sources = [tmp_path / "a" / "0001.png", tmp_path / "a", tmp_path / "b" / "*" / "*0.png"]
    found = find_images([str(source) for source in sources])
    assert paths(found) == [("a", "0000.png"), ("a", "0001.png"), ("b", "c/0000.png")]
    assert found.roots == {"a": tmp_path / "a", "b": tmp_path / "b"}


def test_find_images__roots_called_alike_get_numbers(tmp_path: Path) -> None:
    folders = [draw_images(tmp_path / day / "photos", 1) for day in ("mon", "tue")]
    found = find_images([str(folder) for folder in folders])
    assert paths(found) == [("photos", "0000.png"), ("photos-2", "0000.png")]


def test_find_images__a_link_loop_ends(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", 1)
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos" / "twice").symlink_to(tmp_path / "photos", target_is_directory=True)
    assert paths(find_images([str(tmp_path / "photos")])) == [("photos", "0000.png")]


def test_find_images__a_link_to_nowhere_is_planned_and_a_pipe_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = find_images([str(tmp_path)])
    assert [path for _, path in paths(found)] == ["gone.jpg"]
    assert found.skipped_text() == "1 file skipped: 1 not a regular file"


def test_find_images__run_folders_inside_are_not_entered(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", 1)
    draw_images(tmp_path / "photos" / "run", 1)
    (tmp_path / "photos" / "run" / "run.json").write_text('{"vildcli": "0.1.0"}')
    draw_images(tmp_path / "photos" / "jog", 1)
    (tmp_path / "photos" / "jog" / "run.json").write_text('{"distance": 5}')
    found = find_images([str(tmp_path / "photos")])
    assert [path for _, path in paths(found)] == ["0000.png", "jog/0000.png"]
    assert found.skipped_text() == "1 file skipped: 1 .json; 1 vildcli run folder not entered"


def test_find_images__a_name_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    draw_images(tmp_path, 1)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).touch()
    assert find_images([str(tmp_path)]).skipped_text() == (
        "1 file skipped: 1 with a name that is not UTF-8"
    )


def test_find_images__nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    with pytest.raises(NothingToDoError, match=r"^No image found in docs: it is empty\.$"):
        find_images(["docs"])
    for name in ("a.txt", "b.txt", "c.json"):
        Path("docs", name).touch()
    message = r"^No image found in docs \(3 files skipped: 2 \.txt, 1 \.json\)\.$"
    with pytest.raises(NothingToDoError, match=message):
        find_images(["docs"])
    with pytest.raises(NothingToDoError, match=r"^photos does not exist\.$"):
        find_images(["photos"])
    with pytest.raises(NothingToDoError, match=r"^Nothing matches docs/\*\.jpg\.$"):
        find_images(["docs/*.jpg"])
