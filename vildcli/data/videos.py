"""Frames of a video, by the time at which they are shown; read by PyAV.

A frame is known by its time from the first one: `t=1.5` is what is on the screen one and a half
seconds after it. Decoding starts at the key frame before, and never depends on which frames were
read earlier.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vildcli.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_FAR = 10**6  # seconds; a seek beyond the end lands on the last key frame
_AV_TIME_BASE = 10**6  # FFmpeg's clock of whole files, ticks a second
_STEP_BACK = 2  # seconds, doubled each time a seek lands behind the frame


def require_av() -> None:
    """Refuse early where videos cannot be read.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "Frames of videos need the package av.", hint="pip install 'vildcli[video]'"
        ) from error


def frame_times(video: Path, every: Fraction) -> Iterator[Fraction]:
    """The times 0, `every`, 2 x `every`, … seconds of a video, up to its end.

    Raises:
        DataError: it cannot be read, or does not say how long it is.
    """
    length = _length(video)
    time = Fraction(0)
    while time < length:
        yield time
        time += every


def read_frame(video: Path, time: Fraction) -> NDArray[np.uint8]:
    """The frame on the screen at a time, [H, W, 3] uint8 RGB, turned upright.

    Args:
        time: seconds from the first frame; after the end, the last frame is still there.

    Raises:
        DataError: the video cannot be read.
    """
    back = 0
    while True:
        begin = max(Fraction(0), time - back)
        if (frame := _last_until(video, time, begin)) is not None:
            return _upright(frame)
        if not begin:
            raise DataError(f"{video}: has no frame at {float(time):g} s.")
        back = 2 * back or _STEP_BACK  # some formats land on a key frame that is shown too late


def _last_until(video: Path, time: Fraction, begin: Fraction) -> VideoFrame | None:
    """The last frame that is shown at `time` or before, decoding from the key frame at `begin`."""
    last = None
    with _opened(video) as (container, stream):
        first, tick = _start(stream), _tick(stream)
        if begin:
            container.seek(int((first + begin) / tick), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            if frame.pts * tick > first + time:
                break
            last = frame
    return last


@contextmanager
def _opened(video: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    require_av()
    import av

    try:
        # A playlist that is called .mp4 must not make us fetch what it names.
        with av.open(str(video), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise DataError(f"{video}: has no pictures.")
            yield container, container.streams.video[0]
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{video}: cannot be read as a video ({reason}).") from error


def _length(video: Path) -> Fraction:
    """Seconds from the first picture to the end of the last one, by the packets at the end.

    What a file's header says of its length may count the sound, or from another beginning.
    """
    for seek in (True, False):
        with _opened(video) as (container, stream):
            if seek:
                container.seek(_FAR * _AV_TIME_BASE)
            ends = [p.pts + (p.duration or 1) for p in container.demux(stream) if p.pts is not None]
            if ends:
                return max(ends) * _tick(stream) - _start(stream)
    raise DataError(f"{video}: has no pictures.")


def _start(stream: VideoStream) -> Fraction:
    return (stream.start_time or 0) * _tick(stream)


def _tick(stream: VideoStream) -> Fraction:
    """Seconds of one unit of the stream's clock."""
    base: Any = stream.time_base  # a Fraction, from PyAV 19 on its own kind of one
    return Fraction(base.numerator, base.denominator)


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """Pixels turned as the file says: by a multiple of 90 degrees, counter-clockwise."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
