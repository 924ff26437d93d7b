"""Names for regions: scoring bank, scoring head and the labelling policy of `detect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vildcli.detector.postprocess import NmsKind, best_names
from vildcli.detector.scoring import ScoringHead, attribute_scores, free_side, score_regions
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
    """

    bank: ScoringBank
    head: ScoringHead
    policy: LabelPolicy
    groups: Tensor | None = None
    attributes: tuple[AttributeSet, ...] = ()
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
        policy, reported = self.policy, len(self.bank.category_ids)
        rows, columns = best_names(
            regions.boxes,
            scores.fused[:, :reported],
            floor=policy.floor,
            count=policy.max_labels,
            iou=policy.nms_iou,
            kind=policy.nms,
            groups=self.groups,
        )
        fused = scores.fused[rows, columns]
        return RegionLabels(
            regions=rows,
            category_ids=self.bank.category_ids[columns],
            is_base=self.bank.is_base[columns],
            scores=fused,
            text_scores=None if scores.text is None else scores.text[rows, columns],
            image_scores=None if scores.image is None else scores.image[rows, columns],
            attributes=self._attributes(regions, rows, fused) if self.attributes else (),
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
