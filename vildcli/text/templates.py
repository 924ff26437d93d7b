"""Prompts: the sentences that a name is put into before a text encoder reads it.

A file holds one template a line; `{}` is the name and `{article}` is a or an. A line that starts
with `#` is a comment, but three of them ask for something:

    #: this-is       ViLD's way of beginning "This is" (see `fill`)
    #: raw-names     names as they are spelt: bat_(animal)
    #: no-synonyms   a category's name alone
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.assets import prompts_file
from vildcli.errors import VocabularyError
from vildcli.vocabulary.names import article, clean_name

_THIS_IS, _RAW_NAMES, _NO_SYNONYMS = "#: this-is", "#: raw-names", "#: no-synonyms"


@dataclass(frozen=True, slots=True)
class Prompts:
    """An ordered set of templates.

    Attributes:
        this_is: whether "This is" is put before sentences that begin with "a" or "the" (ViLD).
        raw_names: whether names are left as they are spelt, not cleaned (DetPro).
        synonyms: whether a category's synonyms are averaged into its embedding.
    """

    name: str
    templates: tuple[str, ...]
    this_is: bool = False
    raw_names: bool = False
    synonyms: bool = True

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change an embedding; not of the name."""
        content: list[Any] = [self.templates, self.this_is]
        # Where these are as usual they are left out, so that older fingerprints hold.
        content += [_RAW_NAMES] * self.raw_names + [_NO_SYNONYMS] * (not self.synonyms)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def sentences(self, raw_name: str) -> list[str]:
        """Put one raw name into every template, in order."""
        return [
            fill(template, raw_name, this_is=self.this_is, raw=self.raw_names)
            for template in self.templates
        ]


def prompts_from_dict(values: Mapping[str, Any]) -> Prompts:
    """Read what `dataclasses.asdict` gave, a list for the tuple as JSON has it."""
    return Prompts(**{**values, "templates": tuple(values["templates"])})


def fill(template: str, raw_name: str, *, this_is: bool = True, raw: bool = False) -> str:
    """Put a raw name into a template, as ViLD's published demo does.

    The name is cleaned and loses a trailing ".", unless it is to be `raw`; the article follows the
    raw name. With `this_is`, a text that begins with "a" or "the" ("an embroidered ..." too) is
    prefixed by "This is".
    """
    name = raw_name if raw else clean_name(raw_name).rstrip(".")
    # Not str.format: a name may hold braces.
    named = name.join(template.replace("{article}", article(raw_name)).split("{}"))
    return f"This is {named}" if this_is and named.startswith(("a", "the")) else named


def load_prompts(reference: str | Path) -> Prompts:
    """Read a shipped set by name (`vild-63`, `clip-80`, `single`) or a text file.

    Raises:
        VocabularyError: not found, not text, no template, or one without a place for the name.
    """
    path = reference if isinstance(reference, Path) else prompts_file(reference)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise VocabularyError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is not UTF-8 text.") from error
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#") and "{}" not in line:
            raise VocabularyError(
                f"{path}, line {number}: the template '{line}' has no {{}} for the name.",
                hint="Write for example: a photo of {article} {}.",
            )
    templates = tuple(line for line in lines if line and not line.startswith("#"))
    if not templates:
        raise VocabularyError(
            f"{path} holds no template.", hint="Write one a line: a photo of {article} {}."
        )
    return Prompts(
        path.stem,
        templates,
        this_is=_THIS_IS in lines,
        raw_names=_RAW_NAMES in lines,
        synonyms=_NO_SYNONYMS not in lines,
    )
