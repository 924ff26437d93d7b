"""What `vildcli detect` tells a person, and a program that reads its log."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from vildcli import console

if TYPE_CHECKING:
    from vildcli.labelling.human_files import HumanLabels
    from vildcli.labelling.label import StageSeconds, Watch
    from vildcli.labelling.plan import Shard
    from vildcli.labelling.run import LabellingRun
    from vildcli.labelling.sources import FoundImages
    from vildcli.labelling.summary import LabellingSummary

SHEET_FILE = "sheet.png"
FAILURES_SHOWN = 5
_OF_PEOPLE = {
    "skip": "they are left out",
    "merge": "what they drew a box around is left out",
    "replace": "they are labelled like the others",
}


def show_found(found: FoundImages) -> None:
    images, skipped = count_of(len(found.images), "image"), found.skipped_text()
    console.say(f"{images} found" + (f" ({skipped})." if skipped else "."))


def show_people(people: HumanLabels, existing: str) -> None:
    labelled = [key for key in people.found if people.is_labelled(key)]
    boxes = sum(len(people.drawn(key)) for key in labelled)
    images, drawn = count_of(len(labelled), "image"), count_of(boxes, "box", "boxes")
    console.say(f"{people.path}: people labelled {images} ({drawn}); {_OF_PEOPLE[existing]}.")
    if people.unmatched:
        console.warn(f"{count_of(people.unmatched, 'labelled image')} of {people.path} not found.")


def show_opened(
    run: LabellingRun, shard: Shard, seconds_per_image: Callable[[], float] | None
) -> None:
    if run.changed:
        console.say(f"{count_of(run.changed, 'image')} changed: their units are labelled again.")
    if run.vanished:
        console.warn(f"{count_of(run.vanished, 'image')} of the run cannot be found any more.")
    if run.new:
        console.say(f"{count_of(run.new, 'image')} not in this run yet; --add-new appends them.")
    if run.added:
        console.say(f"{count_of(run.added, 'image')} appended.")
    left, units = run.left(shard), len(run.units_left(shard))
    console.log_event("start", run=str(run.folder), state=run.state, images=left, units=units)
    if run.state == "complete":
        console.say(f"{run.folder} is already done.")
        return
    time = f", {duration(left * seconds_per_image())}" if seconds_per_image else ""
    verb = "Continuing" if run.state == "continued" else "Starting"
    told = f"{count_of(left, 'image')} to label in {count_of(units, 'unit')}{time}"
    console.say(f"{verb} {run.folder}: {told}.")
    copies = sum(image.copy_of is not None for image in run.plan)
    if copies:
        console.say(f"Labels are copied to {count_of(copies, 'image')} of the same bytes.")


def watching(
    left: int, advance: console.Advance, seconds: StageSeconds, *, forecast: bool
) -> Watch:
    """What is told while a run goes on.

    Args:
        left: images.
        forecast: say once, after the first images, how long the others will take.
    """
    from vildcli.labelling.label import Watch

    told = _Progress(left, advance, seconds, forecast)
    return Watch(told, _say_shrunk, lambda why: console.warn(f"{why} The others go on."), seconds)


class _Progress:
    """Moves a bar on, with images/s, what the time goes into, and how much of it is left."""

    def __init__(
        self, left: int, advance: console.Advance, seconds: StageSeconds, forecast: bool
    ) -> None:
        self._left, self._done, self._advance = left, 0, advance
        self._seconds, self._forecast = seconds, forecast
        self._begin = time.perf_counter()

    def __call__(self, images: int) -> None:
        if not self._done and not images:  # a process of several has opened its model
            self._begin = time.perf_counter()
            return
        self._left, self._done = self._left - images, self._done + images
        rate = self._done / (time.perf_counter() - self._begin)
        left, shares = self._left / rate if rate else 0.0, self._seconds.shares()
        if self._forecast and self._left > 0 and self._seconds.forward:
            console.say(f"The rest will take {duration(left)}.")
            self._forecast = False
        facts = {
            "images_per_second": round(rate, 3),
            "seconds_left": round(left, 3),
            "shares": _rounded(shares),
        }
        note = f"{rate:.1f} images/s"
        if sys.stderr.isatty():  # its bar counts down by itself, and leaves little room
            note += f", {_share_text(shares).partition(',')[0]}"
        else:
            note += f", {duration(left)} left" if self._left > 0 else ""
            note += f"; {_share_text(shares)}"
        self._advance(images, note, facts)


def _say_shrunk(before: int, after: int) -> None:
    console.warn(f"Memory ran out at {before} images a batch; it goes on with {after}.")


def show_result(
    run: LabellingRun, summary: LabellingSummary, seconds: StageSeconds, conf: float | None
) -> None:
    from vildcli.labelling.run import FAILED_FILE, write_failures
    from vildcli.review.sheet import write_contact_sheet

    columns = ("images", "labelled", "failed", "labels", "images/s", "peak MiB")
    row = (
        summary.images,
        summary.labelled,
        summary.failed,
        summary.labels,
        summary.images_per_second,
        summary.peak_rss_mib,
    )
    console.show_table(str(run.folder), columns, [row])
    if summary.labelled + summary.failed > summary.resumed:
        console.say(f"Time: {_share_text(seconds.shares())}")
    _say_left(summary)
    failed = write_failures(run.folder)
    for image in failed[:FAILURES_SHOWN]:
        console.say(f"Failed: {image.reason}")
    if len(failed) > FAILURES_SHOWN:
        more = len(failed) - FAILURES_SHOWN
        console.say(f"… and {more} more, listed in {run.folder / FAILED_FILE}")
    _show_duplicates(run)
    if summary.labelled:
        sheet = write_contact_sheet(run.folder, run.folder / SHEET_FILE, conf=conf)
        console.say(f"Contact sheet: {sheet}")
    console.log_event(
        "end",
        **asdict(summary),
        shares=_rounded(seconds.shares()),
        stages=_rounded(asdict(seconds)),
    )
    console.say(f"Next: {console.program()} export {shlex.quote(str(run.folder))} --to coco")


def _say_left(summary: LabellingSummary) -> None:
    """Only copies can be left: their originals are in units of another shard."""
    left = summary.images - summary.labelled - summary.failed
    if left:
        images = count_of(left, "image")
        console.say(f"{images} left, copies of images that another process labels: run it again.")


def _show_duplicates(run: LabellingRun) -> None:
    """Say how many images show the same, once a run is complete."""
    from vildcli.labelling.duplicates import DUPLICATES_FILE, find_duplicates, write_duplicates
    from vildcli.labelling.plan import read_plan
    from vildcli.labelling.records import done_units

    file, plan = run.folder / DUPLICATES_FILE, read_plan(run.folder)
    if {image.unit for image in plan} - set(done_units(run.folder)):
        return
    if run.state == "complete" and file.exists():
        return
    found = find_duplicates(run.folder)
    write_duplicates(run.folder, found, plan)
    told = f"Copies: {found.exact_copies} exact"
    listed = f", listed in {file}" if found.exact_copies + found.near_copies else ""
    if found.why_not:
        console.say(f"{told}{listed}; near ones are not looked for: {found.why_not}")
    else:
        console.say(f"{told}, {found.near_copies} near{listed}")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _share_text(shares: dict[str, float]) -> str:
    """Such as "71% forward, 20% decode, 6% score, 3% write": what the run waited for."""
    ordered = sorted(shares.items(), key=lambda stage: -stage[1])
    return ", ".join(f"{share:.0%} {stage}" for stage, share in ordered)


def count_of(count: int, thing: str, things: str | None = None) -> str:
    return f"{count} {thing if count == 1 else things or thing + 's'}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
