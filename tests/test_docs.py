from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def builder(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["systems", "results"])
def test_pages_are_what_tables_and_measurements_say(page: str) -> None:
    made = builder(f"build_{page}").page()
    assert made == (DOCS / f"{page}.md").read_text(encoding="utf-8"), "run `make docs`"
