"""Exports in which one thing is wrong: making it so, and what the check says."""

from __future__ import annotations

from pathlib import Path

from vildcli.export.checks import check_export


def said(path: Path, form: str | None = None) -> list[str]:
    return [f"{p.where} {p.what}" for p in check_export(path, form)[1]]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
