from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"


def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_systems", DOCS / "build_systems.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_systems_page_is_what_the_table_says() -> None:
    assert builder().page() == (DOCS / "systems.md").read_text(encoding="utf-8"), "run `make docs`"
