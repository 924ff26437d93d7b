"""The scripts run, at a size that says nothing about speed, and count what they claim to save."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import open_clip
import pytest
import torch
from tiny_clip import tiny_clip, tiny_config

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    model = tiny_clip(tiny_config())
    monkeypatch.setattr(open_clip, "create_model", lambda name, pretrained: model)

    def load_script(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{name}_benchmark", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load_script


def test_attributes(
    load: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "performance.json"
    small = ["--categories", "6", "--attributes", "3", "--regions", "20", "--images", "2"]
    load("attributes").main([*small, "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}" in lines[0]
    assert lines[1].startswith("python ")
    assert lines[2] == "6 names x 3 values, single, 20 regions an image"
    assert lines[4].split() == ["texts", "encoded", "9", "18", "2.00"]
    assert [line[:22].strip() for line in lines[5:]] == [
        "encoding, s",
        "text embeddings, MiB",
        "an image, ms",
    ]
    for line in lines[5:]:
        assert all(float(number) > 0 for number in line[22:].split())
    recorded = {row["row"]: row["measured"]["texts"] for row in json.loads(out.read_text())}
    assert recorded == {"factorised": 9, "flattened": 18}


@pytest.mark.slow
def test_ask(
    load: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "performance.json"
    small = ["--size", "64", "--width", "8", "--texts", "2", "--questions", "2"]
    load("ask").main([*small, "--prompts", "single", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("2 texts a question, single")
    assert [line[:24].strip() for line in lines[3:]] == [
        "detection, once",
        "new texts, encode",
        "new texts, score",
        "new texts, picture",
        "known texts, encode",
        "known texts, score",
        "known texts, picture",
        "new texts, answer",
        "known texts, answer",
    ]
    milliseconds = {line[:24].strip(): float(line.split()[-2]) for line in lines[3:]}
    assert milliseconds["new texts, encode"] > milliseconds["known texts, encode"]
    (row,) = json.loads(out.read_text())
    recorded = row["measured"]["known texts, score ms"]
    assert recorded == pytest.approx(milliseconds["known texts, score"], abs=0.06)
