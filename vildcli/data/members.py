"""Images that lie in other files: `x.tar#a/b.jpg` in an archive, `v.mp4#t=1.5` in a video.

Archives are never unpacked. Their headers are read once, and each member then at its own offset, so
that a shard of WebDataset is as good as a folder.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock

MARK = "#"
_FRAME = re.compile(r"t=(\d+(?:\.\d+)?)")
_lock = Lock()


@dataclass(frozen=True, slots=True)
class TarMember:
    """Where the bytes of a member lie in its archive."""

    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TarListing:
    """The regular files of an archive.

    Attributes:
        members: by name, in the order of the archive; of members of one name the last one, as tar
            unpacks it.
        others: links and what else has no bytes of its own.
        damage: why the rest of the archive cannot be read; None where all of it can.
    """

    members: Mapping[str, TarMember]
    others: int
    damage: str | None


def split_member(path: Path) -> tuple[Path, str | None]:
    """The file on disk that holds an image, and the image's name in it.

    A file whose own name has a # in it is that file; so is a path where nothing is found.
    """
    text = str(path)
    if MARK not in text or path.exists():
        return path, None
    for mark in re.finditer(MARK, text):
        if Path(text[: mark.start()]).is_file():
            return Path(text[: mark.start()]), text[mark.end() :]
    return path, None


def is_there(path: Path) -> bool:
    """Whether the file on disk that holds an image is there."""
    container, _ = split_member(path)
    return container.exists()


def frame_time(member: str) -> Fraction | None:
    """Seconds of a frame that is called `t=1.5`; None for the name of a member of an archive."""
    match = _FRAME.fullmatch(member)
    return Fraction(match[1]) if match else None


def list_tar(archive: Path) -> TarListing:
    """List an archive by its headers, remembering the last few archives.

    Raises:
        OSError: it cannot be read at all, or it is no archive.
    """
    status = archive.stat()
    with _lock:  # several threads want the same archive at once
        return _list_tar(archive, status.st_size, status.st_mtime_ns)


def member_size(archive: Path, name: str) -> int:
    """Bytes of a member.

    Raises:
        OSError: there is no such member.
    """
    return _member(archive, name).bytes


def read_member(archive: Path, name: str) -> tuple[bytes, int]:
    """Bytes of a member, and when its archive was last changed, nanoseconds since 1970.

    Raises:
        OSError: there is no such member, or the archive ends before it does.
    """
    member = _member(archive, name)
    with archive.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.bytes)
        changed = os.fstat(file.fileno()).st_mtime_ns
    if len(data) < member.bytes:
        raise OSError(0, f"{archive.name} ends before it does")
    return data, changed


def _member(archive: Path, name: str) -> TarMember:
    if (member := list_tar(archive).members.get(name)) is None:
        raise OSError(0, f"{archive.name} has no such member")
    return member


@lru_cache(maxsize=4)
def _list_tar(archive: Path, size: int, mtime_ns: int) -> TarListing:
    members: dict[str, TarMember] = {}
    others, damage = 0, None
    try:
        with archive.open("rb") as bytes_, tarfile.open(fileobj=bytes_, mode="r:") as file:
            while (info := file.next()) is not None:
                file.members.clear()  # type: ignore[attr-defined]  # else all headers are kept
                if info.isreg() and not info.issparse():
                    members[_plain(info.name)] = TarMember(info.offset_data, info.size)
                elif not info.isdir():
                    others += 1
            bytes_.seek(file.offset)
            damage = _why_ended(bytes_.read(tarfile.BLOCKSIZE))
    except tarfile.TarError as error:
        if not members:
            raise OSError(0, "not a readable tar archive") from error
        damage = str(error)
    return TarListing(members, others, damage)


def _why_ended(block: bytes) -> str | None:
    """What is wrong with the block that should end an archive: tarfile takes any for the end."""
    if not block:
        return "it has no end mark"
    return None if block == bytes(tarfile.BLOCKSIZE) else "a damaged header"


def _plain(name: str) -> str:
    """`./a//b.jpg` and `/a/b.jpg` as `a/b.jpg`: what a path makes of them."""
    return PurePosixPath(name.lstrip("/")).as_posix()
