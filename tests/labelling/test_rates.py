from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from vildcli.labelling import rates
from vildcli.labelling.rates import RATES_FILE, Rate, last_rate, remember_rate


class Saturday(date):
    @classmethod
    def today(cls) -> date:
        return date(2026, 11, 21)


def test_last_rate__is_of_the_same_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path))
    monkeypatch.setattr(rates, "date", Saturday)
    assert last_rate({"model": "a"}) is None
    remember_rate({"model": "a"}, 10, 5.0)
    remember_rate({"model": "b"}, 10, 20.0)
    assert last_rate({"model": "a"}) == Rate(0.5, 10, "2026-11-21")
    assert last_rate({"model": "c"}) is None
    remember_rate({"model": "a"}, 4, 1.0)
    assert last_rate({"model": "a"}) == Rate(0.25, 4, "2026-11-21")


def test_last_rate__a_damaged_cache_knows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path))
    (tmp_path / RATES_FILE).write_text("{")
    assert last_rate({}) is None
    remember_rate({}, 1, 1.0)
    assert last_rate({}) is not None
