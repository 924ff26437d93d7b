from __future__ import annotations

import os

import pytest

from vildcli.errors import MissingDependencyError
from vildcli.vocabulary.wordnet import WordNet, load_wordnet
from vildcli.world.emoji import require_emoji
from vildcli.world.sprites import load_sprites


@pytest.fixture(scope="session")
def emoji_font() -> None:
    """A font that draws every emoji; where CI runs, it has to be there."""
    try:
        require_emoji(sprite.character for sprite in load_sprites("emoji").sprites)
    except MissingDependencyError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{error} {error.hint}")


@pytest.fixture(scope="session")
def wordnet() -> WordNet:
    """The real WordNet; where CI runs, it has to be there."""
    try:
        return load_wordnet()
    except MissingDependencyError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{error} {error.hint}")
