"""Labelling runs as one: shards of machines apart, other images, other vocabularies.

equal plan and settings     units are taken over as they are
anything else               unit by unit: what every run has of an image, merged
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from vildcli.errors import RunError
from vildcli.labelling.plan import (
    PLAN_FILE,
    PlannedImage,
    read_plan,
    source_roots,
    write_plan,
)
from vildcli.labelling.records import (
    HEAD_FILE,
    RECORD_FORMAT,
    done_units,
    is_done,
    part_path,
    read_part,
    write_part_table,
)
from vildcli.labelling.run import VOCABULARY_FILE, write_failures
from vildcli.labelling.thresholds import display_threshold, view_run
from vildcli.merging.categories import MergedCategories, merge_categories
from vildcli.merging.inputs import KIND, RunInput
from vildcli.merging.overlap import NMS_IOU
from vildcli.merging.run_images import MergedImage, MergedPlan, merge_plans
from vildcli.merging.run_rows import ImageRows, RunParts, merge_rows
from vildcli.merging.summary import Counts, MergeSummary
from vildcli.runs import open_run, take_over
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary

_TABLES = ("regions", "labels", "images")  # the commit mark last


def merge_runs(
    runs: Sequence[RunInput],
    out: Path,
    *,
    nms_iou: float = NMS_IOU,
    renumber: bool = False,
    force: bool = False,
    advance: Callable[[int], None] = lambda units: None,
) -> MergeSummary:
    """Write one labelling run that holds what all of them have finished.

    The first run's ids, names and thresholds stay. Killed, the same call continues.

    Args:
        runs: at least one.
        out: absent, empty, or an earlier call's folder, which is continued.
        nms_iou: overlap above which of two runs' labels on one image the better one stays.
        renumber: give free ids to images and categories of later runs whose own are taken.
        force: delete another vildcli folder at `out` first.
        advance: told the number of units just done.

    Raises:
        RunError: `out` cannot be used, or ids are in each other's way.
        VocabularyError: an id stands for two things.
        DataError: a record is damaged, or a file is another one in two runs.
    """
    _refuse_own(runs, out)
    if _are_shards(runs):
        return _merge_shards(runs, out, force, advance)
    merged = merge_plans(runs, renumber=renumber)
    lists = [(run.name, run.view.vocabulary.categories) for run in runs]
    categories = merge_categories(lists, renumber=renumber)
    keep_regions = _share_a_head(runs)
    _open(runs, out, merged, categories, keep_regions, nms_iou, force)
    counts, earlier = Counts(), len(done_units(out))
    parts = [
        RunParts(run, read_plan(run.path), ids)
        for run, ids in zip(runs, categories.ids, strict=True)
    ]
    for unit, images in _units(merged.images).items():
        if not is_done(out, unit):
            rows = [_merge_image(image, parts, nms_iou, keep_regions, counts) for image in images]
            _write_unit(out, unit, rows)
        advance(1)
    write_failures(out)
    return _summary(runs, out, counts, earlier, _without_embeddings(runs, keep_regions))


def _refuse_own(runs: Sequence[RunInput], out: Path) -> None:
    if out.resolve() in [run.path.resolve() for run in runs]:
        raise RunError(f"{out} is one of the runs to merge.", hint="Choose another --out.")


def _are_shards(runs: Sequence[RunInput]) -> bool:
    """Whether all were started with one command on equal folders, perhaps of several machines."""

    def rows(run: RunInput) -> list[tuple[Any, ...]]:
        return [(i.image_id, *i.key, i.bytes, i.unit, i.copy_of) for i in read_plan(run.path)]

    first = runs[0]
    same_settings = all(run.fingerprint == first.fingerprint for run in runs)
    return same_settings and all(rows(run) == rows(first) for run in runs[1:])


def _merge_shards(
    runs: Sequence[RunInput], out: Path, force: bool, advance: Callable[[int], None]
) -> MergeSummary:
    first = runs[0]
    arguments = {**first.header["arguments"], "sources": _reachable_sources(runs)}
    open_run(
        out,
        kind=KIND,
        settings=first.settings,
        arguments={**arguments, "merged": _said(runs)},
        force=force,
    )
    for name in (VOCABULARY_FILE, PLAN_FILE, HEAD_FILE):
        if (first.path / name).exists() and not (out / name).exists():
            take_over(first.path / name, out / name)
    if _plan_rows(read_plan(out)) != _plan_rows(read_plan(first.path)):
        raise _another_merge(out)
    counts, earlier = Counts(), len(done_units(out))
    for run in runs:
        for unit in run.view.units:
            labels = read_part(run.path, "labels", unit, ["label"]).num_rows
            counts.given[run.name] += labels
            if not is_done(out, unit):
                counts.kept[run.name] += labels
                for table in _TABLES:
                    take_over(part_path(run.path, table, unit), part_path(out, table, unit))
            advance(1)
    write_failures(out)
    return _summary(runs, out, counts, earlier)


def _plan_rows(plan: Sequence[PlannedImage]) -> list[tuple[Any, ...]]:
    return [(image.image_id, *image.key, image.unit) for image in plan]


def _reachable_sources(runs: Sequence[RunInput]) -> dict[str, str]:
    """The first run's folders, or those of the first whose folders are all on this machine."""
    every = [source_roots(run.path) for run in runs]
    there = (roots for roots in every if all(root.exists() for root in roots.values()))
    return {name: str(root) for name, root in next(there, every[0]).items()}


def _share_a_head(runs: Sequence[RunInput]) -> bool:
    """Whether all regions were stored with embeddings of one space, and are scored alike."""
    if not all(run.settings.get("keep_regions") for run in runs):
        return False
    kinds = {run.settings.get("region_dtype", "float16") for run in runs}
    heads = {file.read_bytes() for run in runs if (file := run.path / HEAD_FILE).exists()}
    same = len(heads) == 1 or len({run.fingerprint for run in runs}) == 1
    return same and len(kinds) == 1


def _open(
    runs: Sequence[RunInput],
    out: Path,
    merged: MergedPlan,
    categories: MergedCategories,
    keep_regions: bool,
    nms_iou: float,
    force: bool,
) -> None:
    confs = [run.header["arguments"].get("default_conf") for run in runs]
    is_one_conf = len(set(confs)) == 1
    open_run(
        out,
        kind=KIND,
        settings=_settings(runs, keep_regions, nms_iou),
        arguments={
            "sources": {name: str(root) for name, root in merged.sources.items()},
            "default_conf": confs[0] if is_one_conf else None,
            "provenance": _provenance(runs),
            "merged": _said(runs),
        },
        force=force,
    )
    if not (out / VOCABULARY_FILE).exists():
        vocabulary = _vocabulary(runs, categories)
        if not is_one_conf:
            vocabulary = _with_thresholds(vocabulary, categories, confs)
        save_vocabulary(vocabulary, out / VOCABULARY_FILE)
    if keep_regions and not (out / HEAD_FILE).exists():
        take_over(runs[0].path / HEAD_FILE, out / HEAD_FILE)
    if not (out / PLAN_FILE).exists():
        write_plan(out, merged.plan, first=True)
    if _plan_rows(read_plan(out)) != _plan_rows(merged.plan):
        raise _another_merge(out)


def _another_merge(out: Path) -> RunError:
    return RunError(
        f"{out} holds a merge of other images.", hint="Choose another --out, or --force."
    )


def _settings(runs: Sequence[RunInput], keep_regions: bool, nms_iou: float) -> dict[str, Any]:
    """Of runs made alike, theirs; else what was merged, and how."""
    first = runs[0].settings
    if len({run.fingerprint for run in runs}) == 1:
        return dict(first)
    own = {"region_dtype": first["region_dtype"]} if "region_dtype" in first else {}
    return {
        "merged": [[run.fingerprint, len(run.view.units)] for run in runs],
        "nms_iou": nms_iou,
        "floor": max(float(run.settings.get("floor", 0)) for run in runs),
        "keep_regions": keep_regions,
        "record_format": RECORD_FORMAT,
        **(own if keep_regions else {}),
    }


def _said(runs: Sequence[RunInput]) -> list[dict[str, Any]]:
    return [
        {
            **run.said(),
            "folder": str(run.path.absolute()),
            "units": f"{len(run.view.units)} of {run.view.units_total}",
            "settings": run.settings,
        }
        for run in runs
    ]


def _provenance(runs: Sequence[RunInput]) -> Any:
    """What the weights of all of them have seen."""
    found = {run.name: run.header["arguments"].get("provenance") or {} for run in runs}
    values = list(found.values())
    return values[0] if all(value == values[0] for value in values) else {"merged": found}


def _vocabulary(runs: Sequence[RunInput], merged: MergedCategories) -> Vocabulary:
    own = [run.view.vocabulary for run in runs]
    if len({vocabulary.fingerprint() for vocabulary in own}) == 1:
        return replace(own[0], categories=merged.categories)
    names = {category.name for category in merged.categories}
    attributes: dict[str, tuple[str, ...]] = {}
    for vocabulary in own:
        for name, values in vocabulary.attributes.items():
            attributes[name] = tuple(dict.fromkeys((*attributes.get(name, ()), *values)))
    step = {
        "step": "merge",
        "inputs": [{"name": v.name, "fingerprint": v.fingerprint()} for v in own],
    }
    return Vocabulary(
        name=" + ".join(dict.fromkeys(vocabulary.name for vocabulary in own)),
        categories=merged.categories,
        attributes=attributes,
        negatives=tuple(dict.fromkeys(n for v in own for n in v.negatives if n not in names)),
        provenance=(step,),
        parents=tuple(_parents(own, merged.categories)),
    )


def _parents(own: Sequence[Vocabulary], categories: Sequence[Category]) -> list[Category]:
    """Parents that no category is called as; none of them has labels, so any id will do."""
    names, ids = {c.name for c in categories}, {c.id for c in categories}
    parents = []
    for parent in (parent for vocabulary in own for parent in vocabulary.parents):
        if parent.name not in names:
            number = parent.id if parent.id not in ids else max(ids) + 1
            names.add(parent.name)
            ids.add(number)
            parents.append(replace(parent, id=number))
    return parents


def _with_thresholds(
    vocabulary: Vocabulary, merged: MergedCategories, confs: Sequence[float | None]
) -> Vocabulary:
    """Every category shown from the score that its own run shows it from."""
    pairs = zip(merged.categories, merged.owners, strict=True)
    shown = tuple(
        replace(category, threshold=display_threshold(category, default_conf=confs[owner]))
        for category, owner in pairs
    )
    return replace(vocabulary, categories=shown)


def _units(images: Sequence[MergedImage]) -> Mapping[int, list[MergedImage]]:
    """The images of each unit that can be written."""
    units: dict[int, list[MergedImage]] = {}
    for image in images:
        if image.members:
            units.setdefault(image.planned.unit, []).append(image)
    return units


def _merge_image(
    image: MergedImage,
    parts: Sequence[RunParts],
    nms_iou: float,
    keep_regions: bool,
    counts: Counts,
) -> ImageRows:
    found: dict[str, tuple[str, ImageRows]] = {}
    for place, image_id in image.members.items():
        run = parts[place].run
        if run.fingerprint not in found:  # runs made alike say the same twice
            found[run.fingerprint] = (run.name, parts[place].rows(image_id))
    return merge_rows(
        image.planned,
        list(found.values()),
        nms_iou=nms_iou,
        keep_regions=keep_regions,
        counts=counts,
    )


def _write_unit(out: Path, unit: int, rows: Sequence[ImageRows]) -> None:
    for table in _TABLES:
        tables = [getattr(row, table) for row in rows]
        write_part_table(out, table, unit, pa.concat_tables(tables).combine_chunks())


def _summary(
    runs: Sequence[RunInput],
    out: Path,
    counts: Counts,
    earlier: int,
    notes: Sequence[str] = (),
) -> MergeSummary:
    images = labels = 0
    view = view_run(out)
    for unit in view.units:
        images += read_part(out, "images", unit, ["status"]).num_rows
        labels += read_part(out, "labels", unit, ["label"]).num_rows
    if earlier:
        now = f"; the table counts the other {left}" if (left := len(view.units) - earlier) else ""
        notes = [f"{earlier} units were merged before{now}.", *notes]
    if not view.is_complete:
        notes = [f"{out} is not complete: {view.progress_text}.", *notes]
    return counts.summary(
        out,
        kind="labelling run",
        images=images,
        labels=labels,
        inputs=[run.name for run in runs],
        notes=notes,
    )


def _without_embeddings(runs: Sequence[RunInput], keep_regions: bool) -> list[str]:
    if keep_regions or not any(run.settings.get("keep_regions") for run in runs):
        return []
    return [
        "Region embeddings are left out, as the runs have none or others: the result cannot be "
        "relabelled."
    ]
