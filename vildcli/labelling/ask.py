"""Free texts against the regions of one image: ViLD's interactive detection.

Nothing of the labelling policy takes part: as on the authors' demo page, regions are chosen by
objectness alone, and a text's score is its cosine with the region, or its share among the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.ops import nms
from torchvision.ops.boxes import box_area

from vildcli.detector.scoring import ScoringHead, free_side
from vildcli.errors import ModelError
from vildcli.labelling.batches import RegionDetector
from vildcli.labelling.detectors import with_later_masks
from vildcli.labelling.labeller import LabelPolicy, VocabularyLabeller
from vildcli.labelling.words import ClosedSet, Words
from vildcli.teacher.clip_on_crops import select_rows
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import TextEncoder, refuse_sentences, unread_words
from vildcli.text.glove import BARE_NAME
from vildcli.text.templates import Prompts, load_prompts
from vildcli.types import Regions, made
from vildcli.vocabulary.category import Category

# Of the authors' demo page.
OBJECTNESS, NMS_IOU, MAX_REGIONS = 0.9, 0.6, 25
MIN_AREA = 220.0  # pixels of the original image
SEPARATOR = ";"
ONE_SENTENCE = "single"  # 63 of them take seconds on a CPU


@dataclass(frozen=True, slots=True)
class TextReader:
    """Embeds texts through a model's prompts, each once."""

    encoder: TextEncoder
    prompts: Prompts
    _known: dict[str, Tensor] = field(default_factory=dict)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embed texts to [T, D], unit norm; only those that are new are encoded.

        Raises:
            VocabularyError: the encoder knows no word of a text.
        """
        new = tuple(Category(0, text) for text in texts if text not in self._known)
        rows = embed_categories(new, self.encoder, self.prompts, cache=False)
        self._known.update(zip((category.name for category in new), rows, strict=True))
        return torch.stack([self._known[text] for text in texts])

    def unread(self, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The words that the encoder does not know, of each text that has any."""
        return unread_words(self.encoder, (Category(0, text) for text in texts))


def text_reader(words: Words | ClosedSet, prompts: str | None = None) -> TextReader:
    """How a model reads free texts: in one sentence, since somebody waits for the answer.

    Args:
        prompts: those that `words` were opened with, where somebody chose them.

    Raises:
        ModelError: it is a supervised one.
        VocabularyError: it reads bare names, and its prompts are sentences.
    """
    if isinstance(words, ClosedSet):
        raise ModelError(
            "A supervised model has no text space, so it cannot be asked in words.",
            hint="Use a ViLD model, whose classifier is made of words.",
        )
    is_own = prompts is not None or words.prompts.fingerprint == BARE_NAME.fingerprint
    chosen = words.prompts if is_own else load_prompts(ONE_SENTENCE)
    refuse_sentences(words.encoder, chosen)
    return TextReader(words.encoder, chosen)


@dataclass(frozen=True, slots=True)
class AskingModel:
    """A model that can be asked about an image.

    Attributes:
        labeller: names regions by the current vocabulary; None where there is none.
        names: of the current vocabulary's categories, by id.
    """

    detector: RegionDetector
    reader: TextReader
    head: ScoringHead
    labeller: VocabularyLabeller | None = None
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageRegions:
    """The chosen regions of an image, ready for one question after the other.

    Attributes:
        rows: [K] their places among all regions of the image.
        side: [K, D] what texts are compared with.
        temperature: τ of that side.
        names: K of (name, score) by the current vocabulary; empty where there is none.
        highest_objectness: of all regions of the image.
    """

    rows: Tensor
    regions: Regions
    side: Tensor
    temperature: float
    names: tuple[tuple[str, float], ...]
    highest_objectness: float

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class AskedRegion:
    """One region and what the texts score on it.

    Attributes:
        region: its place among all regions of the image.
        box: x1 y1 x2 y2 in pixels of the upright original image.
        name, name_score: by the current vocabulary, None without one.
        scores: one a text: cosines, or with softmax shares in 0-1.
        mask: [28, 28] uint8, probability x 255 relative to `box`.
    """

    region: int
    box: tuple[float, float, float, float]
    objectness: float
    name: str | None
    name_score: float | None
    scores: tuple[float, ...]
    mask: NDArray[np.uint8]


def split_texts(line: str) -> tuple[str, ...]:
    """The texts of a line, with ";" between, each once."""
    texts = (text.strip() for text in line.split(SEPARATOR))
    return tuple(dict.fromkeys(text for text in texts if text))


def find_regions(
    model: AskingModel,
    pixels: NDArray[np.uint8],
    *,
    objectness: float = OBJECTNESS,
    limit: int = MAX_REGIONS,
) -> ImageRegions:
    """Detect, choose the regions worth asking about, and name them by the current vocabulary.

    Args:
        pixels: [H, W, 3] RGB, upright.
    """
    detector = with_later_masks(model.detector)
    (found,) = detector.regions([torch.from_numpy(pixels).permute(2, 0, 1)])
    rows = choose_regions(found, objectness=objectness, limit=limit)
    regions = select_rows(found, rows)
    regions = replace(regions, masks=made(regions.masks))
    side, temperature = free_side(regions.text_side, regions.image_side, model.head)
    names = _best_names(regions, model.labeller, model.names) if model.labeller else ()
    highest = float(found.objectness.max()) if len(found) else 0.0
    return ImageRegions(rows, regions, side, temperature, names, highest)


def choose_regions(
    regions: Regions, *, objectness: float = OBJECTNESS, limit: int = MAX_REGIONS
) -> Tensor:
    """Rows of the regions that the demo page shows, by falling objectness: no two of a thing."""
    kept = nms(regions.boxes, regions.objectness, NMS_IOU)
    is_sure = regions.objectness[kept] >= objectness
    rows: Tensor = kept[is_sure & (box_area(regions.boxes[kept]) > MIN_AREA)][:limit]
    return rows


def score_texts(side: Tensor, texts: Tensor, temperature: float | None = None) -> Tensor:
    """Cosines [R, T] of regions [R, D] and texts [T, D]; with τ the softmax over the texts."""
    cosines = normalize(side.float(), dim=-1) @ normalize(texts, dim=-1).T
    return cosines if temperature is None else (cosines / temperature).softmax(-1)


def answer(found: ImageRegions, texts: Tensor, *, softmax: bool = False) -> list[AskedRegion]:
    """Score texts [T, D] on an image's chosen regions; those that any text fits best come first."""
    scores = score_texts(found.side, texts, found.temperature if softmax else None)
    order = scores.max(1).values.argsort(descending=True, stable=True).tolist()
    boxes, objectness = found.regions.boxes.tolist(), found.regions.objectness.tolist()
    masks, rows, numbers = found.regions.masks.numpy(), found.rows.tolist(), scores.tolist()
    return [
        AskedRegion(
            region=rows[place],
            box=tuple(boxes[place]),
            objectness=objectness[place],
            name=found.names[place][0] if found.names else None,
            name_score=found.names[place][1] if found.names else None,
            scores=tuple(numbers[place]),
            mask=masks[place],
        )
        for place in order
    ]


def _best_names(
    regions: Regions, labeller: VocabularyLabeller, names: Mapping[int, str]
) -> tuple[tuple[str, float], ...]:
    """The best name of each region, however low its score and whatever overlaps it."""
    every = LabelPolicy(floor=0.0, max_labels=len(regions), nms="none")
    labels = replace(labeller, policy=every).label(regions)
    columns = (labels.regions, labels.category_ids, labels.scores)
    best = {
        row: (names[id_], score)
        for row, id_, score in zip(*(column.tolist() for column in columns), strict=True)
    }
    return tuple(best[row] for row in range(len(regions)))
