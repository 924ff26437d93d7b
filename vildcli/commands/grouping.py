"""A command that shows its options under headings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class GroupedCommand(click.Command):
    """`click.command(cls=GroupedCommand, groups={heading: parameter names})`.

    Options in no group come last, under the heading `rest`.
    """

    def __init__(
        self,
        *arguments: Any,
        groups: Mapping[str, Sequence[str]],
        rest: str = "Output",
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.groups, self.rest = groups, rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = {
            p.name: p.get_help_record(ctx)
            for p in self.get_params(ctx)
            if isinstance(p, click.Option)
        }
        for heading, names in self.groups.items():
            with formatter.section(heading):
                formatter.write_dl([record for n in names if (record := options.pop(n))])
        with formatter.section(self.rest):
            formatter.write_dl([record for record in options.values() if record])
