"""Vocabularies as files: read any of the four kinds, write three. The format: vocab/README.md."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from vildcli.assets import is_shipped_name, vocabulary_file
from vildcli.errors import VocabularyError
from vildcli.runs import refuse_newer
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.documents import read_document
from vildcli.vocabulary.writers import FORMAT_NAME, VOCABULARY_FORMAT
from vildcli.vocabulary.writers import save_vocabulary as save_vocabulary  # reading's other half

_CATEGORY_KEYS = tuple(field.name for field in fields(Category))
_TOP_KEYS = (
    "format",
    "name",
    "categories",
    "parents",
    "attributes",
    "negatives",
    "include",
    "provenance",
)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "id": ((int,), "a whole number"),
    "threshold": ((int, float), "a number from 0 to 1"),
    "base": ((bool,), "true or false"),
    "synonyms": ((list,), "a list of texts"),
}
_TEXT = ((str,), "text")

_Document = dict[str, Any]


def load_vocabulary(reference: str | Path) -> Vocabulary:
    """Read a shipped vocabulary by name (`coco`), or a YAML, JSON, CSV or plain text file.

    Categories without an id get the smallest free ones, from 1. Those of included files come after
    the file's own.

    Raises:
        VocabularyError: not found, unreadable, an unknown key, a wrong type, a name or id twice, a
            circle of includes, or written by a newer vildcli.
    """
    path = _path(reference)
    documents = _with_included(path, ())
    rows = [row for document in documents for row in document["categories"]]
    parents = _merged_parents(documents)
    attributes = _merged_attributes(documents)
    if not rows and attributes:
        raise VocabularyError(
            f"{path} holds attributes and no categories.",
            hint="Include it from a vocabulary that has categories.",
        )
    entries = tuple(_category(row) for row in _with_ids([*rows, *parents]))
    return Vocabulary(
        name=documents[0].get("name", path.stem),
        categories=entries[: len(rows)],
        parents=entries[len(rows) :],
        attributes=attributes,
        negatives=_unique(name for document in documents for name in document.get("negatives", ())),
        provenance=tuple(documents[0].get("provenance", ())),
    )


def load_attributes(reference: str | Path) -> dict[str, tuple[str, ...]]:
    """Read the attribute sets of a vocabulary file; a plain list is one set, named by its file.

    Raises:
        VocabularyError: as `load_vocabulary`, or the file holds no attributes.
    """
    path = _path(reference)
    document = _document(path)
    attributes = _merged_attributes([document])
    if not attributes and path.suffix in ("", ".txt"):
        attributes = {path.stem: _unique(row["name"] for row in document["categories"])}
    if not attributes:
        raise VocabularyError(
            f"{path} holds no attributes.",
            hint="Write for example: attributes: {colour: [red, green]}",
        )
    return attributes


def parse_classes(text: str, name: str = "classes") -> Vocabulary:
    """Make a vocabulary of names typed with commas between them: `apple, pear`.

    Raises:
        VocabularyError: no name, or one twice.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    return Vocabulary(name, tuple(Category(i, n) for i, n in enumerate(names, start=1)))


def _path(reference: str | Path) -> Path:
    return reference if isinstance(reference, Path) else vocabulary_file(reference)


def _with_included(path: Path, including: tuple[Path, ...]) -> list[_Document]:
    """The document at `path`, then those it includes, in the order written."""
    here = path.resolve()
    if here in including:
        circle = " → ".join(p.name for p in (*including[including.index(here) :], here))
        raise VocabularyError(f"Vocabularies include each other in a circle: {circle}.")
    document = _document(path)
    found = [document]
    for reference in document.get("include", ()):
        found += _with_included(_path(_beside(path, reference)), (*including, here))
    return found


def _beside(path: Path, reference: str) -> Path | str:
    """An included file is relative to the file that names it; a shipped name stays as it is."""
    return reference if is_shipped_name(reference) else path.parent / reference


def _document(path: Path) -> _Document:
    """One file's values, without its empty keys, every one of the right type."""
    document = {k: v for k, v in read_document(path).items() if v is not None}
    _check_format(path, document.get("format"))
    _check_keys(str(path), document, _TOP_KEYS)
    if not isinstance(document.get("name", ""), str):
        raise _wrong_type(str(path), "name", document["name"], "text")
    _check_unicode(str(path), "name", document.get("name", ""))
    for key in ("categories", "parents", "negatives", "include", "provenance"):
        if not isinstance(document.get(key, []), list):
            raise _wrong_type(str(path), key, document[key], "a list")
    for key in ("negatives", "include"):
        _check_texts(str(path), key, document.get(key, []))
    _check_attributes(path, document.get("attributes", {}))
    if not all(isinstance(step, dict) for step in document.get("provenance", [])):
        raise VocabularyError(f"{path}: each step of provenance must be a mapping.")
    for key, what in (("categories", "category"), ("parents", "parent")):
        rows = document.get(key, [])
        document[key] = [_checked_row(f"{path}, {what} {i}", r) for i, r in enumerate(rows, 1)]
    return document


def _check_format(path: Path, written: Any) -> None:
    if written is None:
        return
    name, _, version = str(written).partition("/")
    if name != FORMAT_NAME or not version.isdecimal():
        raise VocabularyError(
            f"{path} has the format {written!r}.",
            hint=f"A vocabulary says: format: {FORMAT_NAME}/{VOCABULARY_FORMAT}",
        )
    refuse_newer(path, int(version), VOCABULARY_FORMAT, VocabularyError)


def _checked_row(where: str, row: Any) -> _Document:
    if isinstance(row, str):
        row = {"name": row}
    if not isinstance(row, dict):
        raise VocabularyError(
            f"{where} is {row!r}.", hint=_quote_hint(row) or "Only a name is needed."
        )
    values = {key: value for key, value in row.items() if value is not None}
    if isinstance(values.get("name"), str):
        _check_unicode(where, "name", values["name"])
        where += f" ('{values['name']}')"
    _check_keys(where, values, _CATEGORY_KEYS)
    if "name" not in values:
        raise VocabularyError(
            f"{where} has no name.", hint=_quote_hint(None) if "name" in row else None
        )
    for key, value in values.items():
        kinds, description = _KINDS.get(key, _TEXT)
        # True is an int to Python, not to the reader of a vocabulary.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise _wrong_type(where, key, value, description)
        if isinstance(value, str):
            _check_unicode(where, key, value)
    _check_texts(where, "synonyms", values.get("synonyms", []))
    return values


def _check_keys(where: str, values: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            meant = f"Did you mean '{near[0]}'? " if near else ""
            raise VocabularyError(
                f"{where}: unknown key '{key}'.", hint=f"{meant}Known keys: {', '.join(known)}."
            )


def _check_attributes(path: Path, attributes: Any) -> None:
    if not isinstance(attributes, dict):
        raise _wrong_type(str(path), "attributes", attributes, "sets of names")
    for name, values in attributes.items():
        if not isinstance(name, str):
            raise VocabularyError(
                f"{path}: the attribute set {name!r} is not text.", hint=_quote_hint(name)
            )
        if not isinstance(values, list):
            raise _wrong_type(str(path), f"attributes: {name}", values, "a list of texts")
        if not values:
            raise VocabularyError(
                f"{path}: the attribute set '{name}' is empty.", hint="Fill it, or take it out."
            )
        _check_texts(str(path), f"attributes: {name}", values)


def _check_texts(where: str, key: str, values: Iterable[Any]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise _wrong_type(where, key, value, "text")
        if not value.strip():
            raise VocabularyError(f"{where}: {key} holds an empty text.")
        _check_unicode(where, key, value)


def _check_unicode(where: str, key: str, text: str) -> None:
    """Half a character, such as the first half of an escaped emoji, fits into no file."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise VocabularyError(f"{where}: {key} holds half a character: {text!a}.")


def _wrong_type(where: str, key: str, value: Any, wanted: str) -> VocabularyError:
    return VocabularyError(
        f"{where}: {key} is {value!r}, not {wanted}.",
        hint=_quote_hint(value) if wanted == "text" else None,
    )


def _quote_hint(value: Any) -> str | None:
    if isinstance(value, bool):
        return 'YAML reads no, yes, on, off, true and false as truth values; quote the word: "no".'
    if isinstance(value, (dict, list)):
        return None
    read_as = "nothing" if value is None else type(value).__name__
    return f'YAML reads this as {read_as}; quote it: "...".'


def _with_ids(rows: Sequence[_Document]) -> list[_Document]:
    taken = {row["id"] for row in rows if "id" in row}
    free = (number for number in range(1, len(rows) + len(taken) + 1) if number not in taken)
    return [row if "id" in row else {"id": next(free), **row} for row in rows]


def _category(row: _Document) -> Category:
    return Category(**{**row, "synonyms": tuple(row.get("synonyms", ()))})


def _merged_parents(documents: Sequence[_Document]) -> list[_Document]:
    """Those of all files, each name once: two files may roll up to animal, one may look for it."""
    own = {row["name"] for row in documents[0]["parents"]}
    looked_for = {row["name"] for document in documents for row in document["categories"]} - own
    by_name: dict[str, _Document] = {}
    for row in (row for document in documents for row in document["parents"]):
        if row["name"] not in looked_for:
            by_name.setdefault(row["name"], row)
    return list(by_name.values())


def _merged_attributes(documents: Sequence[_Document]) -> dict[str, tuple[str, ...]]:
    names = _unique(name for document in documents for name in document.get("attributes", {}))
    return {
        name: _unique(
            v for document in documents for v in document.get("attributes", {}).get(name, ())
        )
        for name in names
    }


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
