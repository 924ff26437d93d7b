"""Choosing images to label for a classifier: embeddings and a linear head, trained here.

labelled ─embed─▶ linear head ─┐
reference ─embed─▶ v ──────────┴─▶ s = H⁻¹ v, exact: the problem is convex
pool ─embed─▶ I(z) = -⟨s, G_z⟩
"""

from __future__ import annotations

from collections.abc import Sequence
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
Rows = tuple[Tensor, Tensor]  # features [N, D + 1] and classes [N]


@dataclass(frozen=True, slots=True)
class Task:
    """What is known, and what is to choose from.

    Attributes:
        reference: of `isal`; None for the other strategies.
        evaluation: what must share no image with the reference, but as published.
    """

    pool: Folder
    labelled: Folder
    reference: Folder | None
    evaluation: Folder | None = None
    as_published: bool = False


@dataclass(frozen=True, slots=True)
class Inversion:
    """How s is found; chains and depth are LiSSA's."""

    kind: HeadInverse = "exact"
    chains: int = 4
    depth: int = 1000


EXACT = Inversion()


@dataclass(frozen=True, slots=True)
class EmbeddedTask:
    """A task in embeddings.

    Attributes:
        names: of the classes, in the order of the head's rows.
        kept: rows of the pool that are not labelled already.
        labelled: what the head is trained on.
        evaluation: where its classes are known.
    """

    names: tuple[str, ...]
    pool: Embedded
    kept: tuple[int, ...]
    labelled: Rows
    reference: Rows | None
    evaluation: Rows | None


@dataclass(frozen=True, slots=True)
class ChosenImages:
    """A choice, and how well the head does before it.

    Attributes:
        accuracy: of the head on the reference set, 0-1; None without one.
        skipped: images of the pool that are labelled already.
        resets: how often LiSSA began anew because its product was not finite.
    """

    selection: Selection
    accuracy: float | None
    skipped: int
    resets: int


def embed_task(
    task: Task, encoder: ImageEncoder, work: Path, *, progress: Progress
) -> EmbeddedTask:
    """Embed all of a task, or go on doing so; what is wrong with it is said before.

    Raises:
        DataError: a folder has other classes, or the reference set has images of the pool or of the
            evaluation set.
        NothingToDoError: no image is left to choose.
    """
    for folder in (task.reference, task.pool, task.evaluation):
        if folder is not None:
            refuse_other_classes(task.labelled, folder)
    if task.reference is not None:
        _refuse_shared(task, task.reference)
    names = tuple(sorted({*task.labelled.classes}))

    def embed(folder: Folder) -> Embedded:
        return embed_folder(folder, encoder, work, progress=progress)

    def known(folder: Folder | None) -> Rows | None:
        if folder is None or not folder.classes:
            return None
        return as_rows(folder, embed(folder), names)

    labelled, pool = embed(task.labelled), embed(task.pool)
    hashes = {*labelled.hashes}
    kept = tuple(i for i, digest in enumerate(pool.hashes) if digest not in hashes)
    if not kept:
        raise NothingToDoError(
            f"{task.pool.root} has no image left to choose.", hint="Add some that are not labelled."
        )
    own = as_rows(task.labelled, labelled, names)
    return EmbeddedTask(names, pool, kept, own, known(task.reference), known(task.evaluation))


def choose_images(
    task: Task, known: EmbeddedTask, options: SelectionOptions, inversion: Inversion = EXACT
) -> ChosenImages:
    """Choose images of a pool to label."""
    head = fit_head(*known.labelled, len(known.names))
    order, resets = rank(task.pool, known, known.kept, head, options, inversion)
    count = options.budget.of(len(order))
    failed = known.pool.failed.items()
    left_out = tuple(_failed(task.pool, place, reason) for place, reason in failed)
    selection = Selection(options, tuple(order[:count]), tuple(order[count:]), left_out)
    accuracy = None if known.reference is None else accuracy_of(head, known.reference)
    return ChosenImages(selection, accuracy, len(known.pool.rows) - len(known.kept), resets)


def as_rows(folder: Folder, found: Embedded, names: Sequence[str]) -> Rows:
    """Features and classes of a folder whose classes are known."""
    classes = torch.tensor([names.index(folder.classes[row]) for row in found.rows])
    return as_features(found.embeddings), classes


def rank(
    pool: Folder,
    known: EmbeddedTask,
    left: Sequence[int],
    head: LinearHead,
    options: SelectionOptions,
    inversion: Inversion,
) -> tuple[list[Valued], int]:
    """Order images of the pool, the most valuable first; with LiSSA's resets.

    Args:
        left: rows of the pool to order.
        head: trained on all that is labelled by now.
    """
    embeddings = known.pool.embeddings[list(left)]
    features = as_features(embeddings)
    influences, resets = None, 0
    if options.strategy == "isal":
        assert known.reference is not None, "isal has a reference set"
        direction, resets = _direction(head, head.gradient(*known.reference), inversion)
        influences = -head.influences(features, direction).numpy()
    p = head.probabilities(features)
    values = _values(options, p.numpy(), influences)
    found = valued(_candidates(pool, known.pool, left, p), values, options.effort)
    covered = head.features[:, :-1].float().numpy()
    return _spread(found, embeddings.numpy(), covered, options), resets


def accuracy_of(head: LinearHead, rows: Rows) -> float:
    """The share of images, 0-1, whose likeliest class is theirs."""
    return float((head.probabilities(rows[0]).argmax(1) == rows[1]).double().mean())


def _direction(head: LinearHead, gradient: Tensor, inversion: Inversion) -> tuple[Tensor, int]:
    """s, and how often LiSSA began anew."""
    if inversion.kind == "exact":
        return head.exact_direction(gradient), 0
    if inversion.kind == "ekfac":
        return head.kronecker_direction(gradient), 0
    if inversion.kind == "lissa":
        found = head.lissa_direction(gradient, chains=inversion.chains, depth=inversion.depth)
        return found[0], found[2]
    return gradient, 0


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


def _refuse_shared(task: Task, reference: Folder) -> None:
    """Before anything is embedded: only files of a size that the reference has are read."""
    sizes = {file.stat().st_size for file in reference.files}

    def hashes(folder: Folder) -> set[str]:
        return {file_sha256(file) for file in folder.files if file.stat().st_size in sizes}

    own = [file_sha256(file) for file in reference.files]
    count, root = len(own), reference.root
    pool = hashes(task.pool) - hashes(task.labelled)
    if inside := sum(digest in pool for digest in own):
        raise DataError(
            f"{inside} of the {count} images of {root} are in the pool {task.pool.root}.",
            hint="They are labelled: take them out of the pool.",
        )
    if task.evaluation is None or task.as_published:
        return
    evaluated = hashes(task.evaluation)
    if shared := sum(digest in evaluated for digest in own):
        raise DataError(
            f"{shared} of the {count} images of {root} are in the evaluation set "
            f"{task.evaluation.root}: {WHY}.",
            hint=HINT,
        )


def _candidates(pool: Folder, found: Embedded, kept: Sequence[int], p: Tensor) -> list[Candidate]:
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
