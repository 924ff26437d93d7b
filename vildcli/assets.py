"""Where shipped files and caches live, in a checkout and in an installed package alike. No torch.

`vocab/` and `prompts/` stand beside the package in a checkout, where people read and edit them,
and inside it once installed, so that nothing called `vocab` or `prompts` lands in anybody's
site-packages.
"""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path

from vildcli.errors import VocabularyError

_PACKAGE = Path(__file__).parent
_ALIASES = {"colors": "colours"}


def is_shipped_name(reference: str) -> bool:
    """Whether a reference names a shipped file: `coco` does, `./coco` and `coco.yaml` do not."""
    return not any(c in reference for c in "/\\") and not Path(reference).suffix


def vocabulary_file(reference: str) -> Path:
    """Find a vocabulary: a shipped one by name, anything else as a file.

    Raises:
        VocabularyError: no shipped vocabulary of that name, or no such file.
    """
    return _find("vocab", "vocabulary", ".yaml", reference)


def prompts_file(reference: str) -> Path:
    """Find a set of prompts: a shipped one by name, anything else as a file.

    Raises:
        VocabularyError: no shipped prompts of that name, or no such file.
    """
    return _find("prompts", "set of prompts", ".txt", reference)


def cache_folder() -> Path:
    """$VILDCLI_CACHE, else vildcli's folder in the platform's user cache. It may not exist yet."""
    if chosen := os.environ.get("VILDCLI_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "vildcli"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vildcli"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vildcli"


def _find(folder: str, what: str, suffix: str, reference: str) -> Path:
    if not is_shipped_name(reference):
        path = Path(reference)
        if not path.is_file():
            raise VocabularyError(
                f"There is no file {reference}.",
                hint=f"Shipped ones have no slash or suffix: {_listed(folder, suffix)}.",
            )
        return path
    shipped = _shipped(folder, suffix)
    name = _ALIASES.get(reference, reference)
    if name not in shipped:
        raise VocabularyError(
            f"There is no shipped {what} '{reference}'.", hint=_nearest(reference, folder, suffix)
        )
    return shipped[name]


def _shipped(folder: str, suffix: str) -> dict[str, Path]:
    installed = _PACKAGE / folder
    root = installed if installed.is_dir() else _PACKAGE.parent / folder
    return {path.stem: path for path in sorted(root.rglob(f"*{suffix}"), key=lambda p: p.stem)}


def _listed(folder: str, suffix: str) -> str:
    return ", ".join(_shipped(folder, suffix))


def _nearest(reference: str, folder: str, suffix: str) -> str:
    near = difflib.get_close_matches(reference, _shipped(folder, suffix), n=1)
    meant = f"Did you mean '{near[0]}'? " if near else ""
    as_file = f" The file in this folder is ./{reference}." if Path(reference).is_file() else ""
    return f"{meant}Shipped: {_listed(folder, suffix)}.{as_file}"
