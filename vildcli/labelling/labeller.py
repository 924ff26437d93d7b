"""Names for regions: scoring bank, scoring head and the labelling policy of `detect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vildcli.detector.postprocess import NmsKind, best_names
from vildcli.detector.scoring import (
    Scores,
    ScoringHead,
    attribute_scores,
    free_side,
    named_boxes,
    score_regions,
)
from vildcli.labelling.roll_up import RollUp
from vildcli.text.context import ScoringBank
from vildcli.types import AttributeLabels, RegionLabels, Regions


@dataclass(frozen=True, slots=True)
class LabelPolicy:
    """Which labels are stored.

    Attributes:
        floor: least score; low, because thresholds are applied when labels are shown.
        max_labels: most labels of an image.
        nms: which names suppress each other where boxes overlap.
        nms_iou: overlap from which they do.
    """

    floor: float = 0.01
    max_labels: int = 300
    nms: NmsKind = "agnostic"
    nms_iou: float = 0.6


@dataclass(frozen=True, slots=True)
class AttributeSet:
    """Values that exclude each other, such as colours; their embeddings [A, D] are unit norm."""

    name: str
    values: tuple[str, ...]
    embeddings: Tensor


@dataclass(frozen=True, slots=True)
class VocabularyLabeller:
    """Scores regions against user's names, negatives and context; reports the user's names only.

    Attributes:
        groups: [C] group of each category for NMS within groups; None otherwise.
        attributes: read of the labelled regions alone.
        unread: words that the encoder does not know, of each name that has any.
        roll_up: broader names for regions of which no category is sure; None labels with
            categories alone.
    """

    bank: ScoringBank
    head: ScoringHead
    policy: LabelPolicy
    groups: Tensor | None = None
    attributes: tuple[AttributeSet, ...] = ()
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roll_up: RollUp | None = None

    def label(self, regions: Regions) -> RegionLabels:
        """One best name a region, suppressed across names, best first."""
        scores = score_regions(
            regions.text_side,
            regions.image_side,
            self.bank.text_embeddings,
            self.bank.is_base,
            self.head,
            regions.objectness,
        )
        own = scores.fused[:, : len(self.bank.category_ids)]
        boxes = named_boxes(regions, scores, self.bank.text_embeddings, self.head)
        if self.roll_up is not None and len(regions):
            return self._rolled_up(regions, scores, own, boxes, self.roll_up)
        rows, columns = self._best_names(boxes, own, self.groups)
        fused = scores.fused[rows, columns]
        return RegionLabels(
            regions=rows,
            category_ids=self.bank.category_ids[columns],
            is_base=self.bank.is_base[columns],
            scores=fused,
            text_scores=None if scores.text is None else scores.text[rows, columns],
            image_scores=None if scores.image is None else scores.image[rows, columns],
            attributes=self._attributes(regions, rows, fused) if self.attributes else (),
            boxes=None if boxes is regions.boxes else boxes[rows],
        )

    def _rolled_up(
        self, regions: Regions, scores: Scores, own: Tensor, boxes: Tensor, roll_up: RollUp
    ) -> RegionLabels:
        """Labels whose names may be broader; whether one is base is its best category's affair."""
        best = own.argmax(1)
        of_entries = roll_up.of_entries(own, best.tolist())
        rows, entries = self._best_names(boxes, of_entries, roll_up.groups)
        fused = of_entries[rows, entries]

        def factor(side: Tensor | None) -> Tensor | None:
            if side is None:
                return None
            pairs = zip(rows.tolist(), entries.tolist(), strict=True)
            found = [roll_up.sums(side[row : row + 1], entry) for row, entry in pairs]
            return torch.cat(found) if found else side.new_zeros(0)

        return RegionLabels(
            regions=rows,
            category_ids=roll_up.ids[entries],
            is_base=self.bank.is_base[best[rows]],
            scores=fused,
            text_scores=factor(scores.text),
            image_scores=factor(scores.image),
            attributes=self._attributes(regions, rows, fused) if self.attributes else (),
            boxes=None if boxes is regions.boxes else boxes[rows],
        )

    def _best_names(
        self, boxes: Tensor, scores: Tensor, groups: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        policy = self.policy
        return best_names(
            boxes,
            scores,
            floor=policy.floor,
            count=policy.max_labels,
            iou=policy.nms_iou,
            kind=policy.nms,
            groups=groups,
        )

    def _attributes(
        self, regions: Regions, rows: Tensor, fused: Tensor
    ) -> tuple[AttributeLabels, ...]:
        """The best value of each set for the labelled regions, which are few."""
        side, temperature = free_side(regions.text_side, regions.image_side, self.head)
        found = []
        for attributes in self.attributes:
            scores, value = attribute_scores(side[rows], attributes.embeddings, temperature).max(1)
            names = tuple(attributes.values[i] for i in value.tolist())
            found.append(AttributeLabels(attributes.name, names, scores, fused * scores))
        return tuple(found)
