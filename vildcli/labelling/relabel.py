"""Stored regions to labels of another vocabulary: no image, no detector.

Embeddings were rounded to float16 before they were scored for the first time, so that the same
labeller gives the same bytes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from vildcli.errors import RunError
from vildcli.labelling.label import RegionLabeller
from vildcli.labelling.plan import PLAN_FILE, read_plan, units_of
from vildcli.labelling.records import (
    HEAD_FILE,
    done_units,
    is_done,
    part_path,
    read_part,
    write_part,
)
from vildcli.labelling.rows import label_rows
from vildcli.labelling.run import KIND, VOCABULARY_FILE, labelling_settings
from vildcli.labelling.stored import from_int8
from vildcli.labelling.summary import LabellingSummary, summarise
from vildcli.runs import open_run, read_run, take_over
from vildcli.types import MASK_SIZE, Regions
from vildcli.vocabulary.category import Vocabulary
from vildcli.vocabulary.files import save_vocabulary

# Settings of a run that names have no say in.
_OF_REGIONS = (
    "system", "model", "teacher", "proposals", "regions", "tile", "device", "precision",
    "region_dtype", "labels", "existing",
)  # fmt: skip


def relabel_run(
    run: Path,
    labeller: RegionLabeller,
    out: Path,
    *,
    settings: Mapping[str, Any],
    vocabulary: Vocabulary,
    force: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> LabellingSummary:
    """Label the stored regions of a run's finished units into a run of their own.

    Image ids, region numbers and regions stay; the new run can be relabelled in its turn.

    Args:
        run: made with `--keep-regions`.
        labeller: names the regions.
        out: absent, empty, or an earlier call's folder with the same settings, which is continued.
        settings: everything that decides the labels, as for `open_labelling_run`.
        vocabulary: what the labeller's category ids stand for.
        force: delete another vildcli folder at `out` first.
        advance: told the number of images just done.

    Raises:
        RunError: the run has no stored embeddings, or `out` cannot be used.
    """
    begin = time.perf_counter()
    header = _with_embeddings(run, out)
    open_run(
        out,
        kind=KIND,
        settings=_settings(header, settings),
        arguments=header["arguments"],
        force=force,
    )
    save_vocabulary(vocabulary, out / VOCABULARY_FILE)
    for file in (PLAN_FILE, HEAD_FILE):
        take_over(run / file, out / file)
    done = set(done_units(run))
    units = {u: images for u, images in units_of(read_plan(run)).items() if u in done}
    resumed = 0
    for unit, images in units.items():
        if is_done(out, unit):
            resumed += len(images)
            continue
        _relabel_unit(run, labeller, out, unit)
        advance(len(images))
    return summarise(out, units, resumed, time.perf_counter() - begin)


def stored_regions(run: Path, unit: int) -> Iterator[tuple[int, Regions]]:
    """Image id and regions of each image of a unit that has any, embeddings in float16."""
    table = read_part(run, "regions", unit).combine_chunks()
    has_codes = "box_code" in table.column_names and not table.column("box_code").null_count
    sizes = _sizes(run, unit) if has_codes else {}
    image_ids = table.column("image_id").to_numpy()
    ids, starts = np.unique(image_ids, return_index=True)
    ends = np.append(starts, len(image_ids))[1:]
    for image_id, start, end in zip(ids.tolist(), starts, ends, strict=True):
        part = table.slice(start, end - start)  # copied image by image: a unit may be large
        yield (
            image_id,
            Regions(
                boxes=_boxes(part, "box"),
                proposals=_boxes(part, "proposal"),
                objectness=torch.from_numpy(part.column("objectness").to_numpy().copy()),
                masks=_masks(part),
                text_side=column_tensor(part, "text_side"),
                image_side=column_tensor(part, "image_side"),
                box_codes=_boxes(part, "box_code") if has_codes else None,
                size=sizes.get(image_id),
            ),
        )


def _sizes(run: Path, unit: int) -> dict[int, tuple[int, int]]:
    rows = read_part(run, "images", unit, ("image_id", "width", "height")).to_pylist()
    return {row["image_id"]: (row["width"], row["height"]) for row in rows}


def _with_embeddings(run: Path, out: Path) -> dict[str, Any]:
    header = read_run(run, KIND)
    if not header["settings"].get("keep_regions"):
        raise RunError(
            f"{run} has no stored region embeddings.",
            hint="Run detect with --keep-regions; its run can be relabelled as often as you like.",
        )
    if out.resolve() == run.resolve():
        raise RunError(f"{out} is the run to relabel.", hint="Choose another --out.")
    return header


def _settings(header: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the new run: what made the regions, as the old one says it, and what labels them now."""
    there = header["settings"]
    return labelling_settings(
        {
            **{key: there[key] for key in _OF_REGIONS if key in there},
            **settings,
            "keep_regions": True,
            "regions_of": there.get("regions_of", header["fingerprint"]),
        }
    )


def _relabel_unit(run: Path, labeller: RegionLabeller, out: Path, unit: int) -> None:
    rows = [
        row
        for image_id, regions in stored_regions(run, unit)
        for row in label_rows(image_id, labeller.label(regions))
    ]
    take_over(part_path(run, "regions", unit), part_path(out, "regions", unit))
    write_part(out, "labels", unit, rows)
    take_over(part_path(run, "images", unit), part_path(out, "images", unit))


def column_tensor(table: pa.Table, name: str, width: int = -1) -> Tensor | None:
    """[R, D] of a column of lists of one length; None where it is null throughout.

    Embeddings that are stored as int8 come back as the float32 that was scored.
    """
    column = table.column(name)
    if len(column) == 0 or column.null_count:
        return None if width < 0 else torch.zeros(0, width)
    values: NDArray[Any] = pc.list_flatten(column).to_numpy()
    rows = torch.from_numpy(values.reshape(len(column), width).copy())
    return from_int8(rows) if rows.dtype == torch.int8 else rows


def _boxes(table: pa.Table, name: str) -> Tensor:
    found = column_tensor(table, name, 4)
    assert found is not None, f"{name} has a width"
    return found


def _masks(table: pa.Table) -> Tensor:
    column = table.column("mask").combine_chunks()
    values = np.frombuffer(column.buffers()[1], np.uint8)
    first = column.offset * MASK_SIZE**2
    part = values[first : first + len(column) * MASK_SIZE**2]
    return torch.from_numpy(part.reshape(-1, MASK_SIZE, MASK_SIZE).copy())
