"""A file of its own for every image of a run, for programs that know no `x.tar#a.jpg`. No torch."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from PIL import Image

from vildcli.data.images import read_image
from vildcli.data.kinds import IMAGE_SUFFIXES
from vildcli.data.members import frame_time, is_there, read_member, split_member
from vildcli.errors import DataError, RunError
from vildcli.labelling.records import ImageRecord
from vildcli.runs import write_atomically

EXTRACTED_FOLDER = "extracted"


def image_is_there(path: Path) -> bool:
    """Whether the file is there that an image of `image_path` is, or lies in."""
    return is_there(path)


def image_file(run: Path, image: ImageRecord, path: Path) -> Path:
    """The file of an image, or a copy of what lies in an archive or a video.

    Copies are made once, in the run's `extracted/`, and are called by the hash of the image: bytes
    of an archive's member as they are, frames as PNG.

    Args:
        path: where the image is, by `image_path`.

    Raises:
        DataError: it cannot be read any more.
        RunError: the run cannot be written.
    """
    container, member = split_member(path)
    return path if member is None else _extracted(run, image, path, container, member)


def file_name(path: str) -> str:
    """What an image's file is called: of a frame, `v.mp4#t=1.5.png`."""
    _, _, member = path.rpartition("#")
    return f"{path}.png" if frame_time(member) is not None else path


def _extracted(run: Path, image: ImageRecord, path: Path, container: Path, member: str) -> Path:
    suffix = PurePosixPath(file_name(f"#{member}")).suffix.lower()
    copy = run / EXTRACTED_FOLDER / f"{image.sha256}{suffix if suffix in IMAGE_SUFFIXES else ''}"
    if copy.exists():
        return copy
    try:
        if frame_time(member) is not None:
            pixels = Image.fromarray(read_image(path, image.path).pixels)
            write_atomically(copy, lambda beside: pixels.save(beside, "PNG"))
        else:
            data, _ = _read_member(container, member, image.path)
            write_atomically(copy, lambda beside: _write_bytes(beside, data))
    except OSError as error:
        raise RunError(f"{run} cannot be written: {error.strerror or error}.") from error
    return copy


def _read_member(container: Path, member: str, name: str) -> tuple[bytes, int]:
    try:
        return read_member(container, member)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}).") from error


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)
