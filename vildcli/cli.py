"""The command group, and the one place where an error becomes a message and an exit code.

    0 done · 1 an error the user can fix · 2 usage, or nothing to do
    3 finished, but some images failed · 70 our own bug · 130 interrupted (the same command resumes)

Commands load lazily: `vildcli --help` imports neither torch nor any command's file.
"""

from __future__ import annotations

import importlib
import sys
import traceback

import click

from vildcli import __version__
from vildcli.errors import VildError

HEADINGS: dict[str, dict[str, str]] = {
    "Label": {
        "detect": "Label image folders with any vocabulary.",
        "relabel": "Label a run's stored regions with another vocabulary.",
        "ask": "Score any texts on an image's regions, or find regions in a run.",
        "export": "Write a run's labels for other tools.",
        "merge": "Make one of several runs, and of people's annotations.",
    },
    "Words": {
        "expand": "Add attributes, synonyms, kinds or species to a vocabulary.",
        "vocab": "Show vocabularies, lint them, tell two apart.",
        "embed": "Turn a vocabulary into text embeddings.",
    },
    "Review": {
        "review": "Open a run in the FiftyOne App; bring corrections back.",
        "report": "A run as one HTML page, without a database.",
        "calibrate": "Thresholds for a target precision, from ground truth.",
        "select": "Choose the images to review next.",
    },
    "Train": {
        "teach": "Cache the teacher's embeddings of proposals.",
        "train": "Train a detector.",
        "evaluate": "Average precision against an annotation set.",
    },
    "More": {
        "demo": "The whole path on the small world, in minutes.",
        "world": "Draw a small world: images, annotations, vocabulary.",
        "bench": "What an image takes on this machine, stage by stage.",
        "fetch": "Download weights for offline use.",
        "doctor": "Say what is installed, what is missing, how to get it.",
    },
}
ALIASES = {"label": "detect", "predict": "detect", "eval": "evaluate"}
START = """\
Three commands to try:

  vildcli demo                                      the whole path on a small world, no download
  vildcli detect PHOTOS --classes "apple, pear"     label a folder with your own words
  vildcli detect PHOTOS --model MODEL --vocab lvis-v1
"""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in HEADINGS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"vildcli.commands.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Open-vocabulary labelling: store regions once, label them with any words."""
    if ctx.invoked_subcommand is None:
        click.echo(START)
        click.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; every error becomes a message on stderr and a code."""
    try:
        result = cli.main(args=arguments, prog_name="vildcli", standalone_mode=False)
    except VildError as error:
        from vildcli.console import show_error

        show_error(str(error), error.hint)
        return error.exit_code
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        from vildcli.console import say

        say("Interrupted; the same command continues where it stopped.")
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception:  # noqa: BLE001  the boundary: a bug must look like a bug
        traceback.print_exc()
        click.echo("This is a bug in vildcli; please report the lines above.", err=True)
        return 70
    return result if isinstance(result, int) else 0
