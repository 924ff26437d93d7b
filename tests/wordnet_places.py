"""Where WordNet is looked for, during a test."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nltk
import pytest

from vildcli.errors import MissingDependencyError
from vildcli.vocabulary import wordnet as module
from vildcli.vocabulary.wordnet import WordNet


def real_wordnet() -> WordNet:
    """The WordNet of this machine; where CI runs, it has to be there."""
    try:
        return module.load_wordnet()
    except MissingDependencyError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{error} {error.hint}")


@contextmanager
def wordnet_only_in(folder: Path) -> Iterator[None]:
    """A machine whose only possible places of WordNet are below a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VILDCLI_CACHE", str(folder / "cache"))
        patch.setattr(nltk.data, "path", [str(folder / "nltk")])
        patch.setattr(module, "DEBIAN_FOLDER", folder / "debian")
        forget_wordnet()
        yield
    forget_wordnet()


def forget_wordnet() -> None:
    """Have it loaded anew. nltk never closes the files that it reads from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        module._load.cache_clear()
        gc.collect()
