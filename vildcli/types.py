"""The values that cross the library's inner borders, and the legend of their shapes.

    B  images of a batch            R  regions (or proposals) of one image
    C  categories of a vocabulary   K  detections or labels of one image
    D  width of the embedding       H, W  pixels; N  ground-truth objects of one image

Boxes are x1 y1 x2 y2 in absolute pixels. Unless a docstring says otherwise their frame is the
**upright original image**: after EXIF orientation, before any resizing. Masks of regions are 28x28,
relative to the region's own final box. Everything here knows nobody: no producer and no consumer is
imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MASK_SIZE = 28  # pixels a side of a stored region mask, as ViLD's mask head gives


def _expect(name: str, tensor: Tensor | LaterMasks, shape: tuple[int | None, ...]) -> None:
    """Assert a shape; None stands for any size. A violation is our own bug, not the user's."""
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(
        s is None or s == f for s, f in zip(shape, found, strict=True)
    )
    assert fits, f"{name}: expected shape {shape}, got {found}"


@dataclass(frozen=True, slots=True)
class LaterMasks:
    """Masks of regions that are made when they are asked for: most regions are given no name.

    What they are made from stays in memory as long as this does.

    Attributes:
        make: rows [K] of the image's regions to their masks [K, 28, 28], uint8, on the CPU; any
            thread may call it.
        rows: [R].
    """

    make: Callable[[Tensor], Tensor]
    rows: Tensor
    dtype: ClassVar[torch.dtype] = torch.uint8

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.rows), MASK_SIZE, MASK_SIZE

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> LaterMasks:
        """Those of some rows; none is made yet."""
        return LaterMasks(self.make, self.rows[rows])

    def now(self) -> Tensor:
        """Make them: [R, 28, 28] uint8."""
        return self.make(self.rows)

    def numpy(self) -> NDArray[np.uint8]:
        """Make them."""
        made: NDArray[np.uint8] = self.now().numpy()
        return made


def made(masks: Tensor | LaterMasks) -> Tensor:
    """The masks [R, 28, 28] themselves."""
    return masks.now() if isinstance(masks, LaterMasks) else masks


@dataclass(frozen=True, slots=True)
class Regions:
    """All the model knows about one image before any word is said: the output of every system.

    Attributes:
        boxes: [R, 4] final (regressed, class-agnostic) boxes, original image frame, float32.
        proposals: [R, 4] the proposals they were regressed from, original image frame, float32.
        objectness: [R] in 0-1, float32, descending.
        masks: [R, 28, 28] mask probabilities x 255 relative to `boxes`, uint8; later ones only
            where a caller asked for such.
        text_side: [R, D] unit-norm embeddings scored with background; None where a system has no
            text side.
        image_side: [R, D] unit-norm embeddings scored without background; None where there is no
            image side.
        box_codes: [R, 4] codes of `boxes` relative to `proposals`, float32, where boxes depend on
            the name as well (EZSD): the part that no name has a say in. None elsewhere.
        size: width and height of the image, pixels; known where `box_codes` are.
    """

    boxes: Tensor
    proposals: Tensor
    objectness: Tensor
    masks: Tensor | LaterMasks
    text_side: Tensor | None
    image_side: Tensor | None
    box_codes: Tensor | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        _expect("boxes", self.boxes, (count, 4))
        _expect("proposals", self.proposals, (count, 4))
        _expect("objectness", self.objectness, (count,))
        _expect("masks", self.masks, (count, MASK_SIZE, MASK_SIZE))
        assert self.masks.dtype == torch.uint8, f"masks: expected uint8, got {self.masks.dtype}"
        for name, side in (("text_side", self.text_side), ("image_side", self.image_side)):
            if side is not None:
                _expect(name, side, (count, None))
        if self.box_codes is not None:
            _expect("box_codes", self.box_codes, (count, 4))
            assert self.size is not None, "box codes go with the size of the image"

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class AttributeLabels:
    """The best value of one attribute set for each label of an image.

    Attributes:
        set: name of the set, such as colour.
        names: K values, such as red.
        scores: [K] Pr(a | e) in 0-1: the value's share of its set alone, float32.
        joint_scores: [K] Pr(v, a | e) = Pr(v | e) · Pr(a | e), with the label's score, float32.
    """

    set: str
    names: tuple[str, ...]
    scores: Tensor
    joint_scores: Tensor

    def __post_init__(self) -> None:
        for name in ("scores", "joint_scores"):
            _expect(name, getattr(self, name), (len(self.names),))


@dataclass(frozen=True, slots=True)
class RegionLabels:
    """Names given to the regions of one image, best first.

    Attributes:
        regions: [K] rows of the image's `Regions`, int64.
        category_ids: [K] ids of the vocabulary (not column numbers), int64.
        is_base: [K] whether the fusion treated the category as base, bool.
        scores: [K] fused, in 0-1, float32, descending.
        text_scores: [K] the text side's factor in 0-1, or None where there is no text side.
        image_scores: [K] the image side's factor in 0-1, or None where there is no image side.
        attributes: one entry an attribute set; they neither rank nor suppress.
        boxes: [K, 4] in the frame of `Regions.boxes`, where the name moves a region's box; None
            where they are the regions' own.
    """

    regions: Tensor
    category_ids: Tensor
    is_base: Tensor
    scores: Tensor
    text_scores: Tensor | None = None
    image_scores: Tensor | None = None
    attributes: tuple[AttributeLabels, ...] = ()
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        if self.boxes is not None:
            _expect("boxes", self.boxes, (len(self.regions), 4))
        for name in ("category_ids", "is_base", "scores", "text_scores", "image_scores"):
            value = getattr(self, name)
            if value is not None:
                _expect(name, value, (len(self.regions),))
        for attribute in self.attributes:
            _expect(attribute.set, attribute.scores, (len(self.regions),))

    def __len__(self) -> int:
        return len(self.regions)


@dataclass(frozen=True, slots=True)
class Target:
    """Ground truth of one image.

    Attributes:
        boxes: [N, 4] in the frame of the image tensor it travels with, float32.
        labels: [N] contiguous category columns 0..C-1, int64.
        masks: [N, H, W] bool, the size of the image tensor.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor

    def __post_init__(self) -> None:
        _expect("boxes", self.boxes, (None, 4))
        _expect("labels", self.labels, (len(self.boxes),))
        _expect("masks", self.masks, (len(self.boxes), None, None))

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device) -> Target:
        return Target(self.boxes.to(device), self.labels.to(device), self.masks.to(device))


@dataclass(frozen=True, slots=True)
class Distillation:
    """The teacher's view of one image, aligned with the image tensor it travels with.

    Attributes:
        boxes: [V, 4] canvas pixels.
        embeddings: [V, D] the teacher's.
        valid: [V] bool; False for regions that cropping left without area.
        weights: [V] how much each region counts among those of its image; None: all alike.
    """

    boxes: Tensor
    embeddings: Tensor
    valid: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        _expect("boxes", self.boxes, (None, 4))
        _expect("embeddings", self.embeddings, (len(self.boxes), None))
        _expect("valid", self.valid, (len(self.boxes),))
        if self.weights is not None:
            _expect("weights", self.weights, (len(self.boxes),))

    def to(self, device: torch.device) -> Distillation:
        weights = None if self.weights is None else self.weights.to(device)
        return Distillation(
            self.boxes.to(device), self.embeddings.to(device), self.valid.to(device), weights
        )
