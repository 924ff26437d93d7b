from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vildcli import assets
from vildcli.errors import VocabularyError

ROOT = Path(__file__).parents[1]


def test_shipped_names_have_no_slash_and_no_suffix():
    assert assets.is_shipped_name("coco")
    for reference in ("./coco", "coco.yaml", "folder/coco", "C:\\coco"):
        assert not assets.is_shipped_name(reference)


def test_shipped_files_are_found_in_a_checkout():
    assert assets.vocabulary_file("coco") == ROOT / "vocab" / "coco.yaml"
    assert assets.vocabulary_file("coco-48") == ROOT / "vocab" / "splits" / "coco-48.yaml"
    assert assets.vocabulary_file("colors") == assets.vocabulary_file("colours")
    assert assets.prompts_file("vild-63") == ROOT / "prompts" / "vild-63.txt"


def test_anything_else_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("coco").write_text("cat\n")
    assert assets.vocabulary_file("./coco") == Path("coco")
    assert assets.vocabulary_file("coco") == ROOT / "vocab" / "coco.yaml"
    with pytest.raises(VocabularyError) as error:
        assets.vocabulary_file("mine.yaml")
    assert str(error.value) == "There is no file mine.yaml."
    assert error.value.hint == (
        "Shipped ones have no slash or suffix: coco, coco-15, coco-17, coco-48, coco-65, colours, "
        "cub200, lvis-866, lvis-v1, objects365, voc."
    )


def test_an_unknown_name_lists_the_known_and_the_nearest(tmp_path, monkeypatch):
    with pytest.raises(VocabularyError) as error:
        assets.prompts_file("vild63")
    assert str(error.value) == "There is no shipped set of prompts 'vild63'."
    assert error.value.hint == (
        "Did you mean 'vild-63'? Shipped: attributes, bare, clip-80, detpro-74, ezsd, single, "
        "vild-63."
    )
    monkeypatch.chdir(tmp_path)
    Path("fruit").write_text("apple\n")
    with pytest.raises(VocabularyError) as error:
        assets.vocabulary_file("fruit")
    assert (error.value.hint or "").endswith(" The file in this folder is ./fruit.")


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"VILDCLI_CACHE": "/fast/cache", "XDG_CACHE_HOME": "/x"}, "/fast/cache"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/vildcli"),
        ("linux", {}, "/home/ann/.cache/vildcli"),
        ("darwin", {}, "/home/ann/Library/Caches/vildcli"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/vildcli"),
    ],
)
def test_cache_folder(monkeypatch, platform, environment, expected):
    for name in ("VILDCLI_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/ann", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert assets.cache_folder() == Path(expected)


def setuptools_is_too_old() -> bool:
    return int(importlib.metadata.version("setuptools").split(".")[0]) < 77


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    # A copy, so that the build leaves nothing in the checkout.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("vildcli", "vocab", "prompts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*build, "-w", out, source], check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        yield archive


@pytest.mark.slow
@pytest.mark.skipif(setuptools_is_too_old(), reason="building needs setuptools 77")
class TestWheel:
    def test_nothing_but_vildcli_lands_in_site_packages(self, wheel):
        tops = {name.split("/")[0] for name in wheel.namelist()}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"vildcli"}

    def test_every_source_and_data_file_is_in_it(self, wheel):
        expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / "vildcli").rglob("*.py")}
        for folder in ("vocab", "prompts"):
            files = (p for p in (ROOT / folder).rglob("*") if p.is_file())
            expected |= {f"vildcli/{p.relative_to(ROOT).as_posix()}" for p in files}
        assert expected <= set(wheel.namelist())

    def test_shipped_files_are_found_once_installed(self, wheel, tmp_path):
        wheel.extractall(tmp_path)
        asked = """
from vildcli import assets
from vildcli.vocabulary.files import load_vocabulary as load
print(assets.__file__, assets.prompts_file("single"), len(load("coco")), len(load("lvis-866")))
"""
        said = subprocess.run(
            [sys.executable, "-c", asked],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        package = tmp_path / "vildcli"
        assert said == [
            str(package / "assets.py"),
            str(package / "prompts" / "single.txt"),
            "80",
            "866",
        ]
