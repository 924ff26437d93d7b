"""From `--model` and its companions to something that finds regions and names them.

model file ─────────────┐                     ┌─▶ detector: images → Regions
clip-on-crops + teacher ┴─▶ text encoder, head ┤
vocabulary, context, base list ────────────────┴─▶ labeller: Regions → RegionLabels
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vildcli.checkpoint import load_model
from vildcli.detector.detector import Detector
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.devices import choose_device
from vildcli.errors import ModelError
from vildcli.labelling.head import StoredHead, write_head
from vildcli.labelling.label import RegionDetector
from vildcli.labelling.labeller import VocabularyLabeller
from vildcli.labelling.options import CLIP_ON_CROPS, DEFAULT_TEACHER, LabellingOptions
from vildcli.labelling.words import (
    Words,
    make_labeller,
    model_encoder,
    text_reference,
    usual_context,
    with_fusion,
)
from vildcli.systems import System, find_system
from vildcli.teacher.clip_on_crops import CropDetector
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.torchvision_proposals import TorchvisionProposer
from vildcli.text.encoder import (
    OpenClipTextEncoder,
    text_encoder_of,
)
from vildcli.text.open_clip_models import LoadedClip, load_open_clip
from vildcli.text.templates import Prompts, load_prompts, prompts_from_dict
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
    """

    detector: RegionDetector
    labeller: VocabularyLabeller
    settings: dict[str, Any]
    default_conf: float | None
    head: StoredHead
    seconds_per_image: Callable[[], float] | None

    def save_head(self, run: Path) -> None:
        """Write what relabelling needs: `regions/head.safetensors`."""
        write_head(run, self.head)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A model before it has met a vocabulary. `encoder` makes text embeddings of the same space."""

    system: System
    detector: RegionDetector
    encoder: OpenClipTextEncoder
    head: ScoringHead
    prompts: Prompts
    base: tuple[Category, ...]
    default_context: Vocabulary | None
    identity: dict[str, Any]
    default_conf: float | None


@dataclass(frozen=True, slots=True)
class _Student:
    detector: Detector
    count: int

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        return self.detector.regions(images, count=self.count)


def open_labelling_model(vocabulary: Vocabulary, options: LabellingOptions) -> OpenedModel:
    """Load a model and make its labeller for a vocabulary.

    Raises:
        ModelError: weights are missing or do not fit.
        VocabularyError: the context, prompts or text bank cannot be used.
    """
    device = choose_device(options.device)
    of_crops = options.model == CLIP_ON_CROPS
    parts = _clip_on_crops(options, device) if of_crops else _trained(options, device)
    head = with_fusion(parts.head, options.fusion)
    words = Words(parts.encoder, _prompts(options, parts), parts.base, parts.default_context)
    labeller, said = make_labeller(vocabulary, words, head, options)
    crops = isinstance(parts.detector, CropDetector)
    settings = {
        "system": parts.system.name,
        **parts.identity,
        **said,
        "regions": _region_count(options),
        "device": device.type,
        "precision": "float32",
    }
    return OpenedModel(
        detector=parts.detector,
        labeller=labeller,
        settings=settings,
        default_conf=parts.default_conf,
        head=StoredHead(
            head, parts.encoder.identity, words.prompts, parts.base, text_reference(options)
        ),
        seconds_per_image=(lambda: _measure(parts.detector)) if crops else None,
    )


def _clip_on_crops(options: LabellingOptions, device: torch.device) -> _Parts:
    reference = options.teacher or DEFAULT_TEACHER
    clip = load_open_clip(reference, offline=options.offline)
    propose, provenance = _proposer(options, device)
    system = find_system(CLIP_ON_CROPS)
    detector = _crop_detector(clip, propose, device, system, _region_count(options))
    return _Parts(
        system=system,
        detector=detector,
        encoder=text_encoder_of(clip),
        head=ScoringHead(None, clip.temperature, clip.temperature, Fusion("image")),
        prompts=load_prompts(DEFAULT_PROMPTS),
        base=(),
        default_context=usual_context(()),
        identity={"teacher": clip.identity, "proposals": provenance},
        default_conf=None,
    )


def _trained(options: LabellingOptions, device: torch.device) -> _Parts:
    model = load_model(options.model, device)
    card = model.card
    system, count = find_system(card.system), _region_count(options)
    detector: RegionDetector = _Student(model.detector, count)
    encoder = model_encoder(model, options.offline)
    identity: dict[str, Any] = {"model": model.identity}
    image_temperature = card.temperature
    if options.teacher is not None:
        system = _with_teacher(system)
        clip = load_open_clip(options.teacher, offline=options.offline)
        if clip.identity != encoder.identity:
            raise ModelError(
                f"{options.teacher} is not the CLIP whose text this model was trained against.",
                hint="Give the same weights: both sides are scored with one text embedding.",
            )
        student = _Student(model.detector, max(REGIONS, count))  # more than are left after NMS
        detector = _crop_detector(clip, student.regions, device, system, count)
        identity["teacher"], image_temperature = clip.identity, clip.temperature
    background = model.detector.background.detach().cpu() if system.text_side else None
    return _Parts(
        system=system,
        detector=detector,
        encoder=encoder,
        head=ScoringHead(background, card.temperature, image_temperature, Fusion(system.fusion)),
        prompts=prompts_from_dict(card.prompts),
        base=card.base_categories,
        default_context=usual_context(card.base_categories),
        identity=identity,
        default_conf=card.default_conf,
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
    count: int,
) -> CropDetector:
    return CropDetector(
        propose, image_encoder_of(clip, device), keep_text_side=bool(system.text_side), count=count
    )


def _proposer(
    options: LabellingOptions, device: torch.device
) -> tuple[Callable[[Sequence[Tensor]], list[Regions]], str]:
    """What makes clip-on-crops' regions, and its identity."""
    if options.proposals == "torchvision":
        weights = find_detector_weights(offline=options.offline)
        proposer = TorchvisionProposer(weights, device, count=_region_count(options))
        return proposer, f"torchvision {weights.name}"
    model = load_model(options.proposals, device)
    count = max(REGIONS, _region_count(options))
    return _Student(model.detector, count).regions, model.identity


def _region_count(options: LabellingOptions) -> int:
    cropped = options.model == CLIP_ON_CROPS or options.teacher is not None
    return options.regions or (CROPPED_REGIONS if cropped else REGIONS)


def _prompts(options: LabellingOptions, parts: _Parts) -> Prompts:
    return load_prompts(options.prompts) if options.prompts else parts.prompts


def _measure(detector: RegionDetector) -> float:
    """Seconds that one image takes, measured on noise after a warm-up of nothing."""
    image = torch.randint(
        0, 256, (3, *FORECAST_SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    begin = time.perf_counter()
    detector.regions([image])
    return time.perf_counter() - begin
