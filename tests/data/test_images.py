from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vildcli.data.images import read_image
from vildcli.errors import DataError


def jpeg(size: tuple[int, int] = (64, 48)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises what its data do not hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b"nonsense"), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_read_image__size_hash_and_time_are_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    image = read_image(path)
    assert image.pixels.shape == (48, 64, 3)
    assert image.pixels.dtype == np.uint8
    assert (image.width, image.height, image.bytes) == (64, 48, path.stat().st_size)
    assert image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert image.mtime_ns == path.stat().st_mtime_ns


def test_read_image__exif_orientation_makes_it_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 20, 20))  # the left half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: the left edge is the top
    upright = read_image(saved(tmp_path / "a.png", image, exif=exif))
    assert (upright.width, upright.height) == (20, 40)
    assert upright.pixels[0, 0].tolist() == [255, 0, 0]
    assert upright.pixels[-1, 0].tolist() == [0, 0, 255]


MODES = {
    "1": (Image.new("1", (3, 2), 1), [255, 255, 255]),
    "L": (Image.new("L", (3, 2), 100), [100, 100, 100]),
    "LA, shown on white": (Image.new("LA", (3, 2), (0, 0)), [255, 255, 255]),
    "RGBA, half transparent": (Image.new("RGBA", (3, 2), (0, 0, 0, 128)), [127, 127, 127]),
    "P": (Image.new("RGB", (3, 2), (9, 200, 30)).quantize(4), [9, 200, 30]),
    "I;16 black": (Image.fromarray(np.zeros((2, 3), np.uint16)), [0, 0, 0]),
    "I;16 white": (Image.fromarray(np.full((2, 3), 65535, np.uint16)), [255, 255, 255]),
    "I;16 middle": (Image.fromarray(np.full((2, 3), 100 * 257, np.uint16)), [100, 100, 100]),
}


@pytest.mark.parametrize(("image", "colour"), MODES.values(), ids=MODES)
def test_read_image__modes(tmp_path: Path, image: Image.Image, colour: list[int]) -> None:
    pixels = read_image(saved(tmp_path / "a.png", image)).pixels
    assert pixels.shape == (2, 3, 3)
    assert np.abs(pixels[0, 0].astype(int) - colour).max() <= 1


def test_read_image__cmyk(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = read_image(saved(tmp_path / "a.jpg", image)).pixels
    assert pixels[8, 8, 0] > 240
    assert pixels[8, 8, 1:].max() < 15


def test_read_image__float_values_are_stretched_over_their_range(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    pixels = read_image(saved(tmp_path / "a.tif", image)).pixels
    assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_read_image__first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path).pixels[0, 0].tolist() == [255, 0, 0]


def test_read_image__one_pixel(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path / "a.png", Image.new("RGB", (1, 1)))).pixels.shape == (1, 1, 3)


def test_read_image__damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "a.jpg", Image.new("RGB", (8, 8)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert read_image(path).width == 8
    assert not heard


BAD = {
    "truncated": (jpeg()[:800], "cannot be decoded (image file is truncated"),
    "zero bytes": (b"", "the file is empty."),
    "text": (b"hello", "not a readable JPEG, PNG, GIF, BMP, TIFF or WebP image."),
    "damaged": (png(4, 4), "cannot be decoded ("),
    "bomb": (png(30_000, 30_000), "too many pixels ("),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_read_image__bad_files_have_a_reason_of_one_line(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_image(path, "photos/a.jpg")
    assert str(caught.value).startswith(f"photos/a.jpg: {reason}")
    assert "\n" not in str(caught.value)


def test_read_image__missing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^a\.jpg: cannot be read \(No such file or directory\)\.$"
    ):
        read_image(tmp_path / "a.jpg", "a.jpg")


def test_read_image__a_file_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(3 << 30)  # sparse
    with pytest.raises(DataError, match=r"the file has 3\.0 GiB; at most 1 GiB is read\.$"):
        read_image(path)


def test_read_image__a_large_image_leaks_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (12, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 120 pixels: a warning, no error
    assert read_image(path).width == 12
