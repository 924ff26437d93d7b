from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from vildcli import __version__, cli
from vildcli.errors import (
    DataError,
    MissingDependencyError,
    ModelError,
    NothingToDoError,
    RunError,
    VildError,
    VocabularyError,
)

COMMANDS = [name for commands in cli.HEADINGS.values() for name in commands]
HEAVY = ("torch", "torchvision", "open_clip", "fiftyone", "pyarrow", "numpy", "rich")


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], int]:
    """Run the command line with a `world` command that does as told; return the exit code."""

    def run(action: Callable[[], Any]) -> int:
        command = click.Command("world", callback=action)
        monkeypatch.setattr("vildcli.commands.world.command", command)
        return cli.run(["world"])

    return run


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (VildError, 1),
        (VocabularyError, 1),
        (DataError, 1),
        (ModelError, 1),
        (RunError, 1),
        (MissingDependencyError, 1),
        (NothingToDoError, 2),
    ],
)
def test_run__an_error_is_two_lines_and_a_code(
    behave: Any, capsys: pytest.CaptureFixture[str], kind: type[VildError], code: int
) -> None:
    assert behave(raising(kind("The [b] is broken.", hint="Mend the [b]."))) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "Error: The [b] is broken.\nHint: Mend the [b].\n"


def test_run__an_error_without_a_hint_is_one_line(
    behave: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert behave(raising(DataError("Broken."))) == 1
    assert capsys.readouterr().err == "Error: Broken.\n"


def test_run__a_bug_looks_like_a_bug(behave: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert behave(raising(ZeroDivisionError("half"))) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: half" in err
    assert err.endswith("This is a bug in vildcli; please report the lines above.\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_run__an_interrupt_says_how_to_go_on(
    behave: Any, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert behave(raising(error)) == 130
    assert "the same command continues where it stopped" in capsys.readouterr().err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_run__the_code_of_a_command_is_the_exit_code(
    behave: Any, returned: int | None, code: int
) -> None:
    assert behave(lambda: returned) == code


def test_run__usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["world"]) == 2
    assert "Missing argument 'DIR'" in capsys.readouterr().err
    assert cli.run(["nonsense"]) == 2
    assert "No such command 'nonsense'" in capsys.readouterr().err


def test_main__leaves_with_the_code() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0


def test_run__version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"vildcli, version {__version__}\n"


def test_run__alone_shows_three_commands_and_all_headings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run([]) == 0
    out = capsys.readouterr().out
    assert out.startswith(cli.START)
    for heading in cli.HEADINGS:
        assert f"\n{heading}:\n" in out


def get_command(name: str) -> click.Command:
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None, f"vildcli {name} is listed and not there"
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_command__has_help_and_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: vildcli {name} [OPTIONS]" in text
    assert get_command(name).help
    assert "Example" in text
    assert f"\n  vildcli {name} " in text.partition("Example")[2].replace("\n    ", "\n  ")


@pytest.mark.parametrize("name", COMMANDS)
def test_command__every_option_is_explained(name: str) -> None:
    for parameter in get_command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"vildcli {name} --{parameter.name} has no help"


@pytest.mark.parametrize(("alias", "name"), cli.ALIASES.items())
def test_alias__is_the_command_and_is_not_listed(
    alias: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_command(alias) is get_command(name)
    cli.run(["--help"])
    assert f"\n  {alias} " not in capsys.readouterr().out


def test_help__loads_nothing_heavy() -> None:
    code = (
        "import sys; from vildcli.cli import run; code = run(['--help']); "
        f"sys.exit(','.join(m for m in {HEAVY!r} if m in sys.modules) or code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_command_help__needs_no_torch() -> None:
    """Of no command: one process asks them all, and stops at the first that loads it."""
    code = (
        "import sys; from vildcli.cli import run\n"
        f"for name in {tuple(COMMANDS)!r}:\n"
        "    code = run([name, '--help'])\n"
        "    if code or 'torch' in sys.modules: sys.exit(f'{name}: {code}')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.count("Usage: vildcli ") == len(COMMANDS)
