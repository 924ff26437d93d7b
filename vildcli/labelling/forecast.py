"""What a run will take: time and space, by labelling a few of its images into a folder that goes.

One image warms up and says how many more can be tried; those are labelled as the run would label
them, written out, and counted. Space is that of the parts as they are compressed on disk.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from vildcli.labelling.label import LabellingJob, LabellingModel, Watch, label_units
from vildcli.labelling.plan import PlannedImage, read_plan
from vildcli.labelling.records import part_path, read_part
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import FoundImage, FoundImages
from vildcli.labelling.stored import RegionType
from vildcli.vocabulary.category import Vocabulary

BUDGET = 20.0  # seconds that the tried images may take, about
_SIDES = ("text_side", "image_side")
_BYTES: Mapping[RegionType, int] = {"float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes on disk.

    Attributes:
        records: images, labels and labelled regions.
        embeddings: of every region, and the regions that have no label, by what they are stored as.
    """

    records: float
    embeddings: Mapping[RegionType, float]

    def times(self, factor: float) -> Space:
        scaled = {kind: size * factor for kind, size in self.embeddings.items()}
        return Space(self.records * factor, scaled)


@dataclass(frozen=True, slots=True)
class Trial:
    """What one image took.

    Attributes:
        images: how many it was measured on, and of how many canvases the batches were.
    """

    images: int
    seconds_per_image: float
    space_per_image: Space


def try_images(
    found: FoundImages,
    images: Sequence[FoundImage],
    vocabulary: Vocabulary,
    model: LabellingModel,
    job: LabellingJob,
    *,
    budget: float = BUDGET,
) -> Trial:
    """Label a few images of a run, spread over it.

    Args:
        found: the sources.
        images: those to be labelled, at least one.
        job: as for the run; embeddings are kept in any case.
        budget: seconds.
    """
    job = replace(job, keep_regions=True, people={})
    chosen = spread(images, 1 + job.batch_size)
    with tempfile.TemporaryDirectory(prefix="vildcli-dry-run-") as folder:
        sources = replace(found, images=tuple(chosen))
        run = open_labelling_run(Path(folder, "run"), sources, {}, vocabulary).folder
        plan = [replace(image, unit=0) for image in read_plan(run)]
        warm = _seconds(run, model, plan[:1], job)
        count = min(len(plan) - 1, max(1, int(budget / warm)))
        tried = plan[1 : 1 + count] or plan  # a run of one image
        seconds = _seconds(run, model, tried, job)
        space = _space(run, job.region_dtype)
    return Trial(len(tried), seconds / len(tried), space.times(1 / len(tried)))


def spread(images: Sequence[FoundImage], count: int) -> list[FoundImage]:
    """At most `count` of them, evenly from the first to the last."""
    if len(images) <= count:
        return list(images)
    return [images[place * (len(images) - 1) // (count - 1)] for place in range(count)]


def _seconds(
    run: Path, model: LabellingModel, images: Sequence[PlannedImage], job: LabellingJob
) -> float:
    begin = time.perf_counter()
    label_units(run, model, [images], job, Watch())
    return time.perf_counter() - begin


def _space(run: Path, kind: RegionType) -> Space:
    """What unit 0 takes, with all regions stored."""
    sizes = _column_sizes(part_path(run, "regions", 0))
    sides = sum(sizes.pop(side) for side in _SIDES)
    ids = ["image_id", "region"]
    labelled = set(map(tuple, _rows(run, "labels", ids)))
    share = len(labelled) / max(1, len(_rows(run, "regions", ids)))
    regions = sum(sizes.values())
    others = sum(sum(_column_sizes(part_path(run, t, 0)).values()) for t in ("labels", "images"))
    return Space(
        others + regions * share,
        {k: regions * (1 - share) + sides * b / _BYTES[kind] for k, b in _BYTES.items()},
    )


def _rows(run: Path, table: str, columns: list[str]) -> list[tuple[int, ...]]:
    part = read_part(run, table, 0, columns)
    return list(zip(*(part.column(name).to_pylist() for name in columns), strict=True))


def _column_sizes(path: Path) -> dict[str, int]:
    """Compressed bytes of each column of a part; lists and structures are theirs as a whole."""
    metadata = pq.ParquetFile(path).metadata
    sizes: dict[str, int] = dict.fromkeys(pq.ParquetFile(path).schema_arrow.names, 0)
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            sizes[column.path_in_schema.partition(".")[0]] += column.total_compressed_size
    return sizes
