"""Names of files for formats that keep one file an image: no two images share one.

`a.jpg` and `a.png` would both be `a.txt`. The first of the run keeps its name, the next one is
`a-2`, and its image, where it is copied or linked, `a-2.png`. Which is first follows from the run's
image ids, so that images added later rename nothing that is there. Folders are kept, so that equal
names in two folders stay apart. Names that differ only in case or in their Unicode form count as
equal: they are on some disks.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np

from vildcli.export.selection import Selection
from vildcli.labelling.image_files import file_name
from vildcli.labelling.records import ImageRecord


class FileNames:
    """A name without suffix for every image of a selection.

    Memory: 8 bytes an image, and the names of those that had to be renamed.
    """

    def __init__(
        self, selection: Selection, folder_name: Callable[[str], str] = lambda name: name
    ) -> None:
        """Read the names of all images once.

        Args:
            folder_name: what a format calls a folder of that name.
        """
        self._selection = selection
        self._folder_name = folder_name
        wanted = (_key(self._wanted(image)) for image in selection.images())
        keys, uses = np.unique(np.fromiter(wanted, np.uint64), return_counts=True)
        self._keys = keys
        self._shared = set(keys[uses > 1].tolist())
        self._renamed = self._rename() if self._shared else {}

    def stem(self, image: ImageRecord) -> str:
        """The path without suffix that is this image's alone, POSIX and relative."""
        return self._renamed.get(image.image_id) or self._wanted(image)

    def image(self, image: ImageRecord) -> str:
        """The same with the suffix of the image."""
        return self.stem(image) + PurePosixPath(file_name(image.path)).suffix

    def _wanted(self, image: ImageRecord) -> str:
        # Lists of names have one a line.
        name = file_name(self._selection.name(image))
        path = PurePosixPath(re.sub(r"[\x00-\x1f\x7f]", "_", name))
        # A member of an archive may be called `../x`: it must not leave the folder.
        folders = [self._folder_name("__" if part == ".." else part) for part in path.parts[:-1]]
        return "/".join([*folders, path.stem])

    def _rename(self) -> dict[int, str]:
        taken: set[int] = set()
        renamed = {}
        for image in self._selection.images():
            stem = self._wanted(image)
            if _key(stem) not in self._shared:
                continue
            if _key(stem) in taken:
                stem = renamed[image.image_id] = self._free(stem, taken)
            taken.add(_key(stem))
        return renamed

    def _free(self, stem: str, taken: set[int]) -> str:
        number = 2
        while self._is_wanted(_key(f"{stem}-{number}")) or _key(f"{stem}-{number}") in taken:
            number += 1
        return f"{stem}-{number}"

    def _is_wanted(self, key: int) -> bool:
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        return place < len(self._keys) and int(self._keys[place]) == key


def _key(stem: str) -> int:
    folded = unicodedata.normalize("NFC", stem).casefold()
    return int.from_bytes(hashlib.blake2b(folded.encode(), digest_size=8).digest(), "big")
