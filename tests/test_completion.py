"""Completion is click's own: what shells ask and are told, and that no torch is loaded for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vildcli.cli import HEADINGS

PAGE = Path(__file__).parents[1] / "docs" / "completion.md"
HEAVY = ("torch", "torchvision", "open_clip", "fiftyone", "pyarrow", "numpy", "matplotlib")
COMMANDS = [name for commands in HEADINGS.values() for name in commands]
ASK = """
import sys
from vildcli.cli import main
try:
    main()
finally:
    print(*[name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""


def ask(instruction: str, words: str = "", place: int = 1) -> subprocess.CompletedProcess[str]:
    asked = {"_VILDCLI_COMPLETE": instruction, "COMP_WORDS": words, "COMP_CWORD": str(place)}
    return subprocess.run(
        [sys.executable, "-c", ASK.format(heavy=HEAVY)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **asked},
    )


def test_commands__all_of_them_and_nothing_heavy_is_loaded() -> None:
    found = ask("bash_complete", "vildcli ")
    assert found.stdout.splitlines() == [f"plain,{name}" for name in COMMANDS]
    assert (found.returncode, found.stderr) == (0, "\n")


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("vildcli mer", 1, ["plain,merge"]),
        ("vildcli export --geo", 2, ["plain,--geometry"]),
        ("vildcli export --geometry p", 3, ["plain,polygon"]),
        ("vildcli merge --existing ", 3, ["plain,skip", "plain,merge", "plain,replace"]),
        ("vildcli merge runs/ph", 2, ["file,runs/ph"]),
        ("vildcli detect pho", 2, ["file,pho"]),
    ],
)
def test_words(words: str, place: int, expected: list[str]) -> None:
    found = ask("bash_complete", words, place)
    assert found.stdout.splitlines() == expected
    assert found.returncode == 0
    assert "torch" not in found.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_page__every_shell_gets_its_script(shell: str) -> None:
    assert f"_VILDCLI_COMPLETE={shell}_source vildcli" in PAGE.read_text(encoding="utf-8")
    found = ask(f"{shell}_source")
    assert (found.returncode, found.stderr) == (0, "\n")
    assert "_vildcli_completion" in found.stdout
    assert f"_VILDCLI_COMPLETE={shell}_complete" in found.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_page__bash_completes_after_the_line_that_tries_it(tmp_path: Path) -> None:
    line = re.search(r'`(eval "\$\(_VILDCLI_COMPLETE=bash_source vildcli\)")`', PAGE.read_text())
    assert line is not None
    program = tmp_path / "vildcli"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vildcli "$@"\n')
    program.chmod(0o755)
    script = f"""
{line[1]}
COMP_WORDS=(vildcli rel) COMP_CWORD=1
_vildcli_completion vildcli
echo "${{COMPREPLY[@]}}"
complete -p vildcli
"""
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    found = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    completed, registered = found.stdout.splitlines()
    assert completed == "relabel"
    assert "-F _vildcli_completion vildcli" in registered
