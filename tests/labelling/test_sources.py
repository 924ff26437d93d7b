from __future__ import annotations

import os
import tarfile
from fractions import Fraction
from pathlib import Path

import pytest
from stub_model import draw_images

from vildcli.data.images import read_image
from vildcli.errors import DataError, NothingToDoError
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
    found = find_images([str(tmp_path / "photos")])
    assert paths(found) == [("photos", "0000.png")]
    folder = tmp_path / "photos"
    assert found.repeated == (folder / "again", folder / "twice")
    assert found.skipped_text() == (
        f"2 links to folders that are listed already: {folder}/again, {folder}/twice"
    )


def test_find_images__a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_images(tmp_path / "a", 1)
    for name in "bcdef":
        (tmp_path / name).mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name in "bcdef":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_images([str(tmp_path)])
    assert [path for _, path in paths(found)] == ["a/0000.png"]
    named = ", ".join(f"{tmp_path}/{name} (Permission denied)" for name in "bcd")
    assert found.skipped_text() == f"5 cannot be read: {named} and 2 more"


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


def pack(archive: Path, folder: Path) -> Path:
    """All files below a folder, as `tar -C folder -cf archive .` does it; two blocks a picture."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as file:
        file.add(folder, ".")
    return archive


def test_find_images__archives_hold_images_wherever_they_are_met(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2)
    (photos / "0000.json").write_text("{}")
    (photos / "0001.png").rename(photos / "scan")
    archive = pack(tmp_path / "shards.tar", photos)
    found = find_images([str(archive)])
    assert paths(found) == [
        (tmp_path.name, "shards.tar#0000.png"),
        (tmp_path.name, "shards.tar#scan"),
    ]
    assert found.skipped_text() == "1 file skipped: 1 .json"
    size = (photos / "scan").stat().st_size
    assert (found.images[1].bytes, found.images[1].mtime_ns) == (size, archive.stat().st_mtime_ns)
    pack(photos / "shard", photos)  # known by its bytes
    inside = find_images([str(photos), str(photos / "*")])
    assert [path for _, path in paths(inside)] == [
        "0000.png", "scan", "shard#0000.png", "shard#scan",
    ]  # fmt: skip


def test_find_images__a_damaged_archive_is_listed_up_to_its_damage(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.tar", draw_images(tmp_path / "photos", 4))
    archive.write_bytes(archive.read_bytes()[: 512 + 3 * 1024 - 500])  # "." has a header only
    (tmp_path / "y.tar").write_bytes(b"hello")
    found = find_images([str(tmp_path / "*.tar")])
    assert [path for _, path in paths(found)] == [
        "x.tar#0000.png",
        "x.tar#0001.png",
        "x.tar#0002.png",
    ]
    assert found.skipped_text() == (
        f"2 cannot be read: {archive} beyond its first part (unexpected end of data), "
        f"{tmp_path}/y.tar (not a readable tar archive)"
    )


def test_find_images__a_compressed_archive_is_counted_or_refused(tmp_path: Path) -> None:
    draw_images(tmp_path, 1)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as file:
        file.add(tmp_path / "0000.png", "a.png")
    assert find_images([str(tmp_path)]).skipped_text() == "1 file skipped: 1 compressed tar"
    with pytest.raises(NothingToDoError, match=r"x\.tar\.gz is compressed, so its members cannot"):
        find_images([str(tmp_path / "x.tar.gz")])


def test_find_images__frames_of_a_video_in_the_order_of_time(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [video] is not installed")
    from tiny_video import draw_video

    video = draw_video(tmp_path / "clips" / "v.mp4", frames=12, rate=1)
    (tmp_path / "clips" / "v.mp4.txt").touch()
    draw_images(tmp_path / "clips", 1)
    found = find_images([str(tmp_path / "clips")], every=Fraction("5.5"))
    assert [path for _, path in paths(found)] == [
        "0000.png", "v.mp4#t=0", "v.mp4#t=5.5", "v.mp4#t=11",
    ]  # fmt: skip
    status = video.stat()
    assert (found.images[1].bytes, found.images[1].mtime_ns) == (status.st_size, status.st_mtime_ns)
    found = find_images([str(tmp_path / "clips")])
    assert [path for _, path in paths(found)] == ["0000.png"]
    assert found.skipped_text() == "2 files skipped: 1 .txt, 1 video (--every takes frames)"
    with pytest.raises(NothingToDoError, match=r"v\.mp4 is a video\.$"):
        find_images([str(video)])


def test_find_images__times_are_rounded_so_that_no_frame_is_missed(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [video] is not installed")
    from tiny_video import draw_video, number_of

    video = draw_video(tmp_path / "v.mp4", frames=5, rate=30)
    found = find_images([str(video)], every=Fraction(1, 30))
    assert [path for _, path in paths(found)][:3] == [
        "v.mp4#t=0",
        "v.mp4#t=0.033334",
        "v.mp4#t=0.066667",
    ]
    frames = [read_image(tmp_path / image.path).pixels for image in found.images]
    assert [number_of(frame) for frame in frames] == [0, 1, 2, 3, 4]


def test_find_images__a_damaged_video_becomes_one_record(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [video] is not installed")
    (tmp_path / "v.mp4").write_text("hello")
    found = find_images([str(tmp_path)], every=Fraction(1))
    assert [path for _, path in paths(found)] == ["v.mp4#t=0"]


def test_find_images__one_member_or_frame(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.tar", draw_images(tmp_path / "photos", 2))
    found = find_images([f"{archive}#0001.png", str(archive)])
    assert [path for _, path in paths(found)] == ["x.tar#0000.png", "x.tar#0001.png"]
    with pytest.raises(NothingToDoError) as caught:
        find_images([f"{archive}#gone.png"])
    assert str(caught.value) == f"{archive}#gone.png: x.tar has no such member."
    (tmp_path / "v.mp4").touch()
    assert paths(find_images([f"{tmp_path}/v.mp4#t=2.5"])) == [(tmp_path.name, "v.mp4#t=2.5")]


def test_find_images__a_list_names_anything_relative_to_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    draw_images(tmp_path / "a", 3)
    draw_images(tmp_path / "b", 1)
    elsewhere = draw_images(tmp_path / "other", 1)
    lists = tmp_path / "lists"
    lists.mkdir()
    pack(lists / "x.tar", tmp_path / "b")
    draw_images(lists / "a", 3)
    (lists / "l.txt").write_text(
        f"a/0001.png\n\n  a/gone.jpg \nx.tar\r\n../b\n{elsewhere}/0000.png\na/0001.png\n",
        encoding="utf-8-sig",
    )
    found = find_images([str(lists / "l.txt")])
    below_root = [str(p / "0000.png").lstrip("/") for p in (tmp_path / "b", elsewhere)]
    assert paths(found) == [
        ("lists", "a/0001.png"),
        ("lists", "a/gone.jpg"),
        ("lists", "x.tar#0000.png"),
        *(("root", path) for path in below_root),
    ]
    assert found.roots == {"lists": lists, "root": Path("/")}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("notes.md", "notes.md does not exist."),
        ("https://host/a.jpg", "https://host/a.jpg is an address; only files are read."),
    ],
)
def test_find_images__a_line_that_cannot_be_used(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "l.txt"
    file.write_text(f"\n{line}\n")
    with pytest.raises(DataError) as caught:
        find_images([str(file)])
    assert str(caught.value) == f"{file}, line 2: {said}"


def test_find_images__a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"l\.txt cannot be read as a list: "):
        find_images([str(tmp_path / "l.txt")])
