"""Errors that a user can act on.

The library raises them, `vildcli.cli` alone catches them: one `Error:` line, one `Hint:` line, an
exit code.

    VildError                   exit code 1
    ├── VocabularyError         a vocabulary, prompt or text-bank file
    ├── DataError               an image, an annotation file, a records file
    ├── ModelError              a model file, a checkpoint, weights that are missing
    ├── RunError                a run folder: held by something else, read-only, of another version
    ├── MissingDependencyError  an extra is not installed, a server is not there
    └── NothingToDoError        exit code 2: no image found, an empty selection
"""

from __future__ import annotations


class VildError(Exception):
    """An error the user can fix.

    Args:
        message: what is wrong and where, one line.
        hint: what to do about it, one line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class VocabularyError(VildError):
    """A vocabulary, prompt or text-bank file cannot be used."""


class DataError(VildError):
    """An image, an annotation file or a records file cannot be used."""


class ModelError(VildError):
    """A model file, checkpoint or set of weights cannot be used."""


class RunError(VildError):
    """A run folder cannot be written, continued or read."""


class MissingDependencyError(VildError):
    """An optional package or a server is missing."""


class NothingToDoError(VildError):
    """There is nothing to work on."""

    exit_code = 2
