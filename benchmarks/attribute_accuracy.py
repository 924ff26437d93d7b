"""Colours of the small world's objects: read factorised, and from the flattened vocabulary.

Every true object that one of the system's regions meets with IoU 0.5 is asked for its category and
its colour: by two softmaxes over p names and q colours, and by one over the p x q joint names.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from vildcli.data.images import read_image
from vildcli.detector.scoring import attribute_scores, free_side, score_regions
from vildcli.evaluation.truth import Truth
from vildcli.labelling.labeller import VocabularyLabeller
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary

COLOUR = "colour"
MET_IOU = 0.5


def attribute_accuracy(
    truth: Truth, vocabulary: Vocabulary, images: Path, options: LabellingOptions
) -> dict[str, dict[str, float]]:
    """Shares of the met objects, in percent, of base and of novel categories.

    Args:
        truth: whose annotations carry `attributes: {colour: …}`.
        vocabulary: the world's, with the attribute set `colour`.
        options: the model.
    """
    opened = open_labelling_model(vocabulary, replace(options, context="none"))
    factorised = opened.labeller
    flat = open_labelling_model(
        _flattened(vocabulary, factorised), replace(options, context="none")
    ).labeller
    colours = vocabulary.attributes[COLOUR]
    found: dict[str, Counter[str]] = defaultdict(Counter)
    objects = _by_image(truth)
    for info in truth.annotations.images:
        rows = objects.get(info.id, [])
        pixels = torch.from_numpy(read_image(images / info.file_name).pixels).permute(2, 0, 1)
        [regions] = opened.detector.regions([pixels])
        met = _met(rows, regions)
        for row, (category, colour), (flat_category, flat_colour) in zip(
            [rows[i] for i, _ in met],
            _factorised(regions, factorised, [r for _, r in met]),
            _joint(regions, flat, [r for _, r in met], len(colours)),
            strict=True,
        ):
            names = [c.id for c in vocabulary.categories]
            right = colours.index(row["attributes"][COLOUR])
            group = "base" if factorised.bank.is_base[names.index(row["category_id"])] else "novel"
            found[group]["objects"] += 1
            for kind, name, said in (
                ("factorised", category, colour),
                ("flattened", flat_category, flat_colour),
            ):
                known, coloured = names[name] == row["category_id"], said == right
                found[group][f"{kind} category"] += known
                found[group][f"{kind} colour"] += coloured
                found[group][f"{kind} both"] += known and coloured
    return {group: _shares(counts) for group, counts in found.items()}


def _flattened(vocabulary: Vocabulary, labeller: VocabularyLabeller) -> Vocabulary:
    """Every colour before every name; a joint name is base where its category is."""
    is_base = labeller.bank.is_base.tolist()
    pairs = [
        (f"{colour} {category.name}", base)
        for category, base in zip(vocabulary.categories, is_base, strict=False)
        for colour in vocabulary.attributes[COLOUR]
    ]
    categories = tuple(Category(i, name, base=base) for i, (name, base) in enumerate(pairs, 1))
    return Vocabulary("flattened", categories)


def _by_image(truth: Truth) -> Mapping[int, list[dict[str, Any]]]:
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in truth.content["annotations"]:
        objects[row["image_id"]].append(row)
    return objects


def _met(rows: list[dict[str, Any]], regions: Regions) -> list[tuple[int, int]]:
    """Pairs of object and region: the best one of each object that any meets."""
    boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    if not len(boxes) or not len(regions):
        return []
    iou, best = box_iou(boxes, regions.boxes).max(1)
    return [(i, int(best[i])) for i in torch.where(iou >= MET_IOU)[0].tolist()]


def _factorised(
    regions: Regions, labeller: VocabularyLabeller, rows: list[int]
) -> list[tuple[int, int]]:
    [colours] = labeller.attributes
    side, temperature = free_side(regions.text_side, regions.image_side, labeller.head)
    of_colours = attribute_scores(side[rows], colours.embeddings, temperature)
    return list(
        zip(_best(regions, labeller, rows).tolist(), of_colours.argmax(1).tolist(), strict=True)
    )


def _joint(
    regions: Regions, labeller: VocabularyLabeller, rows: list[int], colours: int
) -> list[tuple[int, int]]:
    return [divmod(column, colours) for column in _best(regions, labeller, rows).tolist()]


def _best(regions: Regions, labeller: VocabularyLabeller, rows: list[int]) -> Tensor:
    bank = labeller.bank
    scores = score_regions(
        None if regions.text_side is None else regions.text_side[rows],
        None if regions.image_side is None else regions.image_side[rows],
        bank.text_embeddings,
        bank.is_base,
        labeller.head,
    )
    return scores.fused[:, : len(bank.category_ids)].argmax(1)


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = counts.pop("objects")
    return {"objects": total, **{k: round(100 * n / total, 1) for k, n in counts.items()}}
