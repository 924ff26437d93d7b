from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vildcli.data import members
from vildcli.data.images import read_image
from vildcli.data.members import (
    TarMember,
    is_there,
    list_tar,
    member_size,
    read_member,
    split_member,
)
from vildcli.errors import DataError


def png(colour: str = "red", size: tuple[int, int] = (6, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, files: dict[str, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_split_member__finds_the_file_on_disk(tmp_path: Path) -> None:
    folder = tmp_path / "c#"
    folder.mkdir()
    archive = tar(folder / "x.tar", {})
    assert split_member(folder / "x.tar#a/b#1.jpg") == (archive, "a/b#1.jpg")
    assert split_member(archive) == (archive, None)
    (folder / "a#b.jpg").touch()
    assert split_member(folder / "a#b.jpg") == (folder / "a#b.jpg", None)
    assert split_member(folder / "gone#b.jpg") == (folder / "gone#b.jpg", None)


def test_is_there(tmp_path: Path) -> None:
    archive = tar(tmp_path / "x.tar", {})
    assert is_there(Path(f"{archive}#a.jpg"))
    assert is_there(archive)
    assert not is_there(tmp_path / "y.tar#a.jpg")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_list_tar__offsets_are_those_of_the_bytes(tmp_path: Path, form: int) -> None:
    long = "d/" * 30 + "long.jpg"
    files = {"./a.jpg": b"1" * 700, "/b//c.jpg": b"22", long: b"333", "empty": b""}
    archive = tar(tmp_path / "x.tar", files, format=form)
    listing = list_tar(archive)
    assert list(listing.members) == ["a.jpg", "b/c.jpg", long, "empty"]
    for (name, member), data in zip(listing.members.items(), files.values(), strict=True):
        assert archive.read_bytes()[member.offset :][: member.bytes] == data
        assert read_member(archive, name) == (data, archive.stat().st_mtime_ns)
        assert member_size(archive, name) == len(data)
    assert (listing.others, listing.damage) == (0, None)


def test_list_tar__the_last_of_a_name_counts_and_links_do_not(tmp_path: Path) -> None:
    archive = tar(tmp_path / "x.tar", {"a": b"old"})
    with tarfile.open(archive, "a") as file:
        info = tarfile.TarInfo("a")
        info.size = 3
        file.addfile(info, io.BytesIO(b"new"))
        link = tarfile.TarInfo("b")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
        folder = tarfile.TarInfo("c")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
    listing = list_tar(archive)
    assert list(listing.members) == ["a"]
    assert listing.others == 1
    assert read_member(archive, "a")[0] == b"new"


BLOCK = 512


@pytest.mark.parametrize(
    ("length", "left", "damage"),
    [
        (3 * 2 * BLOCK, 3, "it has no end mark"),
        (2 * 2 * BLOCK + BLOCK + 100, 3, "unexpected end of data"),
        (2 * 2 * BLOCK + 100, 2, "a damaged header"),
    ],
)
def test_list_tar__of_a_cut_archive_says_so(
    tmp_path: Path, length: int, left: int, damage: str
) -> None:
    archive = tar(tmp_path / "x.tar", {name: b"x" * 300 for name in "abcd"})
    archive.write_bytes(archive.read_bytes()[:length])
    listing = list_tar(archive)
    assert list(listing.members) == list("abcd")[:left]
    assert listing.damage == damage


def test_list_tar__garbage_in_the_middle_is_no_end(tmp_path: Path) -> None:
    archive = tar(tmp_path / "x.tar", {name: b"x" * 300 for name in "abcd"})
    data = bytearray(archive.read_bytes())
    data[2 * BLOCK : 3 * BLOCK] = b"\xff" * BLOCK
    archive.write_bytes(bytes(data))
    assert (list(list_tar(archive).members), list_tar(archive).damage) == (
        ["a"],
        "a damaged header",
    )


def test_list_tar__no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"hello" * 300)
    with pytest.raises(OSError, match="not a readable tar archive"):
        list_tar(tmp_path / "x.tar")


def test_list_tar__is_read_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar(tmp_path / "x.tar", {"a": b"1"})
    list_tar(archive)
    with monkeypatch.context() as patch:
        patch.setattr(members.tarfile, "open", None)
        assert list(list_tar(archive).members) == ["a"]
    tar(archive, {"b": b"1", "c": b"2" * 11_000})
    assert list(list_tar(archive).members) == ["b", "c"]


def test_read_image__of_a_member(tmp_path: Path) -> None:
    data = png("blue")
    archive = tar(tmp_path / "x.tar", {"a/1.json": b"{}", "a/1.png": data})
    image = read_image(Path(f"{archive}#a/1.png"))
    assert image.pixels[0, 0].tolist() == [0, 0, 255]
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert (image.bytes, image.mtime_ns) == (len(data), archive.stat().st_mtime_ns)


def test_read_image__of_a_member_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar(tmp_path / "x.tar", {"a.png": b"hello", "b.png": b"", "c.png": png()})
    archive.write_bytes(archive.read_bytes()[: 4 * BLOCK + 20])
    reasons = {
        "a.png": "not a readable JPEG, PNG, GIF, BMP, TIFF or WebP image.",
        "b.png": "the file is empty.",
        "c.png": "cannot be read (x.tar ends before it does).",
        "d.png": "cannot be read (x.tar has no such member).",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError) as caught:
            read_image(Path(f"{archive}#{name}"), f"x.tar#{name}")
        assert str(caught.value) == f"x.tar#{name}: {reason}"
    monkeypatch.setattr(members, "_member", lambda archive, name: TarMember(0, 3 << 30))
    with pytest.raises(DataError, match=r"the file has 3\.0 GiB; at most 1 GiB is read\.$"):
        read_image(Path(f"{archive}#a.png"))
