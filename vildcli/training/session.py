"""A training run, from files to a model file.

annotations, base list ─check─▶ training set ┐
text encoder ─▶ words ──────────────────────┼─▶ loop ─▶ model file, report
proposals, teacher ─▶ teacher cache ────────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vildcli.checkpoint import MODEL_FILE, ModelCard, save_model
from vildcli.console import Progress
from vildcli.detector.architecture import ARCHITECTURES, Architecture
from vildcli.detector.detector import Detector, TrainingContext
from vildcli.errors import ModelError
from vildcli.runs import file_sha256, open_run, read_run
from vildcli.systems import VARIABLE, System, find_system, vary
from vildcli.training.initialise import identity_of, initialise
from vildcli.training.inputs import (
    Say,
    TrainingData,
    TrainingOptions,
    count_objects,
    load_training_data,
    make_training_set,
    plan_batches,
    recipe_of,
)
from vildcli.training.own_cache import check_cache, given_proposals, make_cache, teacher_chooses
from vildcli.training.processes import Processes, open_processes, say_nothing, show_nothing
from vildcli.training.recipe import Recipe
from vildcli.training.report import write_report
from vildcli.training.train import train_detector
from vildcli.training.validation import make_validator
from vildcli.training.words import TrainingWords, open_words

KIND = "training"
PROPOSAL_SYSTEM = "vild-text"  # trained for its proposals, where nobody gave any


def train_system(
    options: TrainingOptions,
    out: Path,
    *,
    force: bool,
    progress: Progress,
    say: Say = lambda line: None,
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
        if not processes.is_first:
            progress, say = show_nothing, say_nothing
        return _train(options, out, force, progress, say, processes)


def _train(
    options: TrainingOptions,
    out: Path,
    force: bool,
    progress: Progress,
    say: Say,
    processes: Processes,
) -> Path:
    system = _system(options)
    architecture = _architecture(options)
    data = load_training_data(options, system, say)
    words = open_words(
        system,
        data.annotations.categories,
        data.is_base,
        text_encoder=options.text_encoder or options.teacher,
        prompts=options.prompts,
        offline=options.offline,
    )
    validate = make_validator(options.val, options.val_images, words)
    if processes.is_first:
        settings = _settings(options, system, architecture, data.recipe, words)
        open_run(out, kind=KIND, settings=settings, force=force)
    processes.wait()
    model_file = out / MODEL_FILE
    if model_file.exists():
        return model_file
    cache = _cache(options, system, words, out, progress, say, processes)
    training_set = make_training_set(options, data, words.columns, architecture, cache)
    torch.manual_seed(options.seed)
    width = words.embedding_width(architecture)
    detector = Detector(architecture, system, width, len(words.categories))
    detector.start_at(words.temperature)
    provenance = initialise(detector, options.init, offline=options.offline)
    _warn_of_other_words(options, words, provenance.get("init_text_encoder"), say)
    if cache is not None:
        provenance["proposals"] = read_run(cache, "teacher")["arguments"]["provenance"]
    if options.val is not None:  # whose images no choice of further training images may look at
        provenance["validated_on"] = file_sha256(options.val)
    detector.to(processes.device)
    with progress(f"Training {system.name}", data.recipe.length) as advance:
        train_detector(
            detector,
            training_set,
            plan_batches(data, options.seed, processes),
            training_context(words, data, processes.device),
            data.recipe,
            out,
            processes=processes,
            workers=options.workers,
            advance=advance,
            validate=validate,
        )
    if processes.is_first:
        _write_model(model_file, detector, words, provenance)
        write_report(out)
    processes.wait()
    return model_file


def _warn_of_other_words(
    options: TrainingOptions, words: TrainingWords, initial: str | None, say: Say
) -> None:
    """Say so where the initial model was trained against another text encoder than this run."""
    if initial and words.encoder and initial != words.encoder.identity:
        say(
            f"Warning: {options.init} was trained against another text encoder than "
            f"{options.text_encoder or options.teacher}: what it knows of words fits no longer."
        )


def training_context(
    words: TrainingWords, data: TrainingData, device: torch.device
) -> TrainingContext:
    """What of words, data and recipe the losses need."""
    recipe, objects = data.recipe, None
    if recipe.class_loss == "seesaw":
        counts = count_objects(data, words.columns, len(words.categories))
        objects = torch.tensor(counts, device=device)
    return TrainingContext(
        text_embeddings=words.embeddings().to(device),
        is_base=torch.tensor(words.is_base, device=device),
        temperature=words.temperature,
        regions=recipe.regions,
        proposals=recipe.proposals,
        mask_regions=recipe.mask_regions,
        novel_logits=recipe.novel_logits,
        distillation=recipe.distillation,
        objects=objects,
    )


def _system(options: TrainingOptions) -> System:
    """The row with what the options and the recipe change of it.

    Raises:
        ModelError: it is not trained, or what is given beside it does not fit.
    """
    row = find_system(options.system)
    _refuse_untrainable(row, options)
    recipe = recipe_of(options, row)
    return vary(row, {**options.variation, "class_loss": recipe.class_loss})


def _variation(system: System) -> dict[str, Any]:
    """What differs from the system's row."""
    row = find_system(system.name)
    return {
        name: getattr(system, name)
        for name in VARIABLE
        if getattr(system, name) != getattr(row, name)
    }


def _refuse_untrainable(system: System, options: TrainingOptions) -> None:
    if not system.trained:
        raise ModelError(
            f"{system.name} is not trained.",
            hint="Train vild-text, and give --teacher when detecting.",
        )
    if options.teacher_cache is not None and not system.distilled:
        raise ModelError(
            f"{system.name} distils nothing, so it takes no --teacher-cache.",
            hint="Leave it out, or train vild, vild-image, vild-ensemble or ezsd.",
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
    words: TrainingWords,
) -> dict[str, Any]:
    cache = options.teacher_cache
    chooses = system.distilled and cache is None and teacher_chooses(options, system)
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
        **({"names": options.names} if chooses else {}),
        **({"variation": variation} if (variation := _variation(system)) else {}),
    }


def _cache(
    options: TrainingOptions,
    system: System,
    words: TrainingWords,
    out: Path,
    progress: Progress,
    say: Say,
    processes: Processes,
) -> Path | None:
    """The teacher's embeddings: those given, else made in the run's own folder."""
    if not system.distilled:
        return None
    cache = options.teacher_cache
    if cache is None:
        proposals = given_proposals(options)
        if proposals is None:
            say(f"No --proposals: training {PROPOSAL_SYSTEM} on the base categories for them.")
            first = replace(options, system=PROPOSAL_SYSTEM, val=None, val_images=None)
            proposals = str(_train(first, out / "proposals", False, progress, say, processes))
        cache = make_cache(options, system, proposals, out, progress, processes)
    assert words.encoder is not None, "what is distilled lives beside text embeddings"
    check_cache(cache, words.encoder.identity, say)
    return cache


def _write_model(
    path: Path, detector: Detector, words: TrainingWords, provenance: Mapping[str, Any]
) -> None:
    described, tower = words.card()
    card = ModelCard(
        system=detector.system.name,
        architecture=detector.architecture.as_dict(),
        embedding_width=words.embedding_width(detector.architecture),
        default_conf=None,
        provenance=provenance,
        variation=_variation(detector.system),
        **described,
    )
    save_model(path, detector, tower, card)
