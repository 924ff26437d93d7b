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

from vildcli.checkpoint import Model, load_model
from vildcli.detector.detector import Detector
from vildcli.detector.postprocess import NmsKind
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.errors import ModelError
from vildcli.labelling.head import StoredHead, read_head, write_head
from vildcli.labelling.label import RegionDetector
from vildcli.labelling.labeller import LabelPolicy, VocabularyLabeller
from vildcli.runs import file_sha256
from vildcli.systems import System, find_system
from vildcli.teacher.clip_on_crops import CropDetector
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.torchvision_proposals import TorchvisionProposer
from vildcli.text.bank import TextBank, embed_categories, load_text_bank
from vildcli.text.context import (
    ScoringBank,
    build_scoring_bank,
    combine_scoring_bank,
    negative_categories,
)
from vildcli.text.encoder import (
    OpenClipTextEncoder,
    load_text_encoder,
    text_encoder_from_state,
    text_encoder_of,
)
from vildcli.text.open_clip_models import LoadedClip, load_open_clip
from vildcli.text.templates import Prompts, load_prompts
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.groups import category_groups
from vildcli.weights import find_detector_weights

CLIP_ON_CROPS = "clip-on-crops"
DEFAULT_TEACHER = "ViT-B-32:openai"
DEFAULT_PROMPTS = "vild-63"
DEFAULT_CONTEXT = "lvis-v1"  # of clip-on-crops, which has no base categories of its own
REGIONS, CROPPED_REGIONS = 300, 100  # an image; a crop costs a pass through the teacher
_OF_MODEL = "model:"  # a head's reference to a model file, not to an open_clip model
FORECAST_SIZE = (480, 640)  # pixels of the image that a forecast is measured on


@dataclass(frozen=True, slots=True)
class LabellingOptions:
    """What a user chooses of a model; None is the model's own default.

    Attributes:
        model: a model file, a training run, or clip-on-crops.
        teacher: open_clip reference; with a vild-text model it makes vild-text-clip.
        proposals: `torchvision`, or a model whose regions clip-on-crops takes.
        regions: taken from an image, by objectness, before any labelling.
        context: `none`, or a vocabulary to score against beside the user's.
        text_bank: ready embeddings of the vocabulary.
        fusion: `uniform:W` weighs the text side by W for every category.
    """

    model: str = CLIP_ON_CROPS
    teacher: str | None = None
    proposals: str = "torchvision"
    regions: int | None = None
    prompts: str | None = None
    context: str | None = None
    text_bank: Path | None = None
    fusion: str | None = None
    floor: float = 0.01
    max_det: int = 300
    nms: NmsKind = "agnostic"
    device: str | None = None
    offline: bool = False

    @property
    def policy(self) -> LabelPolicy:
        return LabelPolicy(self.floor, self.max_det, self.nms)


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


def choose_device(name: str | None) -> torch.device:
    """The named device, or the best there is.

    Raises:
        ModelError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ModelError(
            f"There is no device '{name}' here.", hint="Leave --device out, or use --device cpu."
        ) from error
    return device


def open_labelling_model(vocabulary: Vocabulary, options: LabellingOptions) -> OpenedModel:
    """Load a model and make its labeller for a vocabulary.

    Raises:
        ModelError: weights are missing or do not fit.
        VocabularyError: the context, prompts or text bank cannot be used.
    """
    device = choose_device(options.device)
    of_crops = options.model == CLIP_ON_CROPS
    parts = _clip_on_crops(options, device) if of_crops else _trained(options, device)
    head = _with_fusion(parts.head, options.fusion)
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
            head, parts.encoder.identity, words.prompts, parts.base, _text_reference(options)
        ),
        seconds_per_image=(lambda: _measure(parts.detector)) if crops else None,
    )


@dataclass(frozen=True, slots=True)
class Words:
    """How a model reads names: encoder, sentences, what it was trained on, usual context."""

    encoder: OpenClipTextEncoder
    prompts: Prompts
    base: tuple[Category, ...]
    default_context: Vocabulary | None


def open_stored_labeller(
    run: Path, vocabulary: Vocabulary, options: LabellingOptions
) -> tuple[VocabularyLabeller, dict[str, Any]]:
    """The labeller of a run's stored regions for another vocabulary, and what decides its labels.

    Raises:
        RunError: the run kept no region embeddings.
        ModelError: the text encoder that they live beside is gone, or is another one by now.
    """
    stored = read_head(run)
    if stored.reference.startswith(_OF_MODEL):
        model = load_model(stored.reference.removeprefix(_OF_MODEL), torch.device("cpu"))
        encoder = _model_encoder(model, options.offline)
    else:
        encoder = load_text_encoder(stored.reference, offline=options.offline)
    if encoder.identity != stored.text_encoder:
        reference = stored.reference.removeprefix(_OF_MODEL)
        raise ModelError(
            f"{reference} is not the text encoder that {run} was made with any more.",
            hint="Put the model back, or run detect again.",
        )
    prompts = load_prompts(options.prompts) if options.prompts else stored.prompts
    words = Words(encoder, prompts, stored.base, _usual_context(stored.base))
    return make_labeller(vocabulary, words, _with_fusion(stored.head, options.fusion), options)


def _usual_context(base: tuple[Category, ...]) -> Vocabulary:
    """A model's base categories; LVIS for one that was trained on none."""
    return Vocabulary("base categories", base) if base else load_vocabulary(DEFAULT_CONTEXT)


def _model_encoder(model: Model, offline: bool) -> OpenClipTextEncoder:
    return text_encoder_from_state(model.card.text_encoder, model.text_tower, offline=offline)


def make_labeller(
    vocabulary: Vocabulary, words: Words, head: ScoringHead, options: LabellingOptions
) -> tuple[VocabularyLabeller, dict[str, Any]]:
    """The labeller of a vocabulary, and what of the words decides a label."""
    context = _context(options, words.default_context)
    bank = _scoring_bank(vocabulary, words, context, options)
    groups = None
    if options.nms == "group":
        groups = torch.tensor(category_groups(vocabulary.categories))
    said = {
        "vocabulary": vocabulary.fingerprint(),
        "text_encoder": words.encoder.identity,
        "prompts": words.prompts.fingerprint,
        "context": context.fingerprint() if context else "none",
        "text_bank": options.text_bank and file_sha256(options.text_bank),
        "fusion": [head.fusion.kind, head.fusion.base_weight],
        "floor": options.floor,
        "max_det": options.max_det,
        "nms": options.nms,
    }
    return VocabularyLabeller(bank, head, options.policy, groups), said


def _scoring_bank(
    vocabulary: Vocabulary, words: Words, context: Vocabulary | None, options: LabellingOptions
) -> ScoringBank:
    if options.text_bank is None:
        return build_scoring_bank(
            vocabulary,
            context=context,
            base=words.base,
            encoder=words.encoder,
            prompts=words.prompts,
        )
    names = [category.name for category in vocabulary.categories]
    ready = load_text_bank(options.text_bank, names, temperature=words.encoder.temperature)
    _refuse_other_space(ready, words.encoder, options.text_bank)
    negatives = embed_categories(negative_categories(vocabulary), words.encoder, words.prompts)
    return combine_scoring_bank(
        vocabulary,
        ready.embeddings,
        negatives=negatives,
        base=words.base,
        temperature=ready.temperature,
    )


def _refuse_other_space(bank: TextBank, encoder: OpenClipTextEncoder, path: Path) -> None:
    """Refuse embeddings that the model's regions cannot be compared with."""
    # A bare .npy does not say what made it.
    is_other = path.suffix != ".npy" and bank.encoder != encoder.identity
    if is_other or bank.embeddings.shape[1] != encoder.width:
        raise ModelError(
            f"{path} was made with another text encoder than the model's.",
            hint=f"Make it with the model's, whose vectors have {encoder.width} numbers.",
        )


def _context(options: LabellingOptions, default: Vocabulary | None) -> Vocabulary | None:
    if options.text_bank is not None and options.context in (None, "none"):
        # The bank's space is known by its file alone: nothing else can be put beside it.
        return None
    if options.text_bank is not None:
        raise ModelError(
            "--text-bank cannot be scored among the names of --context.",
            hint="Put the context's names into the bank's vocabulary, or leave --context out.",
        )
    if options.context is None:
        return default
    return None if options.context == "none" else load_vocabulary(options.context)


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
        default_context=_usual_context(()),
        identity={"teacher": clip.identity, "proposals": provenance},
        default_conf=None,
    )


def _trained(options: LabellingOptions, device: torch.device) -> _Parts:
    model = load_model(options.model, device)
    card = model.card
    system, count = find_system(card.system), _region_count(options)
    detector: RegionDetector = _Student(model.detector, count)
    encoder = _model_encoder(model, options.offline)
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
        prompts=Prompts(**{**card.prompts, "templates": tuple(card.prompts["templates"])}),
        base=card.base_categories,
        default_context=_usual_context(card.base_categories),
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
        return TorchvisionProposer(weights, device), f"torchvision {weights.name}"
    model = load_model(options.proposals, device)
    count = max(REGIONS, _region_count(options))
    return _Student(model.detector, count).regions, model.identity


def _region_count(options: LabellingOptions) -> int:
    cropped = options.model == CLIP_ON_CROPS or options.teacher is not None
    return options.regions or (CROPPED_REGIONS if cropped else REGIONS)


def _prompts(options: LabellingOptions, parts: _Parts) -> Prompts:
    return load_prompts(options.prompts) if options.prompts else parts.prompts


def _with_fusion(head: ScoringHead, rule: str | None) -> ScoringHead:
    if rule is None:
        return head
    kind, _, weight = rule.partition(":")
    try:
        exponent = float(weight)
    except ValueError:
        exponent = -1.0
    if kind != "uniform" or not 0 <= exponent <= 1 or head.fusion.kind != "ensemble":
        raise ModelError(
            f"--fusion {rule} cannot be used with this model.",
            hint="Write uniform:W with W from 0 to 1, for a model that has two sides.",
        )
    return ScoringHead(
        head.background, head.temperature, head.image_temperature, Fusion("uniform", exponent)
    )


def _text_reference(options: LabellingOptions) -> str:
    """Where relabelling finds the text encoder again."""
    if options.model == CLIP_ON_CROPS:
        return options.teacher or DEFAULT_TEACHER
    return f"{_OF_MODEL}{Path(options.model).resolve()}"


def _measure(detector: RegionDetector) -> float:
    """Seconds that one image takes, measured on noise after a warm-up of nothing."""
    image = torch.randint(
        0, 256, (3, *FORECAST_SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    begin = time.perf_counter()
    detector.regions([image])
    return time.perf_counter() - begin
