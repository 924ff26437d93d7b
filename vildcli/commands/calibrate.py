"""`vildcli calibrate`: thresholds for a target precision, from truth, into a vocabulary."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.errors import RunError, VocabularyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vildcli.calibration.calibrate import Calibration
    from vildcli.evaluation.agreement import Agreement
    from vildcli.vocabulary.category import Vocabulary

EXAMPLE = """\
\b
Examples:
  vildcli calibrate runs/photos --truth val.json --target-precision 0.9 --out calibrated.yaml
  vildcli calibrate runs/photos --truth val.json --out runs/photos/vocabulary.yaml --force
"""
_NAMES_SHOWN = 5
_ROWS_SHOWN = 30
_SUFFIXES = (".yaml", ".yml", ".json")


@click.command(epilog=EXAMPLE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--truth",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    metavar="FILE",
    help="LVIS or COCO JSON of some of the run's images; of VOC its folder or an image list.",
)
@click.option(
    "--target-precision",
    "target",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    metavar="P",
    help="Share of the shown labels of each term that should be right.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="VOCAB",
    help="Copy of the run's vocabulary with thresholds, YAML or JSON; table and plot beside it.",
)
@click.option(
    "--method",
    type=click.Choice(["isotonic", "temperature"]),
    default="isotonic",
    show_default=True,
    help="Curve from scores to probabilities, one a frequency group.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the truth's images: what no name matches is matched by hash.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    run: Path,
    truth: Path,
    target: float,
    out: Path,
    method: Any,
    images: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Choose for each term of RUN the score from which its labels are right often enough.

    Labels are held against TRUTH by image and name. Thresholds hold for the run's model and
    context; they decide what export, report and review show, and not what is stored.
    """
    from vildcli.calibration.run import calibrate_run, write_calibration

    plot, table = _beside(out)
    _check_out(out, (out, plot, table), force)
    found = calibrate_run(run, truth, target=target, method=method, images=images)
    write_calibration(found, out, table=table, plot=plot)
    for note in found.notes:
        console.warn(note)
    _show(found.calibration)
    for path in (out, table, plot):
        console.say(f"Wrote {path}")
    console.say(f"Next: {console.program()} detect PHOTOS --vocab {_as_argument(out)}")
    if as_json:
        click.echo(json.dumps({**found.values(), "out": str(out.absolute())}))


def warn_of_foreign_thresholds(vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
    """Say when thresholds were calibrated for other scores than a run is about to have."""
    from vildcli.calibration.vocabulary import foreign_settings

    if foreign := foreign_settings(vocabulary, settings):
        console.warn(
            f"The thresholds of {vocabulary.name} were calibrated with another "
            f"{', '.join(foreign).replace('_', ' ')}: calibrate them again for this run."
        )


def _beside(out: Path) -> tuple[Path, Path]:
    """The plot and the table that go with a vocabulary."""
    return out.with_name(f"{out.stem}-reliability.png"), out.with_name(f"{out.stem}-thresholds.csv")


def _check_out(out: Path, written: tuple[Path, ...], force: bool) -> None:
    if out.suffix.lower() not in _SUFFIXES:
        raise VocabularyError(
            f"{out} has the suffix '{out.suffix}', which cannot say what thresholds hold for.",
            hint="Use .yaml or .json.",
        )
    for path in written:
        if path.exists() and not force:
            raise RunError(
                f"{path} exists.", hint="Choose another --out, or --force to overwrite it."
            )


def _as_argument(path: Path) -> str:
    """A bare name without a folder would be taken for a shipped vocabulary's."""
    text = str(path)
    return shlex.quote(text if "/" in text or path.suffix else f"./{text}")


def _show(calibration: Calibration) -> None:
    from vildcli.calibration.calibrate import FEWEST, group_table
    from vildcli.calibration.run import TERM_COLUMNS, term_rows
    from vildcli.evaluation.agreement import shown_cells

    rows = term_rows(calibration)
    shown = sorted(rows, key=lambda row: -row[TERM_COLUMNS.index("labels")])[:_ROWS_SHOWN]
    title = "Thresholds"
    if len(rows) > len(shown):
        title = f"Thresholds of the {len(shown)} of {len(rows)} terms with most labels"
    console.show_table(title, TERM_COLUMNS, map(shown_cells, shown))
    columns, groups = group_table(calibration)
    title = f"Target precision {calibration.target:g}"
    console.show_table(title, columns, map(shown_cells, groups))
    if calibration.held_out is None:
        console.warn("Half of the images has too few labels to check the thresholds on the other.")
    if calibration.too_few:
        console.say(
            f"{_terms(calibration.too_few)} fewer than {FEWEST} labels that the truth can judge: "
            "the threshold of the group is used."
        )
    if calibration.unreachable:
        console.warn(
            f"{_terms(calibration.unreachable)} no score that is expected to be right in "
            f"{calibration.target:.0%} of cases: the threshold is 1, which shows nothing."
        )


def _terms(rows: tuple[Agreement, ...]) -> str:
    """Such as "2 terms (apple, pear) have"."""
    names = ", ".join(row.name for row in rows[:_NAMES_SHOWN])
    more = ", …" if len(rows) > _NAMES_SHOWN else ""
    return f"1 term ({names}) has" if len(rows) == 1 else f"{len(rows)} terms ({names}{more}) have"
