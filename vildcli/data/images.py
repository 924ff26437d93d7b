"""One image to upright 8-bit RGB pixels, or to a reason why not. No torch.

    a.jpg            a file
    x.tar#a/b.jpg    a member of a tar archive
    v.mp4#t=1.5      what a video shows one and a half seconds after its first frame

It is read once: hash and pixels come from the same bytes. Whatever is wrong with one image ends as
a `DataError` that fits in a record; a run goes on.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vildcli.data.members import frame_time, member_size, read_member, split_member
from vildcli.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP")
MAX_BYTES = 1 << 30  # a larger file is refused unread: workers hold several at once
# Set for the process, not by catch_warnings: that swaps global state, which threads must not do.
_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image and what it came from.

    Attributes:
        pixels: [H, W, 3] uint8 RGB, upright (EXIF orientation applied).
        width, height: of the upright image.
        sha256: of the file's or the member's bytes, of a frame's pixels; hexadecimal.
        bytes: of the file or the member; of a frame its video's.
        mtime_ns: of the file on disk.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    sha256: str
    bytes: int
    mtime_ns: int


def read_image(path: Path, name: str | None = None) -> DecodedImage:
    """Read and decode one image; of an animation, the first frame.

    Transparent pixels are shown on white. 16-bit values are scaled by 1/257; 32-bit and float
    values, which have no fixed range, from their smallest and largest.

    Args:
        path: the file, or a part of one, as above.
        name: what messages call it; default the path itself.

    Raises:
        DataError: it cannot be read or decoded; one line that names it.
        MissingDependencyError: it is a frame of a video, and PyAV is not installed.
    """
    name = str(path) if name is None else name
    container, member = split_member(path)
    if member is not None and (time := frame_time(member)) is not None:
        return _read_frame(container, time, name)
    try:
        data, mtime_ns = _read_bytes(container, member, name)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}).") from error
    return _decoded(_decode(data, name), data, len(data), mtime_ns)


def _read_bytes(container: Path, member: str | None, name: str) -> tuple[bytes, int]:
    """Bytes of a file or of a member of it, and when the file was last changed."""
    if member is not None:
        _refuse_size(name, member_size(container, member))
        return read_member(container, member)
    with container.open("rb") as file:
        status = os.fstat(file.fileno())
        _refuse_size(name, status.st_size)
        return file.read(), status.st_mtime_ns


def _read_frame(video: Path, time: Fraction, name: str) -> DecodedImage:
    from vildcli.data.videos import read_frame

    try:
        status = video.stat()
        pixels = read_frame(video, time)
    except DataError as error:
        reason = str(error).removeprefix(f"{video}: ")
        raise DataError(f"{name}: {reason}") from error
    return _decoded(pixels, pixels.tobytes(), status.st_size, status.st_mtime_ns)


def _decoded(pixels: NDArray[np.uint8], hashed: bytes, size: int, mtime_ns: int) -> DecodedImage:
    return DecodedImage(
        pixels=pixels,
        width=pixels.shape[1],
        height=pixels.shape[0],
        sha256=hashlib.sha256(hashed).hexdigest(),
        bytes=size,
        mtime_ns=mtime_ns,
    )


def _refuse_size(name: str, size: int) -> None:
    if size == 0:
        raise DataError(f"{name}: the file is empty.")
    if size > MAX_BYTES:
        raise DataError(f"{name}: the file has {size / 2**30:.1f} GiB; at most 1 GiB is read.")


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    if _PILLOW_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return picture_pixels(image)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name}: not a readable JPEG, PNG, GIF, BMP, TIFF or WebP image."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too many pixels ({_one_line(error)}).") from error
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes, decoders raise anything
        raise DataError(f"{name}: cannot be decoded ({_one_line(error)}).") from error


def picture_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """A picture in memory as `read_image` would have it: [H, W, 3] uint8 RGB, upright."""
    image.load()
    return _as_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (ValueError, OSError, SyntaxError, KeyError, TypeError):
        return image  # the pixels are whole; only the EXIF block is damaged


def _as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """[H, W, 3] of a loaded image of any mode."""
    if image.mode.startswith("I;16"):
        return _from_grey(np.asarray(image) / 257)
    if image.mode in ("I", "F"):
        return _from_grey(_stretched(np.asarray(image, dtype=np.float64)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _from_grey(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    grey = np.round(values).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values scaled from their own finite range to 0-255; a constant image becomes black."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros_like(values)
    low, high = values[finite].min(), values[finite].max()
    clean = np.nan_to_num(values, nan=low, neginf=low, posinf=high)
    scaled: NDArray[np.float64] = (clean - low) * (255 / (high - low) if high > low else 0)
    return scaled


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
