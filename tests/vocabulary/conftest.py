from __future__ import annotations

import pytest
from wordnet_places import real_wordnet

from vildcli.vocabulary.wordnet import WordNet


@pytest.fixture(scope="session")
def wordnet() -> WordNet:
    return real_wordnet()
