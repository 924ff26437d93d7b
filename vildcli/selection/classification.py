"""Choosing images to label for a classifier: embeddings and a linear head, trained here.

labelled ─embed─▶ linear head ─┐
reference ─embed─▶ v ──────────┴─▶ s = H⁻¹ v, exact: the problem is convex
pool ─embed─▶ I(z) = -⟨s, G_z⟩
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vildcli.console import Progress
from vildcli.errors import DataError, NothingToDoError
from vildcli.labelling.records import FAILED, OK, ImageRecord
from vildcli.runs import file_sha256
from vildcli.selection.choice import Valued, ranked, valued
from vildcli.selection.image_folders import Embedded, Folder, embed_folder, refuse_other_classes
from vildcli.selection.linear_head import LinearHead, as_features, fit_head
from vildcli.selection.pool import Candidate
from vildcli.selection.reference import HINT, WHY
from vildcli.selection.select import Selection, SelectionOptions
from vildcli.selection.strategies import SHORTLIST, Floats, k_center
from vildcli.teacher.crops import ImageEncoder

HeadInverse = Literal["exact", "ekfac", "lissa", "none"]


@dataclass(frozen=True, slots=True)
class Task:
    """What is known, and what is to choose from.

    Attributes:
        reference: of `isal`; None for the other strategies.
        evaluation: what must share no image with the reference.
    """

    pool: Folder
    labelled: Folder
    reference: Folder | None
    evaluation: Folder | None = None


@dataclass(frozen=True, slots=True)
class ChosenImages:
    """A choice, and how well the head does before it.

    Attributes:
        accuracy: of the head on the reference set, 0-1; None without one.
        skipped: images of the pool that are labelled already.
    """

    selection: Selection
    accuracy: float | None
    skipped: int


def choose_images(
    task: Task,
    encoder: ImageEncoder,
    options: SelectionOptions,
    work: Path,
    *,
    inverse: HeadInverse = "exact",
    chains: int = 4,
    depth: int = 1000,
    progress: Progress,
) -> ChosenImages:
    """Choose images of a pool to label.

    Raises:
        DataError: the reference set has other classes, or images of the pool or the evaluation set.
        NothingToDoError: no image is left.
    """
    if task.reference is not None:
        refuse_other_classes(task.labelled, task.reference)

    def embed(folder: Folder) -> Embedded:
        return embed_folder(folder, encoder, work, progress=progress)

    labelled, pool = embed(task.labelled), embed(task.pool)
    known = {*labelled.hashes}
    kept = [i for i, digest in enumerate(pool.hashes) if digest not in known]
    if not kept:
        raise NothingToDoError(
            f"{task.pool.root} has no image left to choose.", hint="Add some that are not labelled."
        )
    skipped = len(pool.hashes) - len(kept)
    names = sorted({*task.labelled.classes})
    classes = _labels(task.labelled, labelled, names)
    head = fit_head(as_features(labelled.embeddings), classes, len(names))
    features = as_features(pool.embeddings[kept])
    accuracy, influences = None, None
    if task.reference is not None:
        reference = embed(task.reference)
        _refuse_shared(task, task.reference, reference, {pool.hashes[i] for i in kept})
        rows = as_features(reference.embeddings), _labels(task.reference, reference, names)
        accuracy = float((head.probabilities(rows[0]).argmax(1) == rows[1]).double().mean())
        if options.strategy == "isal":
            direction = _direction(head, head.gradient(*rows), inverse, chains, depth)
            influences = -head.influences(features, direction).numpy()
    candidates = _candidates(task.pool, pool, kept, head.probabilities(features))
    values = _values(options, head.probabilities(features).numpy(), influences)
    found = valued(candidates, values, options.effort)
    order = _spread(found, pool.embeddings[kept].numpy(), labelled.embeddings.numpy(), options)
    count = options.budget.of(len(order))
    left_out = tuple(_failed(task.pool, place, reason) for place, reason in pool.failed.items())
    selection = Selection(options, tuple(order[:count]), tuple(order[count:]), left_out)
    return ChosenImages(selection, accuracy, skipped)


def _labels(folder: Folder, found: Embedded, names: list[str]) -> Tensor:
    return torch.tensor([names.index(folder.classes[row]) for row in found.rows])


def _direction(
    head: LinearHead, gradient: Tensor, inverse: HeadInverse, chains: int, depth: int
) -> Tensor:
    if inverse == "exact":
        return head.exact_direction(gradient)
    if inverse == "ekfac":
        return head.kronecker_direction(gradient)
    if inverse == "lissa":
        return head.lissa_direction(gradient, chains=chains, depth=depth)[0]
    return gradient


def _values(options: SelectionOptions, p: Floats, influences: Floats | None) -> Floats:
    """What each image [N] is worth by the head's softmax p [N, C], the larger the better."""
    if options.strategy == "isal":
        assert influences is not None, "isal has a reference set"
        return influences
    if options.strategy == "random":
        return np.random.default_rng(options.seed).random(len(p))
    if options.strategy == "margin":
        best = np.sort(p, axis=1)
        return 1 - (best[:, -1] - best[:, -2])
    entropies: Floats = -(p * np.log(np.maximum(p, 1e-300))).sum(1) / np.log(p.shape[1])
    return entropies


def _spread(
    found: list[Valued],
    embeddings: NDArray[np.float32],
    labelled: NDArray[np.float32],
    options: SelectionOptions,
) -> list[Valued]:
    """Ranked; of `coreset` and `hybrid` with the most different ones in front."""
    order = ranked(found)
    if options.strategy not in ("coreset", "hybrid"):
        return order
    count = options.budget.of(len(order))
    rows = {one.candidate.image_id: row for row, one in enumerate(found)}
    size = len(order) if options.strategy == "coreset" else SHORTLIST * count
    shortlist, rest = order[:size], order[size:]
    places = [rows[one.candidate.image_id] for one in shortlist]
    spread = k_center(embeddings[places], count, labelled)
    if options.strategy == "coreset":
        shortlist = [
            replace(one, value=float(distance))
            for one, distance in zip(shortlist, spread.distances, strict=True)
        ]
    taken = {*spread.rows}
    others = [one for place, one in enumerate(shortlist) if place not in taken]
    return [*(shortlist[row] for row in spread.rows), *others, *rest]


def _refuse_shared(task: Task, folder: Folder, reference: Embedded, pool: set[str]) -> None:
    count, root = len(reference.hashes), folder.root
    if inside := sum(digest in pool for digest in reference.hashes):
        raise DataError(
            f"{inside} of the {count} images of {root} are in the pool {task.pool.root}.",
            hint="They are labelled: take them out of the pool.",
        )
    if task.evaluation is None:
        return
    evaluated = {file_sha256(file) for file in task.evaluation.files}
    if shared := sum(digest in evaluated for digest in reference.hashes):
        raise DataError(
            f"{shared} of the {count} images of {root} are in the evaluation set "
            f"{task.evaluation.root}: {WHY}.",
            hint=HINT,
        )


def _candidates(pool: Folder, found: Embedded, kept: list[int], p: Tensor) -> list[Candidate]:
    likeliest = p.argmax(1)
    best = p.gather(1, likeliest[:, None]).float()
    return [
        Candidate(
            _record(pool, found.rows[i], OK, found.hashes[i]),
            best[row].numpy(),
            likeliest[row : row + 1].numpy(),
        )
        for row, i in enumerate(kept)
    ]


def _failed(pool: Folder, place: int, reason: str) -> Candidate:
    record = replace(_record(pool, place, FAILED, ""), reason=reason)
    return Candidate(record, np.empty(0, np.float32), np.empty(0, np.int64))


def _record(pool: Folder, place: int, status: str, digest: str) -> ImageRecord:
    path = pool.files[place].relative_to(pool.root.absolute()).as_posix()
    return ImageRecord(place + 1, pool.root.name, path, 0, 0, digest, 0, 0, status, None)
