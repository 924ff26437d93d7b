"""Images of the same bytes: found before a run, so that only one of them is looked at.

Every path keeps its row, its id and its labels. A unit of copies is a function of the originals'
parts alone, and is written when those are done.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vildcli.data.members import frame_time, read_member, split_member
from vildcli.labelling.plan import PlannedImage
from vildcli.labelling.records import FAILED, SCHEMAS, is_done, read_part, write_part_table
from vildcli.labelling.sources import FoundImage, Key

_BLOCK = 1 << 20


def find_copies(
    images: Sequence[FoundImage | PlannedImage],
    path_of: Callable[[FoundImage | PlannedImage], Path],
    *,
    workers: int = 2,
) -> dict[Key, Key]:
    """For each image whose bytes an earlier one has, the key of the first such one.

    Only files of equal size are read. Frames of videos are left out: they have no bytes of their
    own. What cannot be read is nobody's copy.

    Args:
        images: in plan order.
        path_of: where an image lies, for `read_image`.
        workers: threads that read.
    """
    by_size: dict[int, list[FoundImage | PlannedImage]] = defaultdict(list)
    for image in images:
        if not _is_frame(image.path):
            by_size[image.bytes].append(image)
    twins = [image for same in by_size.values() if len(same) > 1 for image in same]
    with ThreadPoolExecutor(workers) as pool:
        digests = list(pool.map(lambda image: image_digest(path_of(image)), twins))
    found = {image.key: digest for image, digest in zip(twins, digests, strict=True) if digest}
    first: dict[str, Key] = {}
    copies: dict[Key, Key] = {}
    for image in images:
        digest = found.get(image.key)
        if digest is not None and first.setdefault(digest, image.key) != image.key:
            copies[image.key] = first[digest]
    return copies


def is_copies(images: Sequence[PlannedImage]) -> bool:
    """Whether a unit takes its labels over."""
    return any(image.copy_of is not None for image in images)


def copy_units(
    run: Path,
    plan: Sequence[PlannedImage],
    units: Iterable[Sequence[PlannedImage]],
    advance: Callable[[int], None] = lambda images: None,
) -> int:
    """Write units of copies whose originals are done.

    Returns:
        How many images are left, whose originals another process has yet to label.
    """
    left = 0
    for images in units:
        originals = {
            image.image_id: plan[(image.copy_of or image.image_id) - 1] for image in images
        }
        if all(is_done(run, unit) for unit in {o.unit for o in originals.values()}):
            _copy_unit(run, images, originals)
            advance(len(images))
        else:
            left += len(images)
    return left


def _copy_unit(
    run: Path, images: Sequence[PlannedImage], originals: Mapping[int, PlannedImage]
) -> None:
    rows: dict[str, dict[int, pa.Table]] = {table: {} for table in SCHEMAS}
    for unit in sorted({original.unit for original in originals.values()}):
        for table in SCHEMAS:
            part = read_part(run, table, unit)
            for image in images:
                if originals[image.image_id].unit == unit:
                    of_original = part.filter(pc.field("image_id") == image.copy_of)
                    rows[table][image.image_id] = _given_to(image, of_original, table)
    for table in ("regions", "labels", "images"):
        of_images = [rows[table][image.image_id] for image in images]
        content = pa.concat_tables(of_images, promote_options="default")
        write_part_table(run, table, images[0].unit, content)


def _given_to(image: PlannedImage, rows: pa.Table, table: str) -> pa.Table:
    own: dict[str, Any] = {"image_id": image.image_id}
    if table == "images":
        (status,) = rows.column("status").to_pylist()
        own |= {name: getattr(image, name) for name in ("source", "path", "bytes", "mtime_ns")}
        if status == FAILED:
            (path,), (reason,) = (rows.column(name).to_pylist() for name in ("path", "reason"))
            own["reason"] = f"{image.path}: {reason.removeprefix(f'{path}: ')}"
    for name, value in own.items():
        place, field = rows.schema.get_field_index(name), rows.schema.field(name)
        rows = rows.set_column(place, field, pa.repeat(pa.scalar(value, field.type), len(rows)))
    return rows


def _is_frame(path: str) -> bool:
    return frame_time(path.rpartition("#")[2]) is not None


def image_digest(path: Path) -> str | None:
    """SHA-256 of a file, or of a member of an archive; None where it cannot be read."""
    container, member = split_member(path)
    try:
        if member is not None:
            return hashlib.sha256(read_member(container, member)[0]).hexdigest()
        digest = hashlib.sha256()
        with container.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()
    except OSError:
        return None
