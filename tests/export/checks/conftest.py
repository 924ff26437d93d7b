"""Exports that are right, for each check to be shown one with one thing in it made wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from export_run import build_odd_run, select

from vildcli.export import FORMATS


@pytest.fixture(scope="session")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_odd_run(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="session")
def exported(odd_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an export by `format-geometry`, such as yolo-box; made when it is asked for."""
    folder = tmp_path_factory.mktemp("exports")

    @cache
    def export(name: str) -> Path:
        form = FORMATS[name.partition("-")[0]]
        options = {"images": "copy"} if "images" in form.options else {}
        out = folder / name / form.name
        form.export(select(odd_run), out, geometry=name.partition("-")[2], **options)
        return folder / name

    return export


@pytest.fixture
def copied(exported: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an export, to make wrong."""

    def copy(name: str) -> Path:
        shutil.copytree(exported(name), tmp_path / name)
        return tmp_path / name / FORMATS[name.partition("-")[0]].name

    return copy
