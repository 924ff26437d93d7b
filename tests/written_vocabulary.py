"""Vocabulary files as a person writes them, and how one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vildcli.errors import VocabularyError
from vildcli.vocabulary.files import load_vocabulary


def write(folder: Path, text: str, name: str = "orchard.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> VocabularyError:
    with pytest.raises(VocabularyError) as error:
        load_vocabulary(path)
    assert "\n" not in str(error.value)
    return error.value
