"""Vocabularies written: YAML and JSON hold everything, CSV the categories alone.

Every kind is written category by category, so that a million of them need no second copy in memory.
The same vocabulary always gives the same bytes.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

import yaml

from vildcli.errors import VocabularyError
from vildcli.runs import write_atomically
from vildcli.vocabulary.category import Category, Vocabulary, category_as_dict
from vildcli.vocabulary.documents import SYNONYM_SEPARATOR

VOCABULARY_FORMAT = 1
FORMAT_NAME = "vildcli-vocabulary"

# The C writer escapes exactly as the Python one does and is ten times faster.
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_NEVER_FOLD = 1 << 30
# Text that YAML writes as it is: it begins like a word and is none that means a truth value.
_PLAIN = re.compile(
    r"(?!(?:yes|no|on|off|true|false|null)$)[a-z][\w ()'./-]*(?<! )", re.IGNORECASE | re.ASCII
)
_CSV_COLUMNS = tuple(field.name for field in fields(Category))


def save_vocabulary(vocabulary: Vocabulary, path: str | Path) -> None:
    """Write a `.yaml`, `.json` or `.csv` file beside its place and rename it.

    Raises:
        VocabularyError: another suffix, or a CSV file that would not hold it all.
    """
    path = Path(path)
    check_suffix(path)
    kind = path.suffix.lower()
    if kind == ".csv":
        _check_csv(vocabulary, path)

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            _WRITERS[kind](vocabulary, file)

    write_atomically(path, write)


def check_suffix(path: Path) -> None:
    """Refuse a path that `save_vocabulary` has no writer for.

    Raises:
        VocabularyError: as said.
    """
    if path.suffix.lower() not in _WRITERS:
        raise VocabularyError(
            f"{path} has the suffix '{path.suffix}', which vocabularies are not written as.",
            hint="Use .yaml, .json or .csv.",
        )


def _write_yaml(vocabulary: Vocabulary, file: TextIO) -> None:
    file.write(f"format: {FORMAT_NAME}/{VOCABULARY_FORMAT}\nname: {_flow(vocabulary.name)}\n")
    for key, value in _sections(vocabulary):
        file.write(f"{key}:\n")
        if isinstance(value, Mapping):
            file.writelines(f"  {_flow(name)}: {_flow(names)}\n" for name, names in value.items())
        else:
            file.writelines(f"  - {_flow(item)}\n" for item in value)


def _write_json(vocabulary: Vocabulary, file: TextIO) -> None:
    """As `json.dump` would, but one category a line."""
    file.write(f'{{"format": "{FORMAT_NAME}/{VOCABULARY_FORMAT}",\n')
    file.write(f'"name": {_compact(vocabulary.name)}')
    for key, value in _sections(vocabulary):
        file.write(f',\n"{key}": ')
        if isinstance(value, Mapping):
            file.write(_compact(value))
        else:
            file.writelines(f"{',' if i else '['}\n {_compact(v)}" for i, v in enumerate(value))
            file.write("\n]")
    file.write("\n}\n")


def _write_csv(vocabulary: Vocabulary, file: TextIO) -> None:
    used = {key for category in vocabulary.categories for key in category_as_dict(category)}
    columns = [key for key in _CSV_COLUMNS if key in used]
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(columns)
    for row in _rows(vocabulary.categories):
        rows.writerow([_cell(row.get(key, "")) for key in columns])


def _sections(vocabulary: Vocabulary) -> Iterator[tuple[str, Any]]:
    """What follows the name, empty sections left out."""
    yield "categories", _rows(vocabulary.categories)
    if vocabulary.parents:
        yield "parents", _rows(vocabulary.parents)
    if vocabulary.attributes:
        yield "attributes", {name: list(values) for name, values in vocabulary.attributes.items()}
    if vocabulary.negatives:
        yield "negatives", vocabulary.negatives
    if vocabulary.provenance:
        yield "provenance", (dict(step) for step in vocabulary.provenance)


def _rows(categories: tuple[Category, ...]) -> Iterator[dict[str, Any]]:
    return map(category_as_dict, categories)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _flow(value: Any) -> str:
    """A value as one line of YAML."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    if type(value) is int:
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    dumped: str = yaml.dump(
        [value],
        Dumper=_LineDumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=_NEVER_FOLD,
    )
    return dumped.strip()[1:-1]


class _LineDumper(_SafeDumper):  # type: ignore[misc]
    """Safe, and escapes line breaks in a text, so that it stays on its line."""


def _represent_text(dumper: Any, text: str) -> Any:
    style = None if text.splitlines() in ([text], []) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_LineDumper.add_representer(str, _represent_text)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return SYNONYM_SEPARATOR.join(value) if isinstance(value, list) else str(value)


def _check_csv(vocabulary: Vocabulary, path: Path) -> None:
    hint = f"Choose another kind: --out {path.with_suffix('.json').name}"
    beside = ("parents", "attributes", "negatives")
    if lost := [name for name in beside if getattr(vocabulary, name)]:
        raise VocabularyError(f"{path}: CSV holds no {' or '.join(lost)}.", hint=hint)
    for category in vocabulary.categories:
        if not all(map(_survives_csv, _texts(category))):
            raise VocabularyError(
                f"{path}: CSV cannot hold category {category.id}, {category.name!r}: a text of it "
                f"is empty, has a space at its end, a line break, or '{SYNONYM_SEPARATOR}'.",
                hint=hint,
            )


def _texts(category: Category) -> Iterator[str]:
    yield from (v for v in category_as_dict(category).values() if isinstance(v, str))
    # In a cell of synonyms the separator counts; elsewhere it is a letter like any other.
    yield from (s.replace(SYNONYM_SEPARATOR, "\n") for s in category.synonyms)


def _survives_csv(text: str) -> bool:
    return text == text.strip() and text.splitlines() == [text]


_WRITERS: dict[str, Callable[[Vocabulary, TextIO], None]] = {
    ".yaml": _write_yaml,
    ".yml": _write_yaml,
    ".json": _write_json,
    ".csv": _write_csv,
}
