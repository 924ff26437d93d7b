"""The plan of a labelling run: the sorted image list, cut into units, and where its images lie.

A unit is what is redone whole or kept whole. An image keeps its id and its unit for the life of the
run: images that turn up later are appended in units of their own. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from vildcli.data.members import is_there
from vildcli.labelling.records import ImageRecord, read_table, write_table
from vildcli.labelling.sources import FoundImage, Key
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
        ("copy_of", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image to label.

    Attributes:
        image_id: 1 + its place.
        bytes, mtime_ns: as last listed.
        copy_of: id of an image of the same bytes, whose labels it gets; None where it is labelled.
    """

    image_id: int
    source: str
    path: str
    bytes: int
    mtime_ns: int
    unit: int
    copy_of: int | None = None

    @property
    def key(self) -> Key:
        return self.source, self.path


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
        changed: planned images whose size or time is another now, with the new values, and units
            of copies of those; none of them counts as a copy any more.
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
    images: Sequence[FoundImage],
    after: Sequence[PlannedImage] = (),
    copies: Mapping[Key, Key] = MappingProxyType({}),
) -> tuple[PlannedImage, ...]:
    """Number images and cut them into units, behind those of a plan that is there already.

    Args:
        copies: for the key of each copy that of its original. Copies get units of their own behind
            all others, so that a unit either is labelled or takes labels over.
    """
    size = unit_size(len(images))
    every: list[PlannedImage | FoundImage] = [*after, *images]
    ids = {image.key: place for place, image in enumerate(every, start=1)}
    units: dict[Key, int] = {}
    next_unit = 1 + max((image.unit for image in after), default=-1)
    for is_copy in (False, True):
        keys = [image.key for image in images if (image.key in copies) == is_copy]
        units.update((key, next_unit + place // size) for place, key in enumerate(keys))
        next_unit += -(-len(keys) // size)
    return tuple(
        PlannedImage(
            image_id=ids[image.key],
            source=image.source,
            path=image.path,
            bytes=image.bytes,
            mtime_ns=image.mtime_ns,
            unit=units[image.key],
            copy_of=ids[copies[image.key]] if image.key in copies else None,
        )
        for image in images
    )


def compare_plan(plan: Sequence[PlannedImage], images: Sequence[FoundImage]) -> PlanChanges:
    """Say what changed in the sources since the plan was written."""
    found = {image.key: image for image in images}
    planned = {image.key for image in plan}
    changed, vanished = {}, []
    for image in plan:
        now = found.get(image.key)
        if now is None:
            vanished.append(image)
        elif (now.bytes, now.mtime_ns) != (image.bytes, image.mtime_ns):
            changed[image.image_id] = replace(
                image, bytes=now.bytes, mtime_ns=now.mtime_ns, copy_of=None
            )
    # A unit is labelled or takes labels over: what is no copy any more makes it one to label.
    stale = {i.unit for i in plan if i.copy_of and {i.image_id, i.copy_of} & changed.keys()}
    for image in plan:
        if image.unit in stale and image.image_id not in changed:
            changed[image.image_id] = replace(image, copy_of=None)
    new = tuple(image for key, image in found.items() if key not in planned)
    return PlanChanges(tuple(changed.values()), new, tuple(vanished))


def write_plan(run: Path, plan: Sequence[PlannedImage], *, first: bool = False) -> None:
    """Write the plan of a run.

    Args:
        first: leave the one that another process has written in the meantime as it is.
    """
    rows = [asdict(image) for image in plan]
    write_table(run / PLAN_FILE, _SCHEMA, rows, keep_other=first)


def read_plan(run: Path) -> tuple[PlannedImage, ...]:
    """The plan of a run; raises as `records.read_table` does."""
    return tuple(PlannedImage(**row) for row in read_table(run / PLAN_FILE).to_pylist())


def units_of(plan: Sequence[PlannedImage]) -> dict[int, tuple[PlannedImage, ...]]:
    """The images of each unit, in plan order."""
    units: dict[int, list[PlannedImage]] = {}
    for image in plan:
        units.setdefault(image.unit, []).append(image)
    return {unit: tuple(units[unit]) for unit in sorted(units)}


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
