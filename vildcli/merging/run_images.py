"""The images of several labelling runs as one plan.

Runs know the hash of every image that they read, so that bytes decide: equal ones are one image,
wherever they lie. One file that holds other bytes in another run was changed in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from vildcli.errors import DataError, RunError
from vildcli.labelling.plan import PlannedImage, read_plan, source_roots, unit_size
from vildcli.labelling.records import ImageRecord
from vildcli.merging.inputs import RunInput


@dataclass(slots=True)
class MergedImage:
    """One image of the result.

    Attributes:
        planned: its place in the result; the unit is given at the end.
        sha256: empty where no run could read it yet.
        members: of each run (its place among the inputs) that has finished it, its id there.
        added_by: the first run that has it.
        own_id: its id there.
    """

    planned: PlannedImage
    sha256: str
    added_by: int
    own_id: int
    members: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MergedPlan:
    """The plan of the result.

    Attributes:
        sources: the folder of each source.
        images: in plan order: those of the first run, then what each further one adds.
    """

    sources: dict[str, Path]
    images: tuple[MergedImage, ...]

    @property
    def plan(self) -> tuple[PlannedImage, ...]:
        return tuple(image.planned for image in self.images)


def merge_plans(runs: Sequence[RunInput], *, renumber: bool = False) -> MergedPlan:
    """Number the images of all runs: the first run's keep their ids.

    Images that no run has finished yet get units of their own, which stay undone.

    Args:
        renumber: give new ids to images that only later runs have.

    Raises:
        DataError: a file is another one in one run than in the other.
        RunError: images need new ids, and `renumber` is off.
    """
    collected = _Collected()
    for place, run in enumerate(runs):
        records = {record.image_id: record for record in run.view.images()}
        roots = source_roots(run.path)
        for planned in read_plan(run.path):
            record = records.get(planned.image_id)
            root = roots[planned.source]
            collected.add(runs, place, planned, root, record)
    if not renumber:
        _refuse_new_ids(runs, collected.images)
    return MergedPlan(collected.sources, tuple(_with_units(collected.images)))


class _Collected:
    """The images so far, by where they lie, by what they hold, and by name."""

    def __init__(self) -> None:
        self.images: list[MergedImage] = []
        self.sources: dict[str, Path] = {}
        self._by_file: dict[Path, MergedImage] = {}
        self._by_name: dict[tuple[str, str], MergedImage] = {}
        self._by_hash: dict[str, list[MergedImage]] = defaultdict(list)

    def add(
        self,
        runs: Sequence[RunInput],
        place: int,
        planned: PlannedImage,
        root: Path,
        record: ImageRecord | None,
    ) -> None:
        digest = record.sha256 if record is not None else ""
        image = self._find(place, planned, root, digest)
        if image is None:
            image = self._new(place, planned, root)
        elif image.sha256 and digest and image.sha256 != digest:
            raise DataError(
                f"{planned.path} is another file in {runs[place].name} than in "
                f"{runs[image.added_by].name}: their SHA-256 are {digest[:12]}… and "
                f"{image.sha256[:12]}….",
                hint="Give the older detect command again: a run redoes files that have changed.",
            )
        if digest and not image.sha256:
            image.sha256 = digest
            self._by_hash[digest].append(image)
        if record is not None:
            image.members[place] = planned.image_id

    def _find(
        self, place: int, planned: PlannedImage, root: Path, digest: str
    ) -> MergedImage | None:
        image = self._by_file.get(root / planned.path)
        if image is None and digest:
            free = [twin for twin in self._by_hash.get(digest, ()) if place not in twin.members]
            image = min(free, key=lambda twin: _distance(twin.planned, planned), default=None)
        if image is None:
            image = self._by_name.get(planned.key)
            if image is not None and digest and image.sha256:
                image = None  # of the same name in another folder, and another image
        return image

    def _new(self, place: int, planned: PlannedImage, root: Path) -> MergedImage:
        source = self._source(planned.source, root)
        own = replace(planned, image_id=len(self.images) + 1, source=source, copy_of=None)
        image = MergedImage(own, "", place, planned.image_id)
        self.images.append(image)
        self._by_file[root / planned.path] = image
        self._by_name.setdefault(own.key, image)
        return image

    def _source(self, name: str, root: Path) -> str:
        for known, folder in self.sources.items():
            if folder == root:
                return known
        free, number = name, 2
        while free in self.sources:
            free, number = f"{name}-{number}", number + 1
        self.sources[free] = root
        return free


def _distance(image: PlannedImage, other: PlannedImage) -> int:
    """How little two images of the same bytes are alike in name."""
    if image.path == other.path:
        return 0
    return 1 if PurePosixPath(image.path).name == PurePosixPath(other.path).name else 2


def _refuse_new_ids(runs: Sequence[RunInput], images: Sequence[MergedImage]) -> None:
    moved = [image for image in images if image.planned.image_id != image.own_id]
    if not moved:
        return
    first = moved[0]
    name = runs[first.added_by].name
    there = sum(image.added_by == first.added_by for image in moved)
    taken = images[first.own_id - 1]
    raise RunError(
        f"{name} has {there} image{'s' * (there != 1)} that the runs before it lack, and their ids "
        f"are taken: {first.own_id} is {first.planned.path} there and {taken.planned.path} in "
        f"{runs[taken.added_by].name}.",
        hint=f"--renumber gives them new ids; exports of {name} keep the old ones.",
    )


def _with_units(images: Sequence[MergedImage]) -> Iterator[MergedImage]:
    size = unit_size(len(images))
    done = [image for image in images if image.members]
    units = {image.planned.image_id: place // size for place, image in enumerate(done)}
    behind = -(-len(done) // size)
    left = (image for image in images if not image.members)
    units.update((i.planned.image_id, behind + place // size) for place, i in enumerate(left))
    for image in images:
        yield replace(image, planned=replace(image.planned, unit=units[image.planned.image_id]))
