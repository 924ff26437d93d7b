"""What a file is, by its suffix or its first bytes: an image, a tar archive, a video. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["image", "tar", "compressed tar", "video"]

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp")
)
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv")
)
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
HEAD = 264  # bytes of a file that tell what it is
_IMAGE_MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\x00",  # TIFF, little endian
    b"MM\x00*",  # TIFF, big endian
)
_VIDEO_MAGIC = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x01\xba",  # MPEG
    b"FLV\x01",
)
# Brands of the container of MP4 that are still pictures or sound.
_NO_VIDEO_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"M4A ", b"M4B ")


def file_kind(path: Path) -> Kind | None:
    """What a file is; None for all that holds no images, or cannot be opened.

    The suffix of an image is believed, so that a damaged one becomes a record and not a file that
    was passed over.
    """
    name = path.name.lower()
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return "image"
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        head = b""
    if kind := kind_of_bytes(head):
        return kind
    if name.endswith(COMPRESSED_TARS):
        return "compressed tar"
    if name.endswith(".tar"):
        return "tar"
    return "video" if path.suffix.lower() in VIDEO_SUFFIXES else None


def kind_of_bytes(head: bytes) -> Kind | None:
    """What the first `HEAD` bytes of a file say that it is."""
    if head.startswith(_IMAGE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head[257:262] == b"ustar":
        return "tar"
    is_mp4 = head[4:8] == b"ftyp" and head[8:12] not in _NO_VIDEO_BRANDS
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return "video" if is_mp4 or is_avi or head.startswith(_VIDEO_MAGIC) else None
