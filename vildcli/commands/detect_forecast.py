"""`vildcli detect --dry-run`: what a run would do, how long it would take, what it would store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vildcli import console
from vildcli.commands.detect_options import labelling_options, rate_choices
from vildcli.commands.detect_report import count_of, duration

if TYPE_CHECKING:
    from vildcli.labelling.forecast import Space
    from vildcli.labelling.plan import PlannedImage
    from vildcli.labelling.sources import FoundImage, FoundImages, Key
    from vildcli.vocabulary.category import Vocabulary


@dataclass(frozen=True, slots=True)
class _Forecast:
    """What is known of a run before it starts.

    Attributes:
        seconds: None where nothing was ever measured.
        measured_on: what the time was measured on, or why there is none.
        space: of the images left; None likewise.
    """

    seconds: float | None
    measured_on: str
    space: Space | None


def dry_run(
    found: FoundImages,
    is_chosen: Callable[[FoundImage], bool],
    vocabulary: Vocabulary,
    choices: Mapping[str, Any],
    make_job: Callable[[Mapping[str, Any], str], Any],
) -> dict[str, Any]:
    """Say what a run would do, and return the same as plain values."""
    plan, left = _plan(found, is_chosen, choices)
    copies = sum(image.copy_of is not None for image in left)
    units = len({image.unit for image in left})
    images = count_of(len(left), "image")
    console.say(f"A run would label {images} in {count_of(units, 'unit')}.")
    if len(plan) > len(left):
        others = count_of(len(plan) - len(left), "other image")
        console.say(f"{others} of the run are done, or of another shard.")
    if copies:
        console.say(f"Labels would be copied to {count_of(copies, 'image')} of the same bytes.")
    keys = {image.key for image in left if image.copy_of is None}
    forecast = _forecast(found, keys, vocabulary, choices, make_job)
    _show_time(forecast)
    if forecast.space is not None:
        _show_space(forecast.space, choices)
    return {
        "images": len(left),
        "units": units,
        "copies": copies,
        "skipped": found.skipped.total(),
        "seconds": forecast.seconds,
        "measured_on": forecast.measured_on,
        "bytes": forecast.space and _totals(forecast.space),
    }


def _plan(
    found: FoundImages, is_chosen: Callable[[FoundImage], bool], choices: Mapping[str, Any]
) -> tuple[Sequence[PlannedImage], Sequence[PlannedImage]]:
    """The plan of the run, that there is or that would be made, and what of it is left to do."""
    from vildcli.labelling.copies import find_copies
    from vildcli.labelling.plan import PLAN_FILE, make_plan, read_plan
    from vildcli.labelling.records import is_done

    out, shard = choices["out"], choices["shard"]
    if out and (out / PLAN_FILE).exists() and not choices["force"]:
        plan = read_plan(out)
        done = {unit for unit in {i.unit for i in plan} if is_done(out, unit)}
    else:
        images = list(filter(is_chosen, found.images))[: choices["limit"]]
        copies = {}
        if choices["dedupe"]:
            copies = find_copies(images, lambda image: found.roots[image.source] / image.path)
        plan, done = make_plan(images, copies=copies), set()
    return plan, [i for i in plan if shard.holds(i.unit) and i.unit not in done]


def _forecast(
    found: FoundImages,
    keys: set[Key],
    vocabulary: Vocabulary,
    choices: Mapping[str, Any],
    make_job: Callable[[Mapping[str, Any], str], Any],
) -> _Forecast:
    from vildcli.errors import ModelError
    from vildcli.labelling.forecast import try_images
    from vildcli.labelling.model import open_labelling_model
    from vildcli.labelling.rates import last_rate

    images = [image for image in found.images if image.key in keys]
    if not images:
        return _Forecast(0.0, "nothing is left", None)
    devices = choices["devices"]
    options = replace(labelling_options(choices), offline=True)  # a dry run downloads nothing
    if devices:
        options = replace(options, device=devices[0])
    try:
        model = open_labelling_model(vocabulary, options)
    except ModelError as error:
        said = str(error).rstrip(".")
        why = f"no model could be opened, and a dry run downloads nothing: {said}"
        rate = last_rate(rate_choices(choices))
        if rate is None:
            return _Forecast(None, why, None)
        seconds = rate.seconds_per_image * len(images)
        said = f"as a run of {rate.day}, {count_of(rate.images, 'image')}"
        return _Forecast(seconds, f"{said}; {why}", None)
    kind = str(model.settings.get("device", "cpu"))
    trial = try_images(found, images, vocabulary, model, make_job(choices, kind))
    beside = len(devices) if devices and kind != "cpu" else 1  # CPUs share what there is
    what = f"measured on {count_of(trial.images, 'image')} of these, on {kind}"
    seconds = trial.seconds_per_image * len(images) / beside
    return _Forecast(seconds, what, trial.space_per_image.times(len(images)))


def _show_time(forecast: _Forecast) -> None:
    if forecast.seconds is None:
        console.say(f"How long it would take is not known: {forecast.measured_on}.")
    else:
        console.say(f"It would take {duration(forecast.seconds)} ({forecast.measured_on}).")


def _totals(space: Space) -> dict[str, int]:
    totals = {"without_embeddings": round(space.records)}
    for kind, size in space.embeddings.items():
        totals[kind] = round(space.records + size)
    return totals


def _show_space(space: Space, choices: Mapping[str, Any]) -> None:
    totals = _totals(space)
    kept = choices["region_dtype"] if choices["keep_regions"] else "without_embeddings"
    others = {
        "without_embeddings": "without embeddings",
        "float16": "with --keep-regions",
        "int8": "with --keep-regions --region-dtype int8",
    }
    said = ", ".join(f"{_size(totals[k])} {text}" for k, text in others.items() if k != kept)
    console.say(f"It would store {_size(totals[kept])}; {said}.")
    free = _free(choices["out"] or Path("runs"))
    if totals[kept] > free:
        console.warn(f"Only {_size(free)} are free there.")


def _free(out: Path) -> int:
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    return shutil.disk_usage(parent).free


def _size(count: float) -> str:
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
