"""Regions that the teacher itself chooses: EZSD's proposals, and what of them is distilled.

    boxes ──▶ how sure the teacher is of each ──▶ NMS ──▶ the surest ──▶ not base ground truth
          ──▶ some of them, embedded, with the teacher's confidence as weight ──▶ the cache

As published the boxes are anchors: 15,750 crops an image. The cheap way crops what a class-agnostic
detector proposes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from vildcli.data.batches import seeded_generator
from vildcli.data.lvis import AnnotatedImage
from vildcli.errors import DataError
from vildcli.teacher.anchors import STRIDE, certainty, frame_scale, make_anchors
from vildcli.teacher.cache import TaughtRegions
from vildcli.teacher.crops import BATCH, ImageEncoder, embed_regions
from vildcli.teacher.ground_truth import BaseTruth
from vildcli.teacher.known_names import KnownNames
from vildcli.teacher.proposals import Proposals

TEACHER, ANCHORS = "teacher", "anchors"  # what --proposals and --among say
NMS_IOU = 0.7
CANDIDATES = 1000
SURPLUS = 3  # times as many boxes as are kept, that a detector proposes
TRUE_IOU = 0.3  # with base ground truth, from which a candidate is that object again
OBJECT_FACTOR = 1.2  # of a box's sides, that the teacher sees of an object
LEAST_SIDE = 10.0  # of a crop, in pixels of an image resized to fit 800 x 1333

Pick = Literal["unlike-base", "random", "best"]


def object_encoder(encoder: ImageEncoder) -> ImageEncoder:
    """The encoder that sees an object as EZSD's does: 1.2x, padded to a square with black."""
    recipe = replace(encoder.recipe, factors=(OBJECT_FACTOR,), fit="pad")
    return replace(encoder, recipe=recipe)


def embed_objects(image: Tensor, boxes: Tensor, encoder: ImageEncoder) -> Tensor:
    """Embed boxes [R, 4] of an image [3, H, W] by an `object_encoder`: [R, D] unit norm."""
    return embed_regions(image, least_boxes(boxes, *image.shape[-2:]), encoder)


def least_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Widen boxes [R, 4] about their centres so that no side of their crops is under the least."""
    least = LEAST_SIDE / OBJECT_FACTOR / frame_scale(height, width)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).clamp(min=least) / 2
    return torch.cat([centres - half, centres + half], 1)


@dataclass(frozen=True, slots=True)
class RegionChoice:
    """How the teacher chooses.

    Attributes:
        encoder: as it is; crops are cut as EZSD's are.
        names: that it scores with; texts: [C, D] their embeddings, unit norm.
        truth: base ground truth, which is distilled too, and not proposed again.
        count: regions an image, without the ground truth.
        pick: `unlike-base` takes the surest that the teacher does not call a base category (COCO),
            `random` any of the surest 1,000 (LVIS), `best` the surest.
        among: whose boxes it chooses among; None: every anchor, of this stride.
    """

    encoder: ImageEncoder
    names: KnownNames
    texts: Tensor
    truth: BaseTruth
    count: int
    pick: Pick
    among: Proposals | None = None
    seed: int = 0
    stride: int = STRIDE

    def __call__(self, image: AnnotatedImage, pixels: Tensor) -> TaughtRegions:
        """The regions of an image [3, H, W] uint8: base ground truth first, then the chosen.

        Candidates are best first, but for `random`, which leaves them in the order drawn.
        """
        pixels = pixels.to(self.encoder.device)
        truth = self.truth.boxes(image.id)
        boxes = apart_from(self.candidates(image, pixels), truth)
        if self.pick == "random":
            generator = seeded_generator(self.seed, zlib.crc32(image.file_name.encode()))
            boxes = boxes[torch.randperm(len(boxes), generator=generator)[: self.count]]
        encoder = object_encoder(self.encoder)
        chosen, embeddings, weights = self._first(pixels, boxes, encoder)
        every = torch.cat([embed_objects(pixels, truth, encoder), embeddings])
        return TaughtRegions(
            boxes=torch.cat([truth, chosen]),
            embeddings=every,
            weights=torch.cat([torch.ones(len(truth)), weights]),
            is_true=torch.arange(len(every)) < len(truth),
        )

    def candidates(self, image: AnnotatedImage, pixels: Tensor) -> Tensor:
        """Boxes [R, 4] of an image, surest first, after class-agnostic NMS."""
        if self.among is None:
            boxes = make_anchors(pixels.shape[-2], pixels.shape[-1], self.stride)
        else:
            boxes = self.among.propose(image, pixels).cpu()
        embeddings = embed_exactly(pixels, boxes, self.encoder)
        objectness = certainty(embeddings, self.texts, self.encoder.temperature).objectness
        return boxes[nms(boxes, objectness, NMS_IOU)][:CANDIDATES]

    def _first(
        self, pixels: Tensor, boxes: Tensor, encoder: ImageEncoder
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The first `count` boxes that may be kept, their embeddings and confidences."""
        is_base = torch.tensor(self.names.is_base)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        left = self.count
        for some in torch.split(boxes, BATCH):
            embeddings = embed_objects(pixels, some, encoder)
            seen = certainty(embeddings, self.texts, encoder.temperature)
            kept = torch.arange(len(some))
            if self.pick == "unlike-base":
                kept = kept[~is_base[seen.best]]
            kept = kept[:left]
            found.append((some[kept], embeddings[kept], seen.confidence[kept]))
            left -= len(kept)
            if left == 0:
                break
        none = (boxes[:0], self.texts[:0], boxes.new_zeros(0))
        columns = zip(none, *found, strict=True)
        chosen, every, weights = (torch.cat(column) for column in columns)
        return chosen, every, weights

    def as_settings(self) -> dict[str, Any]:
        """What decides the regions, but for the teacher."""
        return {
            "proposals": TEACHER,
            "regions": TEACHER,
            "kept": self.count,
            "pick": self.pick,
            "among": ANCHORS if self.among is None else self.among.identity,
            "names": self.names.as_settings(),
            "base": self.truth.fingerprint,
            "seed": self.seed,
        }

    @property
    def provenance(self) -> str | dict[str, Any]:
        """How it chooses; where it does among a detector's boxes, what that has seen too."""
        names = f"{len(self.names.categories)} names ({self.names.which})"
        chosen = f"The teacher's own choice by {names}, apart from base ground truth."
        if self.among is None:
            return chosen
        return {"chosen": chosen, "proposals": self.among.provenance}


def embed_exactly(pixels: Tensor, boxes: Tensor, encoder: ImageEncoder) -> Tensor:
    """Embed 1x crops, padded to squares, of boxes [R, 4]: [R, D] unit norm."""
    recipe = replace(encoder.recipe, factors=(1.0,), fit="pad")
    exact = replace(encoder, recipe=recipe)
    # In batches, for all crops of an image are gigabytes.
    return torch.cat([embed_regions(pixels, some, exact) for some in torch.split(boxes, BATCH)])


def apart_from(boxes: Tensor, truth: Tensor) -> Tensor:
    """The boxes [R, 4] that are none of the objects [G, 4]."""
    if not len(truth):
        return boxes
    return boxes[box_iou(boxes, truth).amax(1) < TRUE_IOU]


def usual_pick(names: KnownNames) -> Pick:
    """COCO's published way where names go beyond the base ones; else none would be left."""
    return "best" if all(names.is_base) else "unlike-base"


def refuse_empty_pick(pick: Pick, names: KnownNames) -> None:
    """Refuse to keep what is unlike all base names where there are no others.

    Raises:
        DataError: such a pick and such names.
    """
    if pick == "unlike-base" and all(names.is_base):
        raise DataError(
            f"Every one of the names '{names.which}' is base, so no region is unlike base.",
            hint="Give --pick best or random, or --names all.",
        )
