from __future__ import annotations

import builtins
import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vildcli.data.images import read_image
from vildcli.data.videos import frame_times, read_frame
from vildcli.errors import DataError, MissingDependencyError

pytest.importorskip("av", reason="the extra [video] is not installed")
from tiny_video import draw_video, number_of


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_frame_times__from_the_first_picture_to_the_end_of_the_last(
    tmp_path: Path, name: str
) -> None:
    video = draw_video(tmp_path / name, frames=20, rate=10)
    assert list(frame_times(video, Fraction("0.3"))) == [Fraction(3 * i, 10) for i in range(7)]
    assert list(frame_times(video, Fraction(1, 10)))[-1] == Fraction(19, 10)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_read_frame__is_what_is_on_the_screen_then(tmp_path: Path, name: str) -> None:
    video = draw_video(tmp_path / name, frames=20, rate=10)
    for tenths in (0, 1, 6, 7, 8, 13, 14, 19):
        assert number_of(read_frame(video, Fraction(tenths, 10))) == tenths
        assert number_of(read_frame(video, Fraction(2 * tenths + 1, 20))) == tenths
    assert number_of(read_frame(video, Fraction(100))) == 19


def test_read_frame__times_count_from_the_first_picture(tmp_path: Path) -> None:
    video = draw_video(tmp_path / "a.mkv", frames=12, rate=10, start=30)
    assert [number_of(read_frame(video, Fraction(i, 10))) for i in (0, 5, 11)] == [0, 5, 11]
    assert len(list(frame_times(video, Fraction(1, 10)))) == 12


def test_read_frame__does_not_depend_on_what_was_read_before(tmp_path: Path) -> None:
    video = draw_video(tmp_path / "a.mp4")
    forwards = [read_frame(video, Fraction(i, 10)).tobytes() for i in range(12)]
    backwards = [read_frame(video, Fraction(i, 10)).tobytes() for i in reversed(range(12))]
    assert forwards == backwards[::-1]


def test_read_frame__is_upright(tmp_path: Path) -> None:
    pixels = read_frame(draw_video(tmp_path / "a.mp4", rotation=90), Fraction(0))
    assert pixels.shape == (48, 32, 3)
    assert pixels[-4, 4, 0] > 200  # the square of the top left, turned against the clock
    assert pixels[4, 4, 0] < 50


def test_read_image__of_a_frame(tmp_path: Path) -> None:
    video = draw_video(tmp_path / "a.mp4")
    image = read_image(Path(f"{video}#t=0.45"))
    assert number_of(image.pixels) == 4
    assert (image.width, image.height) == (48, 32)
    assert (image.bytes, image.mtime_ns) == (video.stat().st_size, video.stat().st_mtime_ns)
    assert image.sha256 == hashlib.sha256(image.pixels.tobytes()).hexdigest()


def test_read_image__of_a_damaged_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("hello")
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.mp4#t=0", "a.mp4#t=0")
    assert str(caught.value) == (
        "a.mp4#t=0: cannot be read as a video (Invalid data found when processing input)."
    )


def test_read_frame__without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "av":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError) as caught:
        read_frame(tmp_path / "a.mp4", Fraction(0))
    assert str(caught.value) == "Frames of videos need the package av."
    assert caught.value.hint == "pip install 'vildcli[video]'"
