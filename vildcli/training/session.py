"""A training run, from files to a model file.

annotations, base list ─check─▶ training set ┐
text encoder ─▶ words ──────────────────────┼─▶ loop ─▶ model file, report
proposals, teacher ─▶ teacher cache ────────┘
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vildcli.checkpoint import MODEL_FILE, ModelCard, save_model
from vildcli.console import Progress
from vildcli.data.base_categories import base_flags
from vildcli.data.batches import BatchPlan, repeat_factors
from vildcli.data.checks import check_training_data
from vildcli.data.lvis import AnnotationSet, load_annotations
from vildcli.data.training_set import Augmentation, TrainingSet
from vildcli.data.transforms import MultiScale, Scaling
from vildcli.detector.architecture import ARCHITECTURES, Architecture
from vildcli.detector.detector import Detector, TrainingContext
from vildcli.errors import ModelError
from vildcli.runs import file_sha256, open_run, read_run
from vildcli.systems import System, find_system
from vildcli.teacher.cache import TeacherCache
from vildcli.teacher.session import TeachOptions, count_images, teach
from vildcli.training.initialise import COCO, IMAGENET, SCRATCH, identity_of, initialise
from vildcli.training.processes import Processes, open_processes
from vildcli.training.recipe import RECIPES, REPEAT_THRESHOLD, Recipe
from vildcli.training.report import write_report
from vildcli.training.train import train_detector
from vildcli.training.validation import make_validator
from vildcli.training.words import TrainingWords, open_words

KIND = "training"
PROPOSAL_SYSTEM = "vild-text"  # trained for its proposals, where nobody gave any


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What `vildcli train` is told.

    Attributes:
        train: COCO or LVIS JSON; images: the folder of its files.
        teacher: open_clip reference: the space of the distilled embeddings, and of the names.
        text_encoder: what embeds the names instead; `glove:FILE` for the GloVe baseline.
        base: vocabulary of base categories, or `all`; None takes every category that LVIS does not
            call rare.
        teacher_cache: filled by `vildcli teach`; None makes one in the run's folder.
        proposals: what that one embeds: a model, torchvision, a JSON of boxes; None takes `init` if
            it is a model, else a detector trained for it first.
        init: scratch, imagenet, coco, a file of torchvision's form, or a model.
        val, val_images: annotations that are evaluated with every checkpoint.
        overrides: of the recipe's values.
    """

    system: str
    train: Path
    images: Path
    teacher: str
    text_encoder: str | None = None
    base: str | None = None
    teacher_cache: Path | None = None
    proposals: str | None = None
    taught_regions: int = 300
    init: str = SCRATCH
    architecture: str = "small"
    recipe: str = "world"
    prompts: str | None = None
    drop_degenerate: bool = False
    val: Path | None = None
    val_images: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    workers: int = 0
    device: str | None = None
    offline: bool = False


def train_system(
    options: TrainingOptions,
    out: Path,
    *,
    force: bool,
    progress: Progress,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train one row of the systems table and write its model file.

    The same call continues an interrupted run; a finished one is left as it is. Started by
    `torchrun`, all its processes train together.

    Returns:
        The model file.

    Raises:
        ModelError, DataError: something does not fit; before the first step.
    """
    with open_processes(options.device) as processes:
        return _train(options, out, force, progress, say, processes)


def _train(
    options: TrainingOptions,
    out: Path,
    force: bool,
    progress: Progress,
    say: Callable[[str], None],
    processes: Processes,
) -> Path:
    system = find_system(options.system)
    _refuse_untrainable(system, options)
    architecture = _architecture(options)
    annotations, words, recipe = _prepare(options, system, say)
    if processes.is_first:
        settings = _settings(options, system, architecture, recipe, words)
        open_run(out, kind=KIND, settings=settings, force=force)
    processes.wait()
    model_file = out / MODEL_FILE
    if model_file.exists():
        return model_file
    cache = None
    if system.distilled:
        cache = options.teacher_cache or _own_cache(options, out, progress, say, processes)
        _check_teacher(cache, words, say)
    data = _training_set(options, annotations, words, architecture, recipe, cache)
    torch.manual_seed(options.seed)
    detector = Detector(
        architecture, system, words.embedding_width(architecture), len(words.categories)
    )
    provenance = initialise(detector, options.init, offline=options.offline)
    if cache is not None:
        provenance["proposals"] = read_run(cache, "teacher")["arguments"]["provenance"]
    detector.to(processes.device)
    context = TrainingContext(
        text_embeddings=words.embeddings().to(processes.device),
        is_base=torch.tensor(words.is_base, device=processes.device),
        temperature=words.temperature,
        regions=recipe.regions,
        proposals=recipe.proposals,
        mask_regions=recipe.mask_regions,
        novel_logits=recipe.novel_logits,
        distillation=recipe.distillation,
    )
    with progress(f"Training {system.name}", recipe.length) as advance:
        train_detector(
            detector,
            data,
            _batches(options, annotations, words, recipe, processes),
            context,
            recipe,
            out,
            processes=processes,
            workers=options.workers,
            advance=advance,
            validate=make_validator(options.val, options.val_images, words),
        )
    if processes.is_first:
        _write_model(model_file, detector, system, architecture, words, provenance)
        write_report(out)
    processes.wait()
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
    recipe, overrides = RECIPES[options.recipe], dict(options.overrides)
    if batch := overrides.pop("batch", None):
        recipe = recipe.with_batch(batch)
    if find_system(options.system).repeat_factors and recipe.repeat_threshold is None:
        recipe = replace(recipe, repeat_threshold=REPEAT_THRESHOLD)
    return replace(recipe, **overrides)


def _refuse_untrainable(system: System, options: TrainingOptions) -> None:
    if not system.trained:
        raise ModelError(
            f"{system.name} is not trained.",
            hint="Train vild-text, and give --teacher when detecting.",
        )
    if options.teacher_cache is not None and not system.distilled:
        raise ModelError(
            f"{system.name} distils nothing, so it takes no --teacher-cache.",
            hint="Leave it out, or train vild, vild-image or vild-ensemble.",
        )


def _architecture(options: TrainingOptions) -> Architecture:
    if options.architecture not in ARCHITECTURES:
        raise ModelError(
            f"There is no backbone '{options.architecture}'.",
            hint=f"Backbones: {', '.join(ARCHITECTURES)}.",
        )
    return ARCHITECTURES[options.architecture]


def _prepare(
    options: TrainingOptions, system: System, say: Callable[[str], None]
) -> tuple[AnnotationSet, TrainingWords, Recipe]:
    """Read and check all that can be checked before anything is written or trained."""
    annotations = load_annotations(options.train)
    is_base = base_flags(annotations.categories, options.base)
    pairs = zip(annotations.categories, is_base, strict=True)
    base_ids = [category.id for category, base in pairs if base]
    annotations, dropped = check_training_data(
        annotations, options.images, base_ids, drop_degenerate=options.drop_degenerate
    )
    if dropped:
        say(f"Left out objects without area: {dropped}.")
    words = open_words(
        system,
        annotations.categories,
        is_base,
        text_encoder=options.text_encoder or options.teacher,
        prompts=options.prompts,
        offline=options.offline,
    )
    recipe = recipe_of(options)
    if recipe.frozen_norms != "none" and options.init == SCRATCH:
        say(
            f"Frozen norms ({recipe.frozen_norms}) keep the statistics that they start with, and "
            "scratch has none: give --init imagenet, or --frozen-norms none."
        )
    factors = _repeat_factors(annotations, words, recipe)
    epoch_images = sum(factors) if factors else len(annotations.images)
    return annotations, words, recipe.in_steps(epoch_images)


def _repeat_factors(
    annotations: AnnotationSet, words: TrainingWords, recipe: Recipe
) -> list[float] | None:
    if recipe.repeat_threshold is None:
        return None
    return repeat_factors(annotations, list(words.columns), recipe.repeat_threshold)


def _batches(
    options: TrainingOptions,
    annotations: AnnotationSet,
    words: TrainingWords,
    recipe: Recipe,
    processes: Processes,
) -> BatchPlan:
    return BatchPlan(
        len(annotations.images),
        recipe.batch,
        options.seed,
        0,
        recipe.length,
        repeat_factors=_repeat_factors(annotations, words, recipe),
        rank=processes.rank,
        world=processes.world,
    )


def _settings(
    options: TrainingOptions,
    system: System,
    architecture: Architecture,
    recipe: Recipe,
    words: TrainingWords,
) -> dict[str, Any]:
    cache = options.teacher_cache
    return {
        "system": system.name,
        "architecture": architecture.as_dict(),
        "recipe": recipe.as_dict(),
        "train": file_sha256(options.train),
        **words.settings(),
        "teacher_cache": cache and file_sha256(cache / "run.json"),
        "proposals": options.proposals and identity_of(options.proposals),
        "taught_regions": options.taught_regions if cache is None else None,
        "init": identity_of(options.init),
        "seed": options.seed,
    }


def _own_cache(
    options: TrainingOptions,
    out: Path,
    progress: Progress,
    say: Callable[[str], None],
    processes: Processes,
) -> Path:
    """Make the teacher cache in the run's own folder; the first process embeds for all."""
    folder = out / "teacher-cache"
    proposals = options.proposals or _model_of_init(options)
    if proposals is None:
        say(f"No --proposals: training {PROPOSAL_SYSTEM} on the base categories for its proposals.")
        first = replace(options, system=PROPOSAL_SYSTEM, val=None, val_images=None)
        proposals = str(_train(first, out / "proposals", False, progress, say, processes))
    if processes.is_first:
        chosen = TeachOptions(
            options.train,
            options.images,
            options.teacher,
            proposals,
            regions=options.taught_regions,
            device=str(processes.device),
            offline=options.offline,
        )
        with progress("Embedding proposals", count_images(chosen)) as advance:
            teach(chosen, folder, force=False, advance=advance)
    processes.wait()
    return folder


def _model_of_init(options: TrainingOptions) -> str | None:
    """The model that `init` names: its proposals are as good as its weights."""
    is_torchvision = options.init in (SCRATCH, IMAGENET, COCO) or (
        Path(options.init).suffix in {".pth", ".pt"}
    )
    return None if is_torchvision else options.init


def _check_teacher(cache: Path, words: TrainingWords, say: Callable[[str], None]) -> None:
    """Refuse another teacher's embeddings, and say how good these are before anything trains."""
    assert words.encoder is not None, "what is distilled lives beside text embeddings"
    if read_run(cache, "teacher")["settings"]["teacher"] != words.encoder.identity:
        raise ModelError(
            f"The teacher cache {cache} was filled by another teacher than --teacher.",
            hint="Give the same --teacher to `vildcli teach` and `vildcli train`.",
        )


def _training_set(
    options: TrainingOptions,
    annotations: AnnotationSet,
    words: TrainingWords,
    architecture: Architecture,
    recipe: Recipe,
    cache: Path | None,
) -> TrainingSet:
    teacher = None
    if cache is not None:
        teacher = TeacherCache(cache, annotations.images, options.images)
    fill = tuple(255 * value for value in architecture.pixel_mean)
    size, scaling = _scaling(architecture, recipe)
    augmentation = Augmentation(
        size, scaling, fill, copy_paste=recipe.copy_paste, min_visible=recipe.min_visible
    )
    return TrainingSet(
        annotations, options.images, words.columns, augmentation, seed=options.seed, teacher=teacher
    )


def _scaling(architecture: Architecture, recipe: Recipe) -> tuple[int, Scaling]:
    """Side of the training canvas, and how images are fitted into it."""
    if recipe.multi_scale is None:
        return architecture.image_size, recipe.jitter
    shortest, longest, long_side = recipe.multi_scale
    size = math.ceil(long_side / architecture.stride) * architecture.stride
    return size, MultiScale((shortest, longest), long_side)


def _write_model(
    path: Path,
    detector: Detector,
    system: System,
    architecture: Architecture,
    words: TrainingWords,
    provenance: Mapping[str, Any],
) -> None:
    described, tower = words.card()
    card = ModelCard(
        system=system.name,
        architecture=architecture.as_dict(),
        embedding_width=words.embedding_width(architecture),
        default_conf=None,
        provenance=provenance,
        **described,
    )
    save_model(path, detector, tower, card)
