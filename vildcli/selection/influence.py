"""ISAL over a run: how much a person's labels of each image would help on the reference set.

    reference ─▶ v = mean gradient ─▶ s = H⁻¹ v      direction.safetensors, once
    pool, unit by unit ─▶ I(z) = -⟨s, G_z⟩           units/000007.json, renamed into place

One forward pass and a tiny backward pass an image; nothing but numbers is kept, so memory does not
grow with the run, and a call that was killed goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vildcli.console import Progress
from vildcli.data.images import read_image
from vildcli.data.members import is_there
from vildcli.errors import DataError, ModelError, RunError
from vildcli.labelling.detectors import Student
from vildcli.labelling.head import read_head
from vildcli.labelling.model import LoadedModel, OpenedModel, load_labelling_model
from vildcli.labelling.options import CLIP_ON_CROPS, LabellingOptions
from vildcli.labelling.plan import image_path
from vildcli.labelling.records import HEAD_FILE, read_part
from vildcli.labelling.thresholds import RunView
from vildcli.labelling.words import Words
from vildcli.runs import file_sha256, open_run, read_run, write_atomically, write_json
from vildcli.selection.curvature import (
    Inverse,
    find_scales,
    influence,
    kronecker_inverse,
    lissa,
    mean_gradient,
    unknown_layers,
)
from vildcli.selection.detector_pass import DetectorLoss, as_known, refuse_unknown
from vildcli.selection.last_layers import HeadPass, Weights
from vildcli.selection.pool import Candidate, Pool
from vildcli.selection.reference import Reference, ReferenceImage

KIND = "selection"
DIRECTION_FILE = "direction.safetensors"
_SIDE = 4  # numbers of a box

InverseKind = Literal["ekfac", "lissa", "none"]


@dataclass(frozen=True, slots=True)
class InfluenceOptions:
    """How s is found.

    Attributes:
        inverse: Kronecker-factored, LiSSA as published, or none: plain gradient similarity.
        chains, depth: of LiSSA.
        pseudo_score: score from which a label is taken for true.
    """

    inverse: InverseKind = "ekfac"
    chains: int = 4
    depth: int = 1000
    pseudo_score: float = 0.1


@dataclass(frozen=True, slots=True)
class Influences:
    """What ISAL says of a pool.

    Attributes:
        values: influence by image id, the more negative the better; NaN where the loss has no
            finite gradient. Images without any pseudo box have none.
        failed: why images could not be read, by image id.
        inverse: how s was found, and what its NaN guard met.
        unknown: last layers that say nothing because their s is not finite.
        computed: images that this call looked at, beside those that an earlier one had.
    """

    values: Mapping[int, float]
    failed: Mapping[int, str]
    inverse: Inverse
    unknown: tuple[str, ...]
    computed: int


def model_of(run: Path) -> str | None:
    """The model that a run says it was made by, where it still is."""
    said = read_run(run, "labelling")["arguments"].get("model")
    if said is None and (run / HEAD_FILE).is_file():  # of an earlier vildcli
        said = read_head(run).reference
    kind, _, place = (said or "").partition(":")
    return place if kind == "model" and Path(place).exists() else None


def open_model(view: RunView, options: LabellingOptions) -> OpenedModel:
    """Load the model of a run, for the run's vocabulary and as many regions as the run took.

    Raises:
        ModelError: no trained detector with a class loss, or not the one that made the run.
    """
    if options.model == CLIP_ON_CROPS:
        refuse_unknown(None)
    settings = read_run(view.run, "labelling")["settings"]
    is_cropped = "teacher" in settings  # whose count is of what the teacher looked at
    regions = None if is_cropped else settings.get("regions")
    loaded = load_labelling_model(replace(options, regions=regions))
    _refuse_other_model(view.run, settings, loaded, options)  # before its words are embedded
    student = loaded.parts.detector
    refuse_unknown(student.detector if isinstance(student, Student) else student)
    return loaded.open(view.vocabulary)


def loss_of(opened: OpenedModel) -> DetectorLoss:
    """The loss of an opened model's last layers.

    A closed set keeps all of its classes; elsewhere context names and negatives take no part.
    """
    student = opened.detector
    assert isinstance(student, Student), "refused by open_model"
    bank, detector = opened.labeller.bank, student.detector
    count = len(bank.text_embeddings if detector.classifier is not None else bank.category_ids)
    words, temperature = bank.text_embeddings[:count], opened.labeller.head.temperature
    return DetectorLoss(detector, words, temperature, student.count)


def refuse_missing_images(view: RunView, pool: Pool, images: Path | None) -> None:
    """Refuse a pool whose images are gone.

    Raises:
        DataError: some are.
    """
    paths = [image_path(view.run, c.image, images) for c in pool.candidates if len(c.scores)]
    missing = [path for path in paths if not is_there(path)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(paths)} images of {view.run} are gone; the first is "
            f"{missing[0]}. isal needs the model and the images, since a run stores no features.",
            hint="Give --images DIR where they have moved, or another --strategy.",
        )


def measure_influences(
    view: RunView,
    pool: Pool,
    reference: Reference,
    opened: OpenedModel,
    options: InfluenceOptions,
    work: Path,
    *,
    images: Path | None = None,
    force: bool = False,
    progress: Progress,
) -> Influences:
    """Measure the influence of every candidate with a pseudo box, or go on doing so.

    Args:
        work: folder of what is measured already; made, and kept.
        images: the folder that the run's images have moved to.
        force: delete another vildcli folder at `work` first.

    Raises:
        RunError: `work` is of another choice.
        DataError: a reference image cannot be read.
    """
    loss = loss_of(opened)
    _open_work(work, _settings(view, reference, opened, options), force)
    inverse = _direction(loss, reference, options, work, progress)
    columns = {category.id: place for place, category in enumerate(view.vocabulary.categories)}
    candidates = {c.image_id: c for c in pool.candidates if len(c.scores)}
    values: dict[int, float] = {}
    failed: dict[int, str] = {}
    computed = 0
    with progress("Measuring influence", len(candidates)) as advance:
        for unit in view.units:
            file = work / "units" / f"{unit:06d}.json"
            known = _read_unit(file)
            wanted = [candidates[i] for i in _ids(view, unit) if i in candidates]
            left = [c for c in wanted if c.image_id not in known]
            advance(len(wanted) - len(left))
            for image_id, found in _of_unit(
                view, unit, left, loss, columns, options, images, inverse
            ):
                if isinstance(found, str):
                    failed[image_id] = found
                else:
                    known[image_id] = found
                advance()
            if left:
                _write_unit(file, known)
            computed += len(left)
            values |= {c.image_id: known[c.image_id] for c in wanted if c.image_id in known}
    return Influences(values, failed, inverse, unknown_layers(inverse.direction), computed)


def _read_unit(file: Path) -> dict[int, float]:
    """Influence by image id, as far as it was measured; images that failed are tried again."""
    known = json.loads(file.read_text()) if file.exists() else {}
    return {int(image): math.nan if value is None else value for image, value in known.items()}


def _write_unit(file: Path, known: Mapping[int, float]) -> None:
    """As `_read_unit` reads it; JSON has no NaN."""
    write_json(file, {image: None if math.isnan(v) else v for image, v in known.items()})


def _of_unit(
    view: RunView,
    unit: int,
    candidates: Sequence[Candidate],
    loss: DetectorLoss,
    columns: Mapping[int, int],
    options: InfluenceOptions,
    images: Path | None,
    inverse: Inverse,
) -> Iterator[tuple[int, float | str]]:
    """Influence of each candidate, or why there is none."""
    boxes = _boxes_of_unit(view.run, unit, options.pseudo_score) if candidates else {}
    for candidate in candidates:
        rows = boxes[candidate.image_id]
        known = as_known([box for _, box in rows], [columns[c] for c, _ in rows])
        try:
            pixels = _pixels(image_path(view.run, candidate.image, images))
        except DataError as error:
            yield candidate.image_id, str(error)
            continue
        one = loss(pixels, known, candidate.image_id)
        yield candidate.image_id, influence(one, inverse.direction)


def _direction(
    loss: DetectorLoss,
    reference: Reference,
    options: InfluenceOptions,
    work: Path,
    progress: Progress,
) -> Inverse:
    """Find s, or read the one that an earlier call found."""
    file = work / DIRECTION_FILE
    if file.exists():
        return _read_direction(file, loss.detector.device)
    places = range(len(reference.images))

    def make(place: int) -> HeadPass:
        return _reference_pass(loss, reference.images[place], place)

    rounds = 3 if options.inverse == "ekfac" else 1
    with progress("Reading the reference set", rounds * len(places)) as advance:

        def passes() -> Iterator[HeadPass]:
            for place in places:
                yield make(place)
                advance()

        gradient = mean_gradient(passes())
        found = Inverse(gradient)
        if options.inverse == "ekfac":
            found = kronecker_inverse(passes, gradient)
    if options.inverse == "lissa":
        found = _lissa([partial(make, place) for place in places], gradient, options, progress)
    _write_direction(file, found)
    return found


def _lissa(
    passes: Sequence[Callable[[], HeadPass]],
    gradient: Weights,
    options: InfluenceOptions,
    progress: Progress,
) -> Inverse:
    with progress("Trying scales for LiSSA", None) as advance:
        scales = find_scales(passes, gradient, advance=advance)
    chains, depth = options.chains, options.depth
    with progress("Running the chains of LiSSA", chains * depth) as advance:
        return lissa(passes, gradient, chains=chains, depth=depth, scales=scales, advance=advance)


def _reference_pass(loss: DetectorLoss, image: ReferenceImage, place: int) -> HeadPass:
    return loss(_pixels(image.file), as_known(image.boxes, image.columns), place)


def _pixels(file: Path) -> Tensor:
    """[3, H, W] uint8."""
    return torch.from_numpy(read_image(file).pixels).permute(2, 0, 1)


def _open_work(work: Path, settings: Mapping[str, Any], force: bool) -> None:
    """Start the folder or go on in it; `force` gives up only what is of another choice."""
    try:
        open_run(work, kind=KIND, settings=settings)
    except RunError:
        if not force:
            raise
        open_run(work, kind=KIND, settings=settings, force=True)


def _settings(
    view: RunView, reference: Reference, opened: OpenedModel, options: InfluenceOptions
) -> dict[str, Any]:
    is_lissa = options.inverse == "lissa"
    return {
        "run": view.fingerprint,
        "model": opened.settings["model"],
        "reference": reference.sha256,
        "left_out": reference.left_out,
        "inverse": options.inverse,
        "chains": options.chains if is_lissa else None,
        "depth": options.depth if is_lissa else None,
        "pseudo_score": options.pseudo_score,
    }


def _refuse_other_model(
    run: Path, there: Mapping[str, Any], loaded: LoadedModel, options: LabellingOptions
) -> None:
    if there.get("model") != loaded.parts.identity.get("model"):
        raise ModelError(
            f"{run} was not made by {options.model}: its pseudo boxes are another model's.",
            hint="Give the --model that detect was given.",
        )
    words = loaded.parts.words
    if there.get("prompts") != (words.prompts.fingerprint if isinstance(words, Words) else None):
        given = options.prompts or "the model's own"
        raise ModelError(
            f"{run} was made with other prompts than {given}.",
            hint="Give the --prompts that detect was given.",
        )
    bank = options.text_bank
    if there.get("text_bank") != (bank and file_sha256(bank)):
        raise ModelError(
            f"{run} was made with other text embeddings than {bank or 'its names have'}.",
            hint="Give the --text-bank that detect was given, or none where it had none.",
        )


def _ids(view: RunView, unit: int) -> list[int]:
    found: list[int] = read_part(view.run, "images", unit, ["image_id"])["image_id"].to_pylist()
    return found


def _boxes_of_unit(
    run: Path, unit: int, pseudo_score: float
) -> dict[int, list[tuple[int, list[float]]]]:
    """Category and box of each pseudo box, by image id; where names move boxes, the moved one."""
    regions = read_part(run, "regions", unit, ["image_id", "region", "box"])
    boxes = {(row["image_id"], row["region"]): row["box"] for row in regions.to_pylist()}
    labels = read_part(run, "labels", unit, ["image_id", "region", "category_id", "score", "box"])
    found: dict[int, list[tuple[int, list[float]]]] = {}
    limit = float(torch.tensor(pseudo_score, dtype=torch.float32))
    for row in labels.to_pylist():
        if row["score"] >= limit:
            box = row.get("box") or boxes[row["image_id"], row["region"]]
            found.setdefault(row["image_id"], []).append((row["category_id"], box))
    return found


def _write_direction(file: Path, found: Inverse) -> None:
    tensors = {layer: value.contiguous().cpu() for layer, value in found.direction.items()}
    said = {"scales": json.dumps(found.scales), "resets": json.dumps(found.resets)}
    write_atomically(file, lambda path: save_file(tensors, path, said))


def _read_direction(file: Path, device: torch.device) -> Inverse:
    with safe_open(file, framework="pt") as content:
        said = content.metadata() or {}
        tensors = {k: content.get_tensor(k).to(device) for k in content.keys()}  # noqa: SIM118
    return Inverse(tensors, json.loads(said["scales"]), json.loads(said["resets"]))
