"""Average precision while a system trains, asked with every checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from vildcli.data.lvis import load_annotations, read_content
from vildcli.detector.detector import Detector
from vildcli.errors import ModelError
from vildcli.evaluation.lvis import check_lvis
from vildcli.evaluation.model import split_result
from vildcli.evaluation.predict import Scorer, predict
from vildcli.text.bank import embed_categories
from vildcli.text.context import ScoringBank
from vildcli.training.train import Validate
from vildcli.training.words import TrainingWords
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import resolve_base, same_things

REGIONS = 300  # an image; the publication evaluates 1,000


def make_validator(
    truth: Path | None, images: Path | None, words: TrainingWords
) -> Validate | None:
    """What evaluates a detector on an LVIS annotation set: mask AP, base and novel AP50, in 0-1.

    Raises:
        ModelError: annotations without images.
        DataError: not an LVIS file.
    """
    if truth is None:
        return None
    if images is None:
        raise ModelError("--val needs the folder of its images.", hint="Give --val-images.")
    check_lvis(read_content(truth), str(truth))
    annotations, folder, file = load_annotations(truth), images, truth

    def validate(detector: Detector) -> dict[str, float]:
        bank = _bank(detector, annotations.categories, words)
        scorer = Scorer(bank, detector.scoring_head(words.temperature))
        found = predict(
            lambda image: detector.regions([image], count=REGIONS)[0],
            {"model": scorer},
            annotations,
            folder,
        )
        is_base = resolve_base(annotations.categories, words.base)
        result = split_result(file, found["model"], annotations.categories, is_base)
        return {
            "AP": result.lvis.metrics["AP"],
            "base AP50": result.base_ap50,
            "novel AP50": result.novel_ap50,
        }

    return validate


def _bank(
    detector: Detector, categories: tuple[Category, ...], words: TrainingWords
) -> ScoringBank:
    if words.encoder is not None and words.prompts is not None:
        embeddings = embed_categories(categories, words.encoder, words.prompts)
        known = categories
    else:  # a closed set scores what it was trained on, and never names anything else
        rows = [found[0] for found in same_things(categories, words.base) if found]
        known = tuple(
            c
            for c, found in zip(categories, same_things(categories, words.base), strict=True)
            if found
        )
        embeddings = detector.classifier_rows()[1:].detach().cpu()[rows]
    return ScoringBank(
        embeddings,
        torch.tensor([category.id for category in known]),
        torch.tensor(resolve_base(known, words.base)),
        words.temperature,
    )
