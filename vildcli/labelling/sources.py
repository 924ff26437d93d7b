"""Where images come from, in any mix. Nothing is decoded here.

    photos/            a folder and all below it       x.tar          the members of an archive
    a.jpg  p/*.jpg     single files, globs             v.mp4          frames, one `every` so often
    list.txt           a file of such paths            x.tar#m.jpg    one member, or one frame

What is an image candidate is told by suffix or first bytes; whether it can be decoded is found out
later and recorded. Everything else is skipped and counted. Each source is a root folder with a
short name; paths are POSIX and relative to it, so that a run outlives a move of its images.
"""

from __future__ import annotations

import glob
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath

from vildcli.data.kinds import HEAD, IMAGE_SUFFIXES, file_kind, kind_of_bytes
from vildcli.data.members import MARK, TarMember, frame_time, list_tar, split_member
from vildcli.errors import DataError, NothingToDoError
from vildcli.runs import is_run

Key = tuple[str, str]  # source and path: what an image is called in its run
LIST_SUFFIXES = (".txt", ".lst", ".list")
_NAMED = 3  # of what is reported, so many by name
_FRAME = re.compile(r"(.*)#t=(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A candidate. `source` names its root; `path` is POSIX, relative to that root.

    Attributes:
        bytes: of the file or the member; of a frame its video's.
        mtime_ns: of the file on disk, nanoseconds since 1970.
    """

    source: str
    path: str
    bytes: int
    mtime_ns: int

    @property
    def key(self) -> Key:
        return self.source, self.path


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What the sources hold.

    Attributes:
        roots: absolute folder of each source name, in the order given.
        images: sorted by source, then path; the frames of a video by time.
        skipped: files and members that are no images, counted by suffix or by what is wrong.
        runs: folders not entered because vildcli wrote them.
        unreadable: folders and archives that cannot be read, or not to their end; with the reason.
        repeated: links to folders that are listed already, such as their own parents.
        every: seconds between the frames of videos; None where there is no video.
    """

    roots: dict[str, Path]
    images: tuple[FoundImage, ...]
    skipped: Counter[str]
    runs: tuple[Path, ...] = ()
    unreadable: tuple[str, ...] = ()
    repeated: tuple[Path, ...] = ()
    every: Fraction | None = None

    def skipped_text(self) -> str:
        """Such as "3 files skipped: 2 .txt, 1 .json"; empty when nothing was skipped."""
        parts = []
        if total := self.skipped.total():
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.skipped.most_common())
            parts.append(f"{_count(total, 'file')} skipped: {kinds}")
        if self.runs:
            parts.append(f"{_count(len(self.runs), 'vildcli run folder')} not entered")
        if self.repeated:
            links = _count(len(self.repeated), "link")
            parts.append(f"{links} to folders that are listed already: {_named(self.repeated)}")
        if self.unreadable:
            parts.append(f"{len(self.unreadable)} cannot be read: {_named(self.unreadable)}")
        return "; ".join(parts)


def find_images(sources: Sequence[str], *, every: Fraction | None = None) -> FoundImages:
    """List every image candidate of some sources.

    Args:
        sources: folders, files, globs, lists, archives, videos, parts of the last two.
        every: seconds between the frames taken of a video; by default videos are skipped.

    Raises:
        NothingToDoError: a source does not exist or cannot be used, a glob matches nothing, or
            there is no image.
        DataError: a list names what is not there.
        MissingDependencyError: there are videos, and PyAV is not installed.
    """
    search = _Search(every)
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

    def __init__(self, every: Fraction | None) -> None:
        self._every = every
        self._images: dict[Path, dict[str, FoundImage]] = {}  # by root, then relative path
        self._skipped: Counter[str] = Counter()
        self._runs: list[Path] = []
        self._unreadable: list[str] = []
        self._repeated: list[Path] = []
        self._entered: set[tuple[int, int]] = set()
        self._taken: set[str] = set()
        self._has_frames = False

    def add(self, source: str) -> None:
        path = Path(os.path.abspath(source))
        if path.is_dir():
            self._add_folder(path, path)
        elif path.exists():
            self._add_named_file(source, path)
        elif split_member(path)[1] is not None:
            self._add_member(path.parent, path, source)
        elif glob.has_magic(source):
            self._add_glob(source)
        else:
            raise NothingToDoError(
                f"{source} does not exist.",
                hint="Name a folder, an image, a glob, a tar archive, a video or a list.",
            )

    def result(self) -> FoundImages:
        names = _unique_names(list(self._images))
        images = [
            FoundImage(names[root], image.path, image.bytes, image.mtime_ns)
            for root, found in self._images.items()
            for image in sorted(found.values(), key=_order)
        ]
        roots = {name: root for root, name in names.items()}
        return FoundImages(
            roots,
            tuple(images),
            self._skipped,
            tuple(self._runs),
            tuple(self._unreadable),
            tuple(self._repeated),
            self._every if self._has_frames else None,
        )

    def _add_named_file(self, source: str, path: Path) -> None:
        """A file that was named, and not come upon: what cannot be used is an error."""
        kind = file_kind(path)
        if kind is None and path.suffix.lower() in LIST_SUFFIXES:
            self._add_list(path)
        elif kind == "compressed tar":
            raise NothingToDoError(
                f"{source} is compressed, so its members cannot be read one by one.",
                hint="Unpack it, or write it again as a plain .tar: images hardly compress.",
            )
        elif kind == "video" and self._every is None:
            raise NothingToDoError(
                f"{source} is a video.",
                hint="Say which frames are to be labelled: --every SECONDS.",
            )
        else:
            self._add_file(path.parent, path)

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

    def _add_list(self, file: Path) -> None:
        for number, line in _lines(file):
            where = f"{file}, line {number}: {line}"
            if "://" in line:
                raise DataError(
                    f"{where} is an address; only files are read.",
                    hint="Fetch it first, and list the file.",
                )
            path = Path(os.path.abspath(file.parent / line))
            # A list of absolute paths would else make a source of every folder that it names.
            root = file.parent if path.is_relative_to(file.parent) else Path(path.anchor)
            if path.is_dir():
                self._add_folder(root, path)
            elif not path.exists() and split_member(path)[1] is not None:
                self._add_member(root, path, where)
            elif path.exists() or path.suffix.lower() in IMAGE_SUFFIXES:
                self._add_file(root, path)
            else:
                raise DataError(f"{where} does not exist.", hint="Correct the list.")

    def _add_folder(self, root: Path, top: Path) -> None:
        # Links are followed, so a loop is possible: a folder is known by its device and inode.
        for folder, folders, files in os.walk(top, followlinks=True, onerror=self._note):
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
        if status is None:
            return False
        if (key := (status.st_dev, status.st_ino)) in self._entered:
            if folder.is_symlink():
                self._repeated.append(folder)
            return False
        self._entered.add(key)
        return True

    def _note(self, error: OSError) -> None:
        self._unreadable.append(f"{error.filename} ({error.strerror})")

    def _add_file(self, root: Path, path: Path) -> None:
        if not _is_utf8(str(path)):
            self._skipped["with a name that is not UTF-8"] += 1
            return
        if not self._take(path):
            return
        status = _status(path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            self._skipped["not a regular file"] += 1  # reading a pipe would wait for ever
            return
        size, mtime_ns = (status.st_size, status.st_mtime_ns) if status else (0, 0)
        match file_kind(path):
            case "image":
                self._add_image(root, path, size, mtime_ns)
            case "tar":
                self._add_tar(root, path, mtime_ns)
            case "video" if self._every is not None:
                self._add_frames(root, path, size, mtime_ns, self._every)
            case "video":
                self._skipped["video (--every takes frames)"] += 1
            case kind:
                self._skipped[kind or path.suffix.lower() or "without a suffix"] += 1

    def _add_member(self, root: Path, path: Path, where: str) -> None:
        """One member of an archive, or one frame of a video."""
        container, member = split_member(path)
        assert member is not None, f"{path} is a file"
        status = container.stat()
        if frame_time(member) is not None:
            size: int | None = status.st_size
        else:
            size = _member_size(container, member)
        if size is None:
            raise NothingToDoError(
                f"{where}: {container.name} has no such member.", hint="List it with tar -tf."
            )
        if self._take(path):
            self._add_image(root, path, size, status.st_mtime_ns)

    def _add_tar(self, root: Path, archive: Path, mtime_ns: int) -> None:
        try:
            listing = list_tar(archive)
            for name, member in listing.members.items():
                self._add_tar_member(root, archive, name, member, mtime_ns)
        except OSError as error:
            self._unreadable.append(f"{archive} ({error.strerror or error})")
            return
        if listing.others:
            self._skipped["links in archives"] += listing.others
        if listing.damage:
            self._unreadable.append(f"{archive} beyond its first part ({listing.damage})")

    def _add_tar_member(
        self, root: Path, archive: Path, name: str, member: TarMember, mtime_ns: int
    ) -> None:
        suffix = PurePosixPath(name).suffix.lower()
        if not _is_utf8(name):
            self._skipped["with a name that is not UTF-8"] += 1
        elif suffix in IMAGE_SUFFIXES or kind_of_bytes(_head(archive, member)) == "image":
            path = Path(f"{archive}{MARK}{name}")
            if self._take(path):
                self._add_image(root, path, member.bytes, mtime_ns)
        else:
            self._skipped[suffix or "without a suffix"] += 1

    def _add_frames(
        self, root: Path, video: Path, size: int, mtime_ns: int, every: Fraction
    ) -> None:
        from vildcli.data.videos import frame_times

        self._has_frames = True
        try:
            times = list(frame_times(video, every))
        except DataError:
            times = [Fraction(0)]  # becomes a record that says why
        for time in times:
            path = Path(f"{video}{MARK}t={_decimal(time)}")
            if self._take(path):
                self._add_image(root, path, size, mtime_ns)

    def _take(self, path: Path) -> bool:
        """Whether a path is met for the first time."""
        if str(path) in self._taken:
            return False
        self._taken.add(str(path))
        return True

    def _add_image(self, root: Path, path: Path, size: int, mtime_ns: int) -> None:
        relative = PurePosixPath(path.relative_to(root)).as_posix()
        found = self._images.setdefault(root, {})
        found[relative] = FoundImage("", relative, size, mtime_ns)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list that are not empty, numbered from 1."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.strip()


def _member_size(archive: Path, name: str) -> int | None:
    try:
        member = list_tar(archive).members.get(name)
    except OSError:
        return None
    return None if member is None else member.bytes


def _head(archive: Path, member: TarMember) -> bytes:
    with archive.open("rb") as file:
        file.seek(member.offset)
        return file.read(min(HEAD, member.bytes))


def _decimal(time: Fraction) -> str:
    """Seconds as they are written: rounded up to a microsecond, so that a frame is not missed."""
    whole, rest = divmod(math.ceil(time * 10**6), 10**6)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def _order(image: FoundImage) -> tuple[str, float]:
    """By path; the frames of a video by time."""
    frame = _FRAME.fullmatch(image.path)
    return (frame[1], float(frame[2])) if frame else (image.path, 0.0)


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


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def _named(things: Iterable[object]) -> str:
    """The first few, and how many more there are."""
    names = [str(thing) for thing in things]
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
