"""Word vectors in a small file, and a cache folder for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_glove import write_glove


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """In GloVe's form, with the vectors of `tiny_glove`."""
    return write_glove(tmp_path / "glove.tiny.4d.txt")
