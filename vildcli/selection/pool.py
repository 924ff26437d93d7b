"""The images of a run that may be chosen, with what the model believes to see in them. No torch.

A pseudo box is a label from a low score on: it is taken for true where nobody has looked yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vildcli.data.lvis import AnnotationSet
from vildcli.data.matching import ImageFile, match_images
from vildcli.errors import DataError, NothingToDoError
from vildcli.labelling.records import OK, ImageRecord, iter_images, read_part
from vildcli.labelling.thresholds import RunView

PSEUDO_SCORE = 0.1  # ISAL's


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that may be chosen, and its pseudo boxes, best first.

    Attributes:
        scores: [K] in 0-1, float32.
        category_ids: [K] of the run's vocabulary, int64.
    """

    image: ImageRecord
    scores: NDArray[np.float32]
    category_ids: NDArray[np.int64]

    @property
    def image_id(self) -> int:
        return self.image.image_id


@dataclass(frozen=True, slots=True)
class Pool:
    """What of a run may be chosen.

    Attributes:
        candidates: in plan order, those without any pseudo box among them.
        reviewed: ids of images that people have looked at.
        failed: images that could not be read.
    """

    candidates: tuple[Candidate, ...]
    reviewed: frozenset[int]
    failed: int

    @property
    def without_boxes(self) -> tuple[Candidate, ...]:
        return tuple(c for c in self.candidates if not len(c.scores))


def read_pool(
    view: RunView, *, reviewed: Sequence[AnnotationSet] = (), pseudo_score: float = PSEUDO_SCORE
) -> Pool:
    """The unreviewed images of a run's finished units.

    Args:
        reviewed: annotation sets whose images people have looked at.

    Raises:
        DataError: none of the reviewed images is in the run.
        NothingToDoError: nothing is left to choose from.
    """
    seen = reviewed_ids(view, reviewed)
    candidates: list[Candidate] = []
    failed = 0
    for unit in view.units:
        labels = _labels_of_unit(view.run, unit, pseudo_score)
        for image in iter_images(view.run, [unit]):
            failed += image.status != OK
            if image.status == OK and image.image_id not in seen:
                candidates.append(Candidate(image, *labels.get(image.image_id, _NO_LABELS)))
    if not candidates:
        raise NothingToDoError(
            f"{view.run} has no image left to choose: {len(seen)} are reviewed, {failed} could "
            "not be read.",
            hint="Label more images.",
        )
    return Pool(tuple(candidates), seen, failed)


def reviewed_ids(view: RunView, reviewed: Sequence[AnnotationSet]) -> frozenset[int]:
    """Ids of the run's images that stand in an annotation set.

    Raises:
        DataError: one of the sets has no image of the run.
    """
    found: set[int] = set()
    files = run_files(view) if reviewed else []
    for one in reviewed:
        theirs = [ImageFile(i.id, (i.file_name,)) for i in one.images]
        matched = match_images(files, theirs)
        if not matched:
            raise DataError(
                f"None of the {len(theirs)} images of {one.path} is in {view.run}.",
                hint="Images match by relative path, or by a file name that occurs once.",
            )
        found |= matched.keys()
    return frozenset(found)


def run_files(view: RunView) -> list[ImageFile]:
    """The images of a run, by the paths that other files may know them by."""
    return [ImageFile(i.image_id, (i.path, f"{i.source}/{i.path}")) for i in view.images()]


def read_embeddings(view: RunView) -> dict[int, NDArray[np.float32]]:
    """The unit-norm embedding [D] of each image that has one, by image id.

    Raises:
        DataError: the run holds none.
    """
    found: dict[int, NDArray[np.float32]] = {}
    for unit in view.units:
        part = read_part(view.run, "images", unit)
        if "embedding" not in part.column_names:  # of an earlier vildcli
            continue
        kept = part.filter(pc.is_valid(part.column("embedding")))
        for image_id, row in zip(kept.column("image_id").to_pylist(), _rows(kept), strict=True):
            found[image_id] = row
    if not found:
        raise DataError(
            f"{view.run} holds no image embeddings.",
            hint="Run detect again into another --out, or choose another --strategy.",
        )
    return found


def _rows(part: pa.Table) -> Iterator[NDArray[np.float32]]:
    for value in part.column("embedding"):
        row = np.asarray(value.values, np.float32)
        yield row / max(float(np.linalg.norm(row)), 1e-6)


_NO_LABELS = (np.empty(0, np.float32), np.empty(0, np.int64))


def _labels_of_unit(
    run: Path, unit: int, pseudo_score: float
) -> dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Scores and categories of each image's pseudo boxes, best first."""
    table = read_part(run, "labels", unit, ["image_id", "label", "score", "category_id"])
    # Stored scores are float32: 0.1 itself must count.
    kept = table.filter(pc.field("score") >= pa.scalar(np.float32(pseudo_score), pa.float32()))
    kept = kept.sort_by([("image_id", "ascending"), ("label", "ascending")])
    ids = kept.column("image_id").to_numpy()
    scores = kept.column("score").to_numpy().astype(np.float32)
    categories = kept.column("category_id").to_numpy()
    images, starts = np.unique(ids, return_index=True)
    ends = np.append(starts, len(ids))[1:]
    return {
        int(image): (scores[start:end].copy(), categories[start:end].copy())
        for image, start, end in zip(images, starts, ends, strict=True)
    }
