"""What an actor of its own counts; it loads nothing of what labels."""

from __future__ import annotations

from collections import Counter


class Tries:
    """How often each unit of a run was begun on a cluster, whatever became of the one that did."""

    def __init__(self) -> None:
        self._begun = Counter[int]()

    def begin(self, unit: int) -> int:
        """Count a try and say which it is, from 1."""
        self._begun[unit] += 1
        return self._begun[unit]
