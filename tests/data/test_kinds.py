from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from vildcli.data.kinds import file_kind


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"GIF89a", "image"),
        (b"BM", "image"),
        (b"II*\0", "image"),
        (b"MM\0*", "image"),
        (b"RIFF1234WEBP", "image"),
        (b"RIFF1234AVI ", "video"),
        (b"RIFF1234WAVE", None),
        (b"\0\0\0\x20ftypisom", "video"),
        (b"\0\0\0\x20ftypqt  ", "video"),
        (b"\0\0\0\x20ftypheic", None),
        (b"\x1aE\xdf\xa3", "video"),
        (tar_bytes(), "tar"),
        (b"hello", None),
        (b"", None),
    ],
)
def test_file_kind__by_the_first_bytes(tmp_path: Path, head: bytes, kind: str | None) -> None:
    (tmp_path / "x").write_bytes(head + b"\0" * 16 * bool(head))
    assert file_kind(tmp_path / "x") == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JPG", "image"),
        ("a.tar", "tar"),
        ("a.tar.gz", "compressed tar"),
        ("a.TGZ", "compressed tar"),
        ("a.mp4", "video"),
        ("a.txt", None),
    ],
)
def test_file_kind__by_the_suffix_where_the_bytes_say_nothing(
    tmp_path: Path, name: str, kind: str | None
) -> None:
    assert file_kind(tmp_path / name) == kind  # not even there
    (tmp_path / name).write_text("hello")
    assert file_kind(tmp_path / name) == kind
