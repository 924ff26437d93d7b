"""Where images come from: folders, single files and globs, in any mix. Nothing is decoded here.

A file is an image candidate when its suffix or its first bytes say so; whether it can be decoded is
found out later and recorded. Everything else is skipped and counted. Each source is a root folder
with a short name; paths are POSIX and relative to it, so that a run outlives a move of its images.
"""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vildcli.errors import NothingToDoError
from vildcli.runs import is_run

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp")
)
_MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\x00",  # TIFF, little endian
    b"MM\x00*",  # TIFF, big endian
)


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A candidate file. `source` names its root; `path` is POSIX, relative to that root."""

    source: str
    path: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What the sources hold.

    Attributes:
        roots: absolute folder of each source name, in the order given.
        images: sorted by source, then path.
        skipped: files that are no images, counted by suffix or by what is wrong with them.
        runs: folders not entered because vildcli wrote them.
    """

    roots: dict[str, Path]
    images: tuple[FoundImage, ...]
    skipped: Counter[str]
    runs: tuple[Path, ...]

    def skipped_text(self) -> str:
        """Such as "3 files skipped: 2 .txt, 1 .json"; empty when nothing was skipped."""
        parts = []
        if total := self.skipped.total():
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.skipped.most_common())
            parts.append(f"{total} file{'s' * (total != 1)} skipped: {kinds}")
        if self.runs:
            count = len(self.runs)
            parts.append(f"{count} vildcli run folder{'s' * (count != 1)} not entered")
        return "; ".join(parts)


def find_images(sources: Sequence[str]) -> FoundImages:
    """List every image candidate of folders (recursively), files and globs.

    Raises:
        NothingToDoError: a source does not exist, a glob matches nothing, or there is no image.
    """
    search = _Search()
    for source in sources:
        search.add(source)
    found = search.result()
    if not found.images:
        where = ", ".join(sources)
        skipped = found.skipped_text()
        raise NothingToDoError(
            f"No image found in {where}" + (f" ({skipped})." if skipped else ": it is empty."),
            hint="JPEG, PNG, GIF, BMP, TIFF and WebP files are images, whatever they are called.",
        )
    return found


class _Search:
    """Collects candidates; each folder is entered once and each file taken once, however named."""

    def __init__(self) -> None:
        self._images: dict[Path, dict[str, FoundImage]] = {}  # by root, then relative path
        self._skipped: Counter[str] = Counter()
        self._runs: list[Path] = []
        self._entered: set[tuple[int, int]] = set()
        self._taken: set[str] = set()

    def add(self, source: str) -> None:
        path = Path(os.path.abspath(source))
        if path.is_dir():
            self._add_folder(path, path)
        elif path.exists():
            self._add_file(path.parent, path)
        elif glob.has_magic(source):
            self._add_glob(source)
        else:
            raise NothingToDoError(
                f"{source} does not exist.", hint="Name a folder, an image file or a glob."
            )

    def result(self) -> FoundImages:
        names = _unique_names(list(self._images))
        images = [
            FoundImage(names[root], image.path, image.bytes, image.mtime_ns)
            for root, found in self._images.items()
            for image in sorted(found.values(), key=lambda image: image.path)
        ]
        roots = {name: root for root, name in names.items()}
        return FoundImages(roots, tuple(images), self._skipped, tuple(self._runs))

    def _add_glob(self, pattern: str) -> None:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise NothingToDoError(
                f"Nothing matches {pattern}.", hint="Name a folder, an image file or a glob."
            )
        root = _fixed_part(pattern)
        for match in matches:
            path = Path(os.path.abspath(match))
            if path.is_dir():
                self._add_folder(root, path)
            else:
                self._add_file(root, path)

    def _add_folder(self, root: Path, top: Path) -> None:
        # Links are followed, so a loop is possible: a folder is known by its device and inode.
        for folder, folders, files in os.walk(top, followlinks=True, onerror=self._unreadable):
            if not self._enter(Path(folder)):
                folders.clear()
                continue
            runs = {name for name in folders if is_run(Path(folder, name))}
            self._runs.extend(Path(folder, name) for name in sorted(runs))
            folders[:] = sorted(set(folders) - runs)
            for name in files:
                self._add_file(root, Path(folder, name))

    def _enter(self, folder: Path) -> bool:
        status = _status(folder)
        if status is None or (key := (status.st_dev, status.st_ino)) in self._entered:
            return False
        self._entered.add(key)
        return True

    def _unreadable(self, error: OSError) -> None:
        self._skipped["unreadable folder"] += 1

    def _add_file(self, root: Path, path: Path) -> None:
        if str(path) in self._taken:
            return
        self._taken.add(str(path))
        status = _status(path)
        why_not = _why_no_image(path, status)
        if why_not:
            self._skipped[why_not] += 1
            return
        relative = PurePosixPath(path.relative_to(root)).as_posix()
        size, time = (status.st_size, status.st_mtime_ns) if status else (0, 0)
        self._images.setdefault(root, {})[relative] = FoundImage("", relative, size, time)


def _why_no_image(path: Path, status: os.stat_result | None) -> str | None:
    """The kind a skipped file is counted under; None for a candidate."""
    suffix = path.suffix.lower()
    if not _is_utf8(str(path)):
        return "with a name that is not UTF-8"
    if status is not None and not stat.S_ISREG(status.st_mode):
        return "not a regular file"  # reading a pipe would wait for ever
    if suffix in IMAGE_SUFFIXES or _has_image_bytes(path):
        return None
    return suffix or "without a suffix"


def _has_image_bytes(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _status(path: Path) -> os.stat_result | None:
    """None for a link to nowhere, or what was removed meanwhile."""
    try:
        return path.stat()
    except OSError:
        return None


def _fixed_part(pattern: str) -> Path:
    """The folder above the first wildcard of a pattern."""
    parts = Path(pattern).parts
    wild = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(os.path.abspath(Path(*parts[:wild])))


def _unique_names(roots: Sequence[Path]) -> dict[Path, str]:
    """A short name for each root: its last part, numbered where two are called alike."""
    names: dict[Path, str] = {}
    for root in roots:
        stem = root.name or "root"
        name, number = stem, 2
        while name in names.values():
            name, number = f"{stem}-{number}", number + 1
        names[root] = name
    return names
