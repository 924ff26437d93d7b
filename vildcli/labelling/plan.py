"""The plan of a labelling run: the sorted image list, cut into units, and where its images lie.

A unit is what is redone whole or kept whole. An image keeps its id and its unit for the life of the
run: images that turn up later are appended in units of their own. No torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from vildcli.data.members import is_there
from vildcli.labelling.records import ImageRecord, read_table, write_table
from vildcli.labelling.sources import FoundImage
from vildcli.runs import RUN_FILE, read_run

PLAN_FILE = "plan.parquet"
_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("unit", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image to label. `image_id` is 1 + its place; size and time are as last listed."""

    image_id: int
    source: str
    path: str
    bytes: int
    mtime_ns: int
    unit: int


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 1) of `count`: the units index, index + count, …"""

    index: int = 1
    count: int = 1

    def holds(self, unit: int) -> bool:
        return unit % self.count == self.index - 1


WHOLE = Shard()


@dataclass(frozen=True, slots=True)
class PlanChanges:
    """How the files of a plan differ from those found now.

    Attributes:
        changed: planned images whose size or time is another now, with the new values.
        new: found, but not planned.
        vanished: planned, but not found.
    """

    changed: tuple[PlannedImage, ...]
    new: tuple[FoundImage, ...]
    vanished: tuple[PlannedImage, ...]


def unit_size(images: int) -> int:
    """Images of a unit: a thousandth of the run, so that a kill costs little, within 16 to 256."""
    return min(256, max(16, images // 1000))


def make_plan(
    images: Sequence[FoundImage], after: Sequence[PlannedImage] = ()
) -> tuple[PlannedImage, ...]:
    """Number images and cut them into units, behind those of a plan that is there already."""
    size = unit_size(len(images))
    first_unit = after[-1].unit + 1 if after else 0
    return tuple(
        PlannedImage(
            image_id=len(after) + place + 1,
            source=image.source,
            path=image.path,
            bytes=image.bytes,
            mtime_ns=image.mtime_ns,
            unit=first_unit + place // size,
        )
        for place, image in enumerate(images)
    )


def compare_plan(plan: Sequence[PlannedImage], images: Sequence[FoundImage]) -> PlanChanges:
    """Say what changed in the sources since the plan was written."""
    found = {(image.source, image.path): image for image in images}
    planned = {(image.source, image.path) for image in plan}
    changed, vanished = [], []
    for image in plan:
        now = found.get((image.source, image.path))
        if now is None:
            vanished.append(image)
        elif (now.bytes, now.mtime_ns) != (image.bytes, image.mtime_ns):
            changed.append(replace(image, bytes=now.bytes, mtime_ns=now.mtime_ns))
    new = tuple(image for key, image in found.items() if key not in planned)
    return PlanChanges(tuple(changed), new, tuple(vanished))


def write_plan(run: Path, plan: Sequence[PlannedImage]) -> None:
    write_table(run / PLAN_FILE, _SCHEMA, [asdict(image) for image in plan])


def read_plan(run: Path) -> tuple[PlannedImage, ...]:
    """The plan of a run; raises as `records.read_table` does."""
    return tuple(PlannedImage(**row) for row in read_table(run / PLAN_FILE).to_pylist())


def units_of(plan: Sequence[PlannedImage]) -> dict[int, tuple[PlannedImage, ...]]:
    """The images of each unit, in plan order."""
    groups = itertools.groupby(plan, key=lambda image: image.unit)
    return {unit: tuple(images) for unit, images in groups}


def source_roots(run: Path) -> Mapping[str, Path]:
    """The folder of each source, as the run's `run.json` has it; raises as `read_run` does."""
    file = run / RUN_FILE
    return _roots(run, file.stat().st_mtime_ns if file.exists() else 0)


def image_path(
    run: Path, image: ImageRecord | PlannedImage, images_root: Path | None = None
) -> Path:
    """Where an image should be, for `read_image`; it is not looked for.

    What lies in an archive or a video has the path of that file, `#`, and its name in it.

    Args:
        run: the labelling run.
        image: of its plan or its records.
        images_root: the folder that the images have moved to. A run of several sources looks for
            `images_root/SOURCE/PATH` first, then for `images_root/PATH`.
    """
    roots = source_roots(run)
    if images_root is None:
        return roots[image.source] / image.path
    of_source = images_root / image.source / image.path
    if len(roots) > 1 and is_there(of_source):
        return of_source
    return images_root / image.path


@lru_cache(maxsize=8)
def _roots(run: Path, written_ns: int) -> Mapping[str, Path]:
    """Cached by the time of the run file: every image of a run asks."""
    sources = read_run(run, "labelling")["arguments"]["sources"]
    return {name: Path(folder) for name, folder in sources.items()}
