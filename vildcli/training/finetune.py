"""Fine-tune the linear classifier alone, for another data set (the transfer table, ViLD §4.5).

The classifier of a ViLD model is its matrix of text embeddings. It starts as that and learns, while
the detector, the background embedding and the statistics of batch norm stay as they are. What comes
out is a text bank: `--text-bank` takes it, beside the model, wherever names are scored.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from vildcli.checkpoint import Model, load_model
from vildcli.console import Progress
from vildcli.errors import ModelError
from vildcli.runs import file_sha256, open_run
from vildcli.text.bank import TextBank, save_text_bank
from vildcli.text.encoder import text_encoder_from_state
from vildcli.text.templates import prompts_from_dict
from vildcli.training.initialise import names_a_model
from vildcli.training.inputs import (
    Say,
    TrainingData,
    TrainingOptions,
    load_training_data,
    make_training_set,
    plan_batches,
)
from vildcli.training.processes import Processes, open_processes, say_nothing, show_nothing
from vildcli.training.report import write_report
from vildcli.training.session import KIND, training_context
from vildcli.training.train import train_detector
from vildcli.training.words import TrainingWords

BANK_FILE = "classifier.safetensors"


def finetune_classifier(
    options: TrainingOptions, out: Path, *, force: bool, progress: Progress, say: Say
) -> Path:
    """Learn text embeddings for a data set's categories, all of them unless `base` says otherwise.

    Args:
        options: `init` is the model; `system`, teacher, prompts and backbone are that model's.

    Returns:
        The text bank.

    Raises:
        ModelError: `init` is no model, or one whose names are not text embeddings.
        DataError: annotations that cannot be trained on.
    """
    if not names_a_model(options.init):
        raise ModelError(
            "--finetune-classifier starts from a trained model.", hint="Give --init MODEL."
        )
    with open_processes(options.device) as processes:
        if not processes.is_first:
            progress, say = show_nothing, say_nothing
        source = load_model(options.init, torch.device("cpu"))
        if source.detector.background is None:
            raise ModelError(
                f"{options.init} is {source.card.system}: it has no text embeddings to learn.",
                hint="Give a model with a text side, such as vild or vild-ensemble.",
            )
        return _finetune(source, options, out, force, progress, say, processes)


def _finetune(
    source: Model,
    options: TrainingOptions,
    out: Path,
    force: bool,
    progress: Progress,
    say: Say,
    processes: Processes,
) -> Path:
    detector, card = source.detector, source.card
    data = _data(options, source, say)
    encoder = text_encoder_from_state(card.text_encoder, source.text_tower, offline=options.offline)
    words = TrainingWords(
        data.annotations.categories, data.is_base, encoder, prompts_from_dict(card.prompts)
    )
    if processes.is_first:
        settings = _settings(options, source, data, words)
        open_run(out, kind=KIND, settings=settings, force=force)
    processes.wait()
    bank_file = out / BANK_FILE
    if bank_file.exists():
        return bank_file
    detector.requires_grad_(False)
    detector.learned_words = nn.Parameter(words.embeddings())
    detector.to(processes.device)
    training_set = make_training_set(options, data, words.columns, detector.architecture, None)
    with progress("Fine-tuning the classifier", data.recipe.length) as advance:
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
        )
    if processes.is_first:
        bank = TextBank(
            names=tuple(category.name for category in words.categories),
            embeddings=normalize(detector.learned_words.detach().cpu(), dim=-1),
            temperature=words.temperature,
            encoder=encoder.identity,
            prompts=words.prompts.fingerprint if words.prompts else "",
        )
        save_text_bank(bank, bank_file)
        write_report(out)
    processes.wait()
    return bank_file


def _data(options: TrainingOptions, source: Model, say: Say) -> TrainingData:
    options = replace(
        options,
        base=options.base or "all",
        overrides={
            **options.overrides,
            "frozen_norms": "all",
            "mask_regions": 0,
            "class_loss": source.detector.system.class_loss,
        },
    )
    return load_training_data(options, source.detector.system, say)


def _settings(
    options: TrainingOptions, source: Model, data: TrainingData, words: TrainingWords
) -> dict[str, Any]:
    return {
        "system": f"{source.card.system}, its classifier fine-tuned",
        "architecture": dict(source.card.architecture),
        "recipe": data.recipe.as_dict(),
        "train": file_sha256(options.train),
        **words.settings(),
        "init": source.identity,
        "seed": options.seed,
    }
