"""From `--model` and its companions to something that finds regions and names them.

model file ─────────────┐                     ┌─▶ detector: images → Regions
clip-on-crops + teacher ┴─▶ text encoder, head ┤
vocabulary, context, base list ────────────────┴─▶ labeller: Regions → RegionLabels
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vildcli.checkpoint import Model, load_model
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.devices import choose_device
from vildcli.errors import ModelError
from vildcli.labelling.ask import AskingModel, text_reader
from vildcli.labelling.batches import RegionDetector
from vildcli.labelling.detectors import (
    DTYPES,
    Proposer,
    in_precision,
    in_tiles,
    refuse_precision,
    student_of,
)
from vildcli.labelling.head import StoredHead, write_head
from vildcli.labelling.labeller import VocabularyLabeller
from vildcli.labelling.options import CLIP_ON_CROPS, DEFAULT_TEACHER, LabellingOptions
from vildcli.labelling.words import (
    ClosedSet,
    Words,
    attribute_prompts,
    closed_set_of,
    make_labeller,
    model_encoder,
    text_reference,
    usual_context,
    with_fusion,
)
from vildcli.systems import System, find_system
from vildcli.teacher.clip_on_crops import CropDetector
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.proposals import is_box_file
from vildcli.teacher.torchvision_proposals import TorchvisionProposer
from vildcli.text.encoder import text_encoder_of
from vildcli.text.open_clip_models import LoadedClip, load_open_clip
from vildcli.text.templates import load_prompts, prompts_from_dict
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.weights import find_detector_weights

DEFAULT_PROMPTS = "vild-63"
REGIONS, CROPPED_REGIONS = 300, 100  # an image; a crop costs a pass through the teacher
FORECAST_SIZE = (480, 640)  # pixels of the image that a forecast is measured on


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model ready to label with one vocabulary.

    Attributes:
        settings: everything of model and words that decides a label; goes into the run's
            fingerprint.
        default_conf: score from which its labels are shown, where that was measured.
        seconds_per_image: a forecast, where a run is slow enough to need one.
        provenance: what else its weights and its proposals have seen.
    """

    detector: RegionDetector
    labeller: VocabularyLabeller
    settings: dict[str, Any]
    default_conf: float | None
    head: StoredHead
    seconds_per_image: Callable[[], float] | None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def save_head(self, run: Path) -> None:
        """Write what relabelling needs: `regions/head.safetensors`."""
        write_head(run, self.head)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A model before it has met a vocabulary."""

    system: System
    detector: RegionDetector
    words: Words | ClosedSet
    head: ScoringHead
    base: tuple[Category, ...]
    identity: dict[str, Any]
    default_conf: float | None
    provenance: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that has not met a vocabulary yet; it may meet one after the other."""

    options: LabellingOptions
    device: torch.device
    parts: _Parts

    def open(self, vocabulary: Vocabulary) -> OpenedModel:
        """Make its labeller for a vocabulary.

        Raises:
            ModelError: a supervised model was not trained on one of the names.
            VocabularyError: the context, prompts or text bank cannot be used.
        """
        options, parts = self.options, self.parts
        head = with_fusion(parts.head, options.fusion)
        labeller, said = make_labeller(vocabulary, parts.words, head, options)
        crops = isinstance(parts.detector, CropDetector)
        settings = {
            "system": parts.system.name,
            **parts.identity,
            **said,
            "regions": _region_count(options),
            "device": self.device.type,
            "precision": str(DTYPES[options.precision]).removeprefix("torch."),
            **_rarely_said(options),
        }
        return OpenedModel(
            detector=parts.detector,
            labeller=labeller,
            settings=settings,
            default_conf=parts.default_conf,
            head=_stored_head(head, parts, options),
            seconds_per_image=(lambda: _measure(parts.detector)) if crops else None,
            provenance=parts.provenance,
        )


def load_labelling_model(options: LabellingOptions) -> LoadedModel:
    """Load a model, yet without words.

    Raises:
        ModelError: weights are missing or do not fit.
    """
    device = choose_device(options.device)
    refuse_precision(options.precision, device)
    parts = _open_parts(options, device)
    _refuse_int8(parts, options)
    return LoadedModel(options, device, parts)


def open_labelling_model(vocabulary: Vocabulary, options: LabellingOptions) -> OpenedModel:
    """Load a model and make its labeller for a vocabulary.

    Raises:
        ModelError: weights are missing or do not fit.
        VocabularyError: the context, prompts or text bank cannot be used.
    """
    return load_labelling_model(options).open(vocabulary)


def open_asking_model(vocabulary: Vocabulary | None, options: LabellingOptions) -> AskingModel:
    """Load a model to ask it about images in free words.

    Args:
        vocabulary: what regions are named by as well; default the model's base categories, if any.

    Raises:
        ModelError: weights are missing or do not fit, or the model has no text space.
        VocabularyError: the context or prompts cannot be used.
    """
    parts = _open_parts(options, choose_device(options.device))
    reader, head = (
        text_reader(parts.words, options.prompts),
        with_fusion(parts.head, options.fusion),
    )
    if vocabulary is None and parts.base:
        vocabulary = usual_context(parts.base)
    if vocabulary is None:
        return AskingModel(parts.detector, reader, head)
    labeller, _ = make_labeller(vocabulary, parts.words, head, options)
    names = {category.id: category.name for category in vocabulary.categories}
    return AskingModel(parts.detector, reader, head, labeller, names)


def _open_parts(options: LabellingOptions, device: torch.device) -> _Parts:
    if options.model == CLIP_ON_CROPS:
        return _clip_on_crops(options, device)
    return _trained(options, device)


def _rarely_said(options: LabellingOptions) -> dict[str, Any]:
    """Settings that are named only where they differ from the usual: older runs go on."""
    said: dict[str, Any] = {}
    if options.tiling is not None:
        said["tile"] = [options.tiling.side, options.tiling.overlap]
    if options.region_dtype != "float16":
        said["region_dtype"] = options.region_dtype
    return said


def _refuse_int8(parts: _Parts, options: LabellingOptions) -> None:
    if options.region_dtype == "int8" and isinstance(parts.words, ClosedSet):
        raise ModelError(
            "The embeddings of a supervised model have lengths, which int8 does not keep.",
            hint="Leave --region-dtype out.",
        )


def _stored_head(head: ScoringHead, parts: _Parts, options: LabellingOptions) -> StoredHead:
    words = parts.words
    if isinstance(words, ClosedSet):
        return StoredHead(head, words.identity, None, parts.base, text_reference(options))
    return StoredHead(
        head,
        words.encoder.identity,
        words.prompts,
        parts.base,
        text_reference(options),
        words.attribute_prompts,
    )


def _clip_on_crops(options: LabellingOptions, device: torch.device) -> _Parts:
    reference = options.teacher or DEFAULT_TEACHER
    clip = load_open_clip(reference, offline=options.offline)
    propose, proposals, provenance = _proposer(options, device)
    system = find_system(CLIP_ON_CROPS)
    detector = _crop_detector(clip, propose, device, system, options)
    prompts = load_prompts(options.prompts or DEFAULT_PROMPTS)
    return _Parts(
        system=system,
        detector=detector,
        words=Words(
            text_encoder_of(clip),
            prompts,
            (),
            usual_context(()),
            attribute_prompts(prompts, options.attribute_prompts),
        ),
        head=ScoringHead(None, clip.temperature, clip.temperature, Fusion("image")),
        base=(),
        identity={"teacher": clip.identity, "proposals": proposals},
        default_conf=None,
        provenance={"proposals": provenance},
    )


def _trained(options: LabellingOptions, device: torch.device) -> _Parts:
    model = load_model(options.model, device)
    card = model.card
    system, count = find_system(card.system), _region_count(options)
    detector = in_tiles(student_of(model.detector, count, options.precision), options.tiling)
    words = closed_set_of(model) or _open_words(model, options)
    identity: dict[str, Any] = {"model": model.identity}
    head = model.detector.scoring_head(card.temperature)
    if options.teacher is not None:
        system = _with_teacher(system)
        clip = load_open_clip(options.teacher, offline=options.offline)
        if isinstance(words, ClosedSet) or clip.identity != words.encoder.identity:
            raise ModelError(
                f"{options.teacher} is not the CLIP whose text this model was trained against.",
                hint="Give the same weights: both sides are scored with one text embedding.",
            )
        count = max(REGIONS, count)  # more than are left after NMS
        student = in_tiles(student_of(model.detector, count, options.precision), options.tiling)
        detector = _crop_detector(clip, student.regions, device, system, options)
        identity["teacher"] = clip.identity
        head = replace(head, image_temperature=clip.temperature, fusion=Fusion(system.fusion))
    return _Parts(
        system=system,
        detector=detector,
        words=words,
        head=head,
        base=card.base_categories,
        identity=identity,
        default_conf=card.default_conf,
        provenance=card.provenance,
    )


def _open_words(model: Model, options: LabellingOptions) -> Words:
    card = model.card
    prompts = load_prompts(options.prompts) if options.prompts else prompts_from_dict(card.prompts)
    base = card.base_categories
    return Words(
        model_encoder(model, options.offline),
        prompts,
        base,
        usual_context(base),
        attribute_prompts(prompts, options.attribute_prompts),
    )


def _with_teacher(system: System) -> System:
    if system.name != "vild-text":
        raise ModelError(
            f"--teacher adds CLIP on crops to a vild-text model; this one is {system.name}.",
            hint="Leave --teacher out, or give a vild-text model.",
        )
    return find_system("vild-text-clip")


def _crop_detector(
    clip: LoadedClip,
    propose: Callable[[Sequence[Tensor]], list[Regions]],
    device: torch.device,
    system: System,
    options: LabellingOptions,
) -> CropDetector:
    encoder = image_encoder_of(clip, device)
    encode = in_precision(encoder.encode, options.precision, device)
    return CropDetector(
        propose,
        replace(encoder, encode=encode),
        keep_text_side=bool(system.text_side),
        count=_region_count(options),
    )


def _proposer(
    options: LabellingOptions, device: torch.device
) -> tuple[Callable[[Sequence[Tensor]], list[Regions]], str, str | Mapping[str, Any]]:
    """What makes clip-on-crops' regions, its identity, and what that has seen."""
    if options.proposals == "torchvision":
        weights = find_detector_weights(offline=options.offline)
        proposer = TorchvisionProposer(weights, device, count=_region_count(options))
        name = f"torchvision {weights.name}"
        return in_tiles(Proposer(proposer), options.tiling).regions, name, name
    if is_box_file(options.proposals):
        raise ModelError(
            f"{options.proposals} cannot give the boxes to label: a model is shown pixels, not the "
            "names that a file's boxes are matched by.",
            hint="Give --proposals torchvision, or a model.",
        )
    model = load_model(options.proposals, device)
    count = max(REGIONS, _region_count(options))
    student = in_tiles(student_of(model.detector, count, options.precision), options.tiling)
    return student.regions, model.identity, model.card.provenance


def _region_count(options: LabellingOptions) -> int:
    cropped = options.model == CLIP_ON_CROPS or options.teacher is not None
    return options.regions or (CROPPED_REGIONS if cropped else REGIONS)


def _measure(detector: RegionDetector) -> float:
    """Seconds that one image takes, measured on noise after a warm-up of nothing."""
    image = torch.randint(
        0, 256, (3, *FORECAST_SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    begin = time.perf_counter()
    detector.regions([image])
    return time.perf_counter() - begin
