"""`vildcli doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from vildcli import console

EXAMPLE = """\
\b
Examples:
  vildcli doctor
  vildcli doctor --json > environment.json
"""


@click.command(epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array on stdout.")
def command(as_json: bool) -> None:
    """Say what is installed, what is missing, and how to get it.

    Nothing is changed or downloaded. Paste its output into a bug report.
    """
    from vildcli.environment import examine

    findings = list(examine())
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
        return
    rows = [(f.part, f.found) for f in findings if f.found is not None]
    console.show_table("Found", ("part", "what"), rows)
    for missing in (f for f in findings if f.found is None):
        console.say(f"No {missing.part}: {missing.hint}")
