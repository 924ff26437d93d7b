"""How many tokens a vocabulary's prompts have: what is longer than its context an encoder cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vildcli.text.templates import Prompts
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import names_of


def prompt_lengths(
    categories: Sequence[Category], tokenizer: Any, prompts: Prompts
) -> list[tuple[str, str, int]]:
    """Tokens of the longest prompt of every name and synonym, the two at the ends included.

    Args:
        tokenizer: open_clip's, of CLIP's own kind or one from Hugging Face.

    Returns:
        Category, name or synonym, tokens.
    """
    # The template with most tokens has most for any name: words become tokens one by one.
    longest = max(prompts.sentences("thing"), key=lambda sentence: _tokens(tokenizer, sentence))
    place = prompts.sentences("thing").index(longest)
    return [
        (category.name, name, _tokens(tokenizer, prompts.sentences(name)[place]))
        for category in categories
        for name in names_of(category)
    ]


def _tokens(tokenizer: Any, sentence: str) -> int:
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(sentence)) + 2
    return len(tokenizer.tokenizer(sentence).input_ids)
