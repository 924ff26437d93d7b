"""Images of a run that show the same: exact copies by hash, near ones by embedding. No torch.

Every image has one embedding, the mean of its regions'. All images of a run have much in common, so
it is compared with the run's own mean taken off as well: what is left tells its images apart. In a
run that is all of one scene, nothing is left: there the embedding itself must be all but the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vildcli.labelling.plan import PlannedImage
from vildcli.labelling.records import OK, done_units, read_part
from vildcli.runs import write_atomically

DUPLICATES_FILE = "duplicates.jsonl"
# Cosines from which two images are nearly the same (docs/decisions.md says how they were chosen).
NEAR = 0.95  # with the mean of the run taken off
SAME = 0.995  # as they are
MOST = 100_000  # images among which near ones are looked for: all pairs are
_SIDE = 1024  # images that are compared with as many others at a time
_COLUMNS = ("image_id", "sha256", "status", "embedding")


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups of image ids, ascending.

    Attributes:
        exact: of the same bytes (of frames: the same pixels).
        near: of much the same content; of exact copies the first stands for all.
        cosines: the least that ties each near group together, the mean not taken off.
        why_not: why near ones were not looked for; empty where they were.
    """

    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]
    cosines: tuple[float, ...]
    why_not: str = ""

    @property
    def exact_copies(self) -> int:
        """Images that would not be missed."""
        return sum(len(group) - 1 for group in self.exact)

    @property
    def near_copies(self) -> int:
        return sum(len(group) - 1 for group in self.near)


def find_duplicates(run: Path, *, near: float = NEAR) -> Duplicates:
    """Compare the images of a run's finished units.

    Args:
        near: cosine, with the run's mean taken off, from which two images are nearly the same.
    """
    ids, hashes, embeddings = _read(run)
    exact = _equal(ids, hashes)
    others = {image_id for group in exact for image_id in group[1:]}
    single = ~np.isin(ids, np.fromiter(others, np.int64, len(others)))
    if len(ids) > MOST:
        return Duplicates(exact, (), (), f"there are more than {MOST:,} images")
    if embeddings is None:
        return Duplicates(exact, (), (), "no image has an embedding")
    groups = _near_groups(embeddings[single], near)
    kept = ids[single]
    return Duplicates(
        exact,
        tuple(tuple(kept[rows].tolist()) for rows, _ in groups),
        tuple(cosine for _, cosine in groups),
    )


def write_duplicates(run: Path, found: Duplicates, plan: Sequence[PlannedImage]) -> Path:
    """Write one JSON object a group to `duplicates.jsonl`.

    Args:
        plan: of the run: ids are its places.
    """
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(found, plan)]

    def write(path: Path) -> None:
        path.write_text("".join(lines), encoding="utf-8")

    write_atomically(run / DUPLICATES_FILE, write)
    return run / DUPLICATES_FILE


def _rows(found: Duplicates, plan: Sequence[PlannedImage]) -> Iterator[dict[str, object]]:
    cosines: list[float | None] = [None] * len(found.exact) + list(found.cosines)
    for group, cosine in zip((*found.exact, *found.near), cosines, strict=True):
        images = [plan[image_id - 1] for image_id in group]
        yield {
            "kind": "exact" if cosine is None else "near",
            "cosine": cosine and round(cosine, 4),
            "image_ids": list(group),
            "paths": [f"{image.source}/{image.path}" for image in images],
        }


def _read(run: Path) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float16] | None]:
    """Ids, the first 64 bits of hashes, and embeddings [N, D] of the images that were labelled."""
    ids, hashes, width = [], [], 0
    embeddings: list[NDArray[np.float16]] = []
    for unit in done_units(run):
        part = read_part(run, "images", unit)
        if "embedding" not in part.column_names:  # of an earlier vildcli
            part = part.append_column("embedding", pa.nulls(len(part), pa.list_(pa.float16())))
        part = part.select(_COLUMNS).filter(pc.field("status") == OK).combine_chunks()
        ids.append(part.column("image_id").to_numpy())
        heads = [int(digest[:16], 16) for digest in part.column("sha256").to_pylist()]
        hashes.append(np.array(heads, np.uint64))
        if sum(map(len, ids)) > MOST:  # they would not be looked at
            embeddings.clear()
            continue
        rows = _embeddings(part.column("embedding"))
        width = max(width, rows.shape[1])
        embeddings.append(rows)
    if not ids:
        return np.empty(0, np.int64), np.empty(0, np.uint64), None
    same = [
        rows if rows.shape[1] else np.zeros((len(rows), width), np.float16) for rows in embeddings
    ]
    every = np.concatenate(same) if same and width else None
    return np.concatenate(ids), np.concatenate(hashes), every


def _embeddings(column: pa.ChunkedArray) -> NDArray[np.float16]:
    """[N, D]; zeros for an image without regions, [N, 0] where none has any."""
    known = np.array(column.is_valid().to_pylist(), bool)
    values: NDArray[np.float16] = pc.list_flatten(column).to_numpy()
    width = len(values) // known.sum() if known.any() else 0
    rows = np.zeros((len(known), width), np.float16)
    rows[known] = values.reshape(-1, width) if width else 0
    return rows


def _equal(ids: NDArray[np.int64], hashes: NDArray[np.uint64]) -> tuple[tuple[int, ...], ...]:
    _, group, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    groups: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(counts[group] > 1):
        groups[int(group[row])].append(int(ids[row]))
    return tuple(sorted(tuple(sorted(members)) for members in groups.values()))


def _near_groups(
    embeddings: NDArray[np.float16], near: float
) -> list[tuple[NDArray[np.int64], float]]:
    """Rows that are tied together by near pairs, and the least cosine of those pairs.

    Pairs are never collected: of a camera that saw nothing move, every two images are one.
    """
    group = np.arange(len(embeddings))  # the first row of each row's group
    least = np.ones(len(embeddings), np.float32)  # over the near pairs that a row is in
    for first, second, cosines in _near_blocks(embeddings, near):
        some, others = (
            slice(s, s + n) for s, n in zip((first, second), cosines.shape, strict=True)
        )
        least[some] = np.fmin(least[some], np.fmin.reduce(cosines, axis=1))
        least[others] = np.fmin(least[others], np.fmin.reduce(cosines, axis=0))
        is_near = ~np.isnan(cosines)
        for row in np.flatnonzero(is_near.any(axis=1)):
            _join(group, first + int(row), second + np.flatnonzero(is_near[row]))
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    members = np.split(order, starts[1:])
    return [(rows, float(least[rows].min())) for rows in members if len(rows) > 1]


def _near_blocks(
    embeddings: NDArray[np.float16], near: float
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Cosines of blocks of rows, NaN where two are not near; and the first row of both sides.

    Every two rows come once, the earlier one on the first side.
    """
    mean, starts = _mean(embeddings), range(0, len(embeddings), _SIDE)
    for first in starts:
        some = _unit(embeddings[first : first + _SIDE])
        own = _centred(some, mean)
        for second in starts[first // _SIDE :]:
            others = _unit(embeddings[second : second + _SIDE])
            cosines = some @ others.T
            is_near = (cosines >= SAME) | (own @ _centred(others, mean).T >= near)
            if first == second:
                is_near = np.triu(is_near, 1)
            if is_near.any():
                yield first, second, np.where(is_near, cosines, np.float32(np.nan))


def _join(group: NDArray[np.int64], row: int, others: NDArray[np.int64]) -> None:
    """Make the groups of a row and of others one."""
    joined = np.union1d(group[others], group[row])
    if len(joined) > 1:
        group[np.isin(group, joined)] = joined[0]


def _mean(embeddings: NDArray[np.float16]) -> NDArray[np.float32] | None:
    """The mean of the unit-norm rows; None of two, as it lies between them and sets them apart."""
    total, count = np.zeros(embeddings.shape[1], np.float64), 0
    for start in range(0, len(embeddings), _SIDE):
        rows = _unit(embeddings[start : start + _SIDE])
        total += rows.sum(axis=0, dtype=np.float64)
        count += int((rows != 0).any(axis=1).sum())
    return (total / count).astype(np.float32) if count > 2 else None


def _centred(rows: NDArray[np.float32], mean: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Unit-norm rows with the mean of all taken off; rows of zeros, which are like none, stay."""
    if mean is None:
        return np.zeros_like(rows)
    known = (rows != 0).any(axis=1, keepdims=True)
    return _unit(np.where(known, rows - mean, 0))


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    rows = rows.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(lengths, 1e-6)
    return unit
