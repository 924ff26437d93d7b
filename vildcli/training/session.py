"""A training run, from files to a model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vildcli.checkpoint import MODEL_FILE, ModelCard, load_model, save_model
from vildcli.console import Advance
from vildcli.data.lvis import AnnotationSet, load_annotations
from vildcli.data.training_set import Augmentation, TrainingSet
from vildcli.detector.architecture import ARCHITECTURES, Architecture
from vildcli.detector.detector import Detector, TrainingContext
from vildcli.devices import choose_device
from vildcli.errors import DataError, ModelError
from vildcli.runs import file_sha256, open_run, read_run
from vildcli.systems import System, find_system
from vildcli.teacher.cache import TeacherCache
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import OpenClipTextEncoder, text_encoder_of, text_tower_state
from vildcli.text.open_clip_models import load_open_clip
from vildcli.text.templates import Prompts, load_prompts
from vildcli.training.recipe import RECIPES, Recipe
from vildcli.training.train import train_detector
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.names import resolve_base

KIND = "training"


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What `vildcli train` is told.

    Attributes:
        train: COCO or LVIS JSON; images: the folder of its files.
        base: vocabulary of base categories; None takes every category that LVIS does not call rare.
        teacher: open_clip reference: the text encoder, and the space of the distilled embeddings.
        teacher_cache: filled by `vildcli teach`; needed by systems that distil.
        init: a model file whose fitting weights are taken over; recorded in the model's provenance.
    """

    system: str
    train: Path
    images: Path
    teacher: str
    base: str | None = None
    teacher_cache: Path | None = None
    init: str | None = None
    architecture: str = "small"
    recipe: str = "world"
    prompts: str = "vild-63"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    workers: int = 0
    device: str | None = None
    offline: bool = False


def train_system(options: TrainingOptions, out: Path, *, force: bool, advance: Advance) -> Path:
    """Train one row of the systems table and write its model file.

    The same call continues an interrupted run; a finished one is left as it is.

    Returns:
        The model file.

    Raises:
        ModelError, DataError: something does not fit; before the first step.
    """
    system = find_system(options.system)
    _refuse_untrainable(system, options)
    architecture, recipe = _architecture(options), recipe_of(options)
    annotations = load_annotations(options.train)
    clip = load_open_clip(options.teacher, offline=options.offline)
    encoder, prompts = text_encoder_of(clip), load_prompts(options.prompts)
    settings = _settings(options, system, architecture, recipe, encoder, prompts)
    open_run(out, kind=KIND, settings=settings, force=force)
    model_file = out / MODEL_FILE
    if model_file.exists():
        advance(recipe.steps)
        return model_file
    is_base = base_flags(annotations.categories, options.base)
    data = _training_set(options, annotations, is_base, system, architecture, recipe, encoder)
    torch.manual_seed(options.seed)
    device = choose_device(options.device)
    detector = Detector(architecture, system, encoder.width)
    provenance = _initialise(detector, options)
    detector.to(device)
    context = TrainingContext(
        text_embeddings=embed_categories(annotations.categories, encoder, prompts).to(device),
        is_base=torch.tensor(is_base, device=device),
        temperature=encoder.temperature,
        regions=recipe.regions,
        proposals=recipe.proposals,
        mask_regions=recipe.mask_regions,
    )
    train_detector(
        detector,
        data,
        context,
        recipe,
        out,
        seed=options.seed,
        workers=options.workers,
        advance=advance,
    )
    config, tower = text_tower_state(encoder)
    card = ModelCard(
        system=system.name,
        architecture=architecture.as_dict(),
        embedding_width=encoder.width,
        temperature=encoder.temperature,
        prompts={
            "name": prompts.name,
            "templates": list(prompts.templates),
            "this_is": prompts.this_is,
        },
        base_categories=_base_categories(annotations.categories, is_base),
        text_encoder=config,
        default_conf=None,
        provenance=provenance,
    )
    save_model(model_file, detector, tower, card)
    return model_file


def recipe_of(options: TrainingOptions) -> Recipe:
    """The named recipe with the overrides.

    Raises:
        ModelError: there is no such recipe.
    """
    if options.recipe not in RECIPES:
        raise ModelError(
            f"There is no recipe '{options.recipe}'.", hint=f"Recipes: {', '.join(RECIPES)}."
        )
    return replace(RECIPES[options.recipe], **options.overrides)


def base_flags(categories: tuple[Category, ...], base: str | None) -> list[bool]:
    """Whether boxes of each category may be trained on.

    Raises:
        DataError: neither a base list nor LVIS frequencies say so.
    """
    if base is not None:
        return resolve_base(categories, load_vocabulary(base).categories)
    if any(category.frequency is None for category in categories):
        raise DataError(
            "The annotations have no LVIS frequencies, so base and novel are unknown.",
            hint="Name the base categories: --base coco-48, or a vocabulary file.",
        )
    return [category.frequency != "r" for category in categories]


def _refuse_untrainable(system: System, options: TrainingOptions) -> None:
    if not system.trained:
        raise ModelError(
            f"{system.name} is not trained.",
            hint="Train vild-text, and give --teacher when detecting.",
        )
    if system.distilled and options.teacher_cache is None:
        raise ModelError(
            f"{system.name} distils a teacher, and there is no --teacher-cache.",
            hint="Fill one with `vildcli teach`.",
        )


def _architecture(options: TrainingOptions) -> Architecture:
    if options.architecture not in ARCHITECTURES:
        raise ModelError(
            f"There is no backbone '{options.architecture}'.",
            hint=f"Backbones: {', '.join(ARCHITECTURES)}.",
        )
    return ARCHITECTURES[options.architecture]


def _settings(
    options: TrainingOptions,
    system: System,
    architecture: Architecture,
    recipe: Recipe,
    encoder: OpenClipTextEncoder,
    prompts: Prompts,
) -> dict[str, Any]:
    cache = options.teacher_cache
    return {
        "system": system.name,
        "architecture": architecture.as_dict(),
        "recipe": recipe.as_dict(),
        "train": file_sha256(options.train),
        "base": options.base,
        "text_encoder": encoder.identity,
        "prompts": prompts.fingerprint,
        "teacher_cache": cache and file_sha256(cache / "run.json"),
        "init": options.init and file_sha256(Path(options.init)),
        "seed": options.seed,
    }


def _training_set(
    options: TrainingOptions,
    annotations: AnnotationSet,
    is_base: list[bool],
    system: System,
    architecture: Architecture,
    recipe: Recipe,
    encoder: OpenClipTextEncoder,
) -> TrainingSet:
    columns = {c.id: i for i, c in enumerate(annotations.categories) if is_base[i]}
    teacher = None
    if system.distilled and options.teacher_cache is not None:
        _refuse_other_teacher(options.teacher_cache, encoder)
        teacher = TeacherCache(options.teacher_cache, [image.id for image in annotations.images])
    fill = tuple(255 * value for value in architecture.pixel_mean)
    augmentation = Augmentation(architecture.image_size, recipe.jitter, fill)
    return TrainingSet(
        annotations, options.images, columns, augmentation, seed=options.seed, teacher=teacher
    )


def _refuse_other_teacher(cache: Path, encoder: OpenClipTextEncoder) -> None:
    if read_run(cache, "teacher")["settings"]["teacher"] != encoder.identity:
        raise ModelError(
            f"The teacher cache {cache} was filled by another teacher than --teacher.",
            hint="Give the same --teacher to `vildcli teach` and `vildcli train`.",
        )


def _initialise(detector: Detector, options: TrainingOptions) -> dict[str, Any]:
    """Take over what fits of another model; the second head starts from the first one's weights."""
    if options.init is None:
        return {"init": "scratch"}
    source = load_model(options.init, torch.device("cpu"))
    state = source.detector.state_dict()
    if detector.image_head is not None and source.detector.image_head is None:
        state |= {f"image_{k}": v for k, v in state.items() if k.startswith("head.")}
    own = detector.state_dict()
    misfits = sorted(k for k in own if k not in state or state[k].shape != own[k].shape)
    if misfits:
        raise ModelError(
            f"{options.init} does not fit: {len(misfits)} weights differ, first {misfits[0]}.",
            hint="Initialise from a model of the same backbone and text encoder.",
        )
    detector.load_state_dict({k: state[k] for k in own})
    return {"init": source.identity, "init_system": source.card.system}


def _base_categories(categories: tuple[Category, ...], is_base: list[bool]) -> tuple[Category, ...]:
    return tuple(c for c, base in zip(categories, is_base, strict=True) if base)
