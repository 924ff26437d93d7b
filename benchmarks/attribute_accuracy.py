"""Colours of the small world's objects: read factorised, and from the flattened vocabulary.

Every true object that one of the system's regions meets with IoU 0.5 is asked for its category and
its colour: by two softmaxes over p names and q colours, and by one over the p x q joint names.
"""

from __future__ import annotations

import json
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
from vildcli.labelling.labeller import VocabularyLabeller
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.types import Regions
from vildcli.vocabulary.category import Category, Vocabulary

COLOUR = "colour"
MET_IOU = 0.5


def attribute_accuracy(
    captions: Path, images: Path, vocabulary: Vocabulary, options: LabellingOptions
) -> dict[str, dict[str, float]]:
    """Shares of the met objects, in percent, of base and of novel categories.

    Args:
        captions: of scenes that nothing was trained on: `bbox`, `name` and `colour` of each object.
        vocabulary: the world's, with the attribute set `colour`.
        options: the model.
    """
    opened = open_labelling_model(vocabulary, replace(options, context="none"))
    flat_vocabulary = _flattened(vocabulary, opened.labeller)
    flat = open_labelling_model(flat_vocabulary, replace(options, context="none")).labeller
    names = [category.name for category in vocabulary.categories]
    colours = vocabulary.attributes[COLOUR]
    is_base = opened.labeller.bank.is_base.tolist()
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for file_name, objects in _by_image(captions).items():
        pixels = torch.from_numpy(read_image(images / file_name).pixels).permute(2, 0, 1)
        [regions] = opened.detector.regions([pixels])
        met = _met(objects, regions)
        rows = [row for _, row in met]
        factorised, joint = _factorised(regions, opened.labeller, rows), _joint(regions, flat, rows)
        for (i, _), pair, flat_pair in zip(met, factorised, joint, strict=True):
            truth = names.index(objects[i]["name"]), colours.index(objects[i]["colour"])
            counts = found["base" if is_base[truth[0]] else "novel"]
            counts["objects"] += 1
            _count(counts, "factorised", pair, truth)
            _count(counts, "flattened", divmod(flat_pair, len(colours)), truth)
    return {group: _shares(counts) for group, counts in found.items()}


def _count(counts: Counter[str], kind: str, found: tuple[int, int], truth: tuple[int, int]) -> None:
    counts[f"{kind} category"] += found[0] == truth[0]
    counts[f"{kind} colour"] += found[1] == truth[1]
    counts[f"{kind} both"] += found == truth


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


def _by_image(captions: Path) -> Mapping[str, list[dict[str, Any]]]:
    objects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in json.loads(captions.read_text(encoding="utf-8")):
        if row["colour"] is not None:
            objects[row["file_name"]].append(row)
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


def _joint(regions: Regions, labeller: VocabularyLabeller, rows: list[int]) -> list[int]:
    found: list[int] = _best(regions, labeller, rows).tolist()
    return found


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
