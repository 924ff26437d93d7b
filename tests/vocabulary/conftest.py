from __future__ import annotations

import os

import pytest

from vildcli.errors import MissingDependencyError
from vildcli.vocabulary.wordnet import WordNet, load_wordnet


@pytest.fixture(scope="session")
def wordnet() -> WordNet:
    """The real WordNet; where CI runs, it has to be there."""
    try:
        return load_wordnet()
    except MissingDependencyError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{error} {error.hint}")
