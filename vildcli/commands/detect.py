"""`vildcli detect`: label image folders with any vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.commands import detect_report as report
from vildcli.commands.detect_forecast import dry_run
from vildcli.commands.detect_options import (
    GROUPS,
    labelling_options,
    model_options,
    rate_choices,
    refuse_contradictions,
    run_options,
)
from vildcli.commands.grouping import GroupedCommand

if TYPE_CHECKING:
    from vildcli.labelling.human_files import HumanLabels
    from vildcli.labelling.human_labels import HumanBoxes
    from vildcli.labelling.label import LabellingJob, StageSeconds
    from vildcli.labelling.model import OpenedModel
    from vildcli.labelling.options import LabellingOptions
    from vildcli.labelling.ray_engine import RayChoices
    from vildcli.labelling.run import LabellingRun
    from vildcli.labelling.sources import FoundImage, FoundImages, Key
    from vildcli.labelling.summary import LabellingSummary
    from vildcli.vocabulary.category import Vocabulary

EXAMPLE = """\
\b
Examples:
  vildcli detect photos --classes "apple, pear"
  vildcli detect photos --model runs/demo/model.safetensors --vocab coco --out runs/photos
  vildcli detect photos --vocab coco --sample 500 --dry-run
"""


@click.command(cls=GroupedCommand, groups=GROUPS, epilog=EXAMPLE)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path())
@model_options
@run_options
def command(
    sources: tuple[str, ...],
    vocab: str | None,
    classes: str | None,
    as_json: bool,
    **choices: Any,
) -> int:
    """Label image folders with any vocabulary.

    SOURCE is a folder, an image file, a glob, a tar archive (WebDataset), a video (with --every),
    or a .txt file that lists any of them. A run that was interrupted continues when the same
    command is given again; one that is complete says so.
    """
    from vildcli.commands.calibrate import warn_of_foreign_thresholds
    from vildcli.commands.embed import warn_of_unread
    from vildcli.labelling.human_files import match_human_labels
    from vildcli.labelling.run import check_out
    from vildcli.labelling.sources import find_images

    console.log_as(choices["log_format"])
    # What is cheap to refuse is refused before a model is loaded.
    refuse_contradictions(choices)
    found = find_images(sources, every=choices["every"])
    vocabulary = chosen_vocabulary(vocab, classes)
    if choices["out"] and not choices["force"]:
        check_out(choices["out"])
    report.show_found(found)
    people = match_human_labels(choices["labels"], found) if choices["labels"] else None
    is_chosen = _chooser(found, people, choices)
    if people is not None:
        report.show_people(people, _existing(choices))
    if choices["dry_run"]:
        said = dry_run(found, is_chosen, vocabulary, choices, _job)
        if as_json:
            click.echo(json.dumps(said))
        return 0
    model = _open_model(vocabulary, choices)
    warn_of_unread(model.labeller.unread)
    warn_of_foreign_thresholds(vocabulary, model.settings)
    run = _open_run(found, is_chosen, people, vocabulary, model, choices)
    report.show_opened(run, choices["shard"], model.seconds_per_image)
    summary, seconds = _label(run, people, model, vocabulary, found, choices)
    report.show_result(run, summary, seconds, choices["conf"])
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    return 3 if summary.failed and run.state != "complete" else 0


def chosen_vocabulary(vocab: str | None, classes: str | None) -> Vocabulary:
    from vildcli.vocabulary.files import load_vocabulary, parse_classes

    if (vocab is None) == (classes is None):
        raise click.UsageError('Give either --vocab V or --classes "apple, pear".')
    return load_vocabulary(vocab) if vocab is not None else parse_classes(classes or "")


def _existing(choices: Mapping[str, Any]) -> str:
    """What becomes of images that people labelled."""
    return choices["existing"] or "skip"


def _chooser(
    found: FoundImages, people: HumanLabels | None, choices: Mapping[str, Any]
) -> Callable[[FoundImage], bool]:
    """Which images may be in the run: those that are neither skipped nor left out of the sample."""
    from vildcli.errors import NothingToDoError
    from vildcli.labelling.sample import draw_sample

    def is_left(image: FoundImage) -> bool:
        return not (skip and people is not None and people.is_labelled(image.key))

    skip = _existing(choices) == "skip"
    if people is not None and not any(map(is_left, found.images)):
        raise NothingToDoError(
            f"People labelled every image already: {people.path} has all {len(found.images)}.",
            hint="--existing merge finds what they left out.",
        )
    if choices["sample"] is None:
        return is_left
    keys = draw_sample(filter(is_left, found.images), choices["sample"], choices["seed"])
    return lambda image: image.key in keys


def _open_model(vocabulary: Vocabulary, choices: Mapping[str, Any]) -> OpenedModel:
    """The model; of several processes each will open it by itself: on the CPU meanwhile."""
    from vildcli.labelling.model import open_labelling_model

    options = labelling_options(choices)
    if choices["engine"] == "ray":
        from vildcli.labelling.ray_engine import kind_of_device

        kind = kind_of_device(_ray_choices(choices), options.device)
    elif choices["devices"]:
        kind = _check_devices(choices["devices"], options)
    else:
        return open_labelling_model(vocabulary, options)
    model = open_labelling_model(vocabulary, replace(options, device="cpu"))
    return replace(model, settings={**model.settings, "device": kind}, seconds_per_image=None)


def _ray_choices(choices: Mapping[str, Any]) -> RayChoices:
    from vildcli.labelling.ray_engine import RayChoices

    return RayChoices(choices["ray_address"], choices["actors"])


def _check_devices(devices: tuple[str, ...], options: LabellingOptions) -> str:
    from vildcli.devices import choose_device
    from vildcli.labelling.detectors import refuse_precision
    from vildcli.labelling.many_devices import refuse_mixed

    kind = refuse_mixed(devices)
    for name in devices:
        refuse_precision(options.precision, choose_device(name))
    return kind


def _open_run(
    found: FoundImages,
    is_chosen: Callable[[FoundImage], bool],
    people: HumanLabels | None,
    vocabulary: Vocabulary,
    model: OpenedModel,
    choices: Mapping[str, Any],
) -> LabellingRun:
    from vildcli.labelling.run import labelling_settings, open_labelling_run
    from vildcli.runs import fingerprint

    settings = {**model.settings, "keep_regions": choices["keep_regions"]}
    arguments = {
        "default_conf": model.default_conf,
        "batch": choices["batch"] or "auto",
        "provenance": model.provenance,
        "model": model.head.reference,
    }
    if people is not None:
        settings |= {"labels": people.sha256, "existing": _existing(choices)}
        arguments["labels"] = str(people.path.resolve())
    if choices["sample"] is not None:
        arguments["sample"] = {"images": choices["sample"], "seed": choices["seed"]}
    source = next(iter(found.roots))
    out = choices["out"] or Path(
        "runs", f"{source}-{fingerprint(labelling_settings(settings))[:8]}"
    )
    limits = [n for n in (choices["limit"], choices["sample"]) if n is not None]
    run = open_labelling_run(
        out,
        found,
        settings,
        vocabulary,
        arguments=arguments,
        force=choices["force"],
        add_new=choices["add_new"],
        limit=min(limits, default=None),
        wanted=is_chosen,
        dedupe=choices["dedupe"],
        apart=_drawn_on(people) if people is not None else frozenset(),
    )
    if choices["keep_regions"]:
        model.save_head(run.folder)
    return run


def _drawn_on(people: HumanLabels) -> frozenset[Key]:
    return frozenset(key for key in people.found if people.is_labelled(key))


def _job(
    choices: Mapping[str, Any], device: str, people: Mapping[int, HumanBoxes] | None = None
) -> LabellingJob:
    from vildcli.labelling.batches import first_batch
    from vildcli.labelling.label import LabellingJob

    return LabellingJob(
        keep_regions=choices["keep_regions"],
        region_dtype=choices["region_dtype"],
        people=people or {},
        batch_size=choices["batch"] or first_batch(device),
        may_shrink=not choices["batch"],
        workers=choices["workers"],
    )


def _label(
    run: LabellingRun,
    people: HumanLabels | None,
    model: OpenedModel,
    vocabulary: Vocabulary,
    found: FoundImages,
    choices: Mapping[str, Any],
) -> tuple[LabellingSummary, StageSeconds]:
    from vildcli.labelling.human_labels import human_boxes
    from vildcli.labelling.label import StageSeconds, label_images
    from vildcli.labelling.rates import remember_rate
    from vildcli.labelling.summary import remember_call

    shard, devices = choices["shard"], choices["devices"]
    merged = people is not None and _existing(choices) == "merge"
    drawn = human_boxes(people, run.plan) if people is not None and merged else {}
    job = _job(choices, str(model.settings.get("device", "cpu")), drawn)
    left, skipped, seconds = run.left(shard), found.skipped.total(), StageSeconds()
    with console.progress("Labelling", left) as advance:
        # A model that can be measured beforehand has said how long it will take.
        watch = report.watching(left, advance, seconds, forecast=not model.seconds_per_image)
        options = labelling_options(choices)
        if choices["engine"] == "ray":
            from vildcli.labelling.ray_engine import label_on_ray

            cluster = _ray_choices(choices)
            summary = label_on_ray(
                run.folder, vocabulary, options, job, cluster, watch, shard=shard, skipped=skipped
            )
        elif devices:
            from vildcli.labelling.many_devices import label_on_devices

            summary = label_on_devices(
                run.folder, vocabulary, options, job, devices, watch, shard=shard, skipped=skipped
            )
        else:
            summary = label_images(run.folder, model, job, watch, shard=shard, skipped=skipped)
    labelled = summary.labelled + summary.failed - summary.resumed
    if labelled > 0:
        remember_rate(rate_choices(choices), labelled, summary.seconds)
        remember_call(run.folder, summary, seconds.shares())
    return summary, seconds
