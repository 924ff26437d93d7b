"""The teacher as the image side: a region's embedding is that of its crops (ViLD §3.2; slow).

`clip-on-crops` takes its regions from any proposer and has no text side; `vild-text-clip` adds the
teacher to a trained text head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torchvision.ops import nms

from vildcli.teacher.crops import ImageEncoder, embed_regions
from vildcli.types import Regions

NMS_IOU = 0.7  # between the boxes of proposals, before the costly crops


@dataclass(frozen=True, slots=True)
class CropDetector:
    """Regions of a proposer, seen by the teacher.

    Attributes:
        propose: images [3, H, W] uint8 to `Regions` whose image side is ignored.
        keep_text_side: True for vild-text-clip, False for clip-on-crops.
        count: regions an image that are cropped, after class-agnostic NMS.
    """

    propose: Callable[[Sequence[Tensor]], list[Regions]]
    encoder: ImageEncoder
    keep_text_side: bool
    count: int

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Of one size for all images: each is proposed in and cropped from by itself."""
        return 0, 0

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        """Regions of each image, cropped at their final boxes."""
        found = []
        for image, proposed in zip(images, self.propose(images), strict=True):
            kept = nms(proposed.boxes, proposed.objectness, NMS_IOU)[: self.count]
            chosen = select_rows(proposed, kept)
            embeddings = embed_regions(image, chosen.boxes, self.encoder).half()
            text_side = chosen.text_side if self.keep_text_side else None
            found.append(replace(chosen, text_side=text_side, image_side=embeddings))
        return found


def select_rows(regions: Regions, rows: Tensor) -> Regions:
    """The given rows of an image's regions, in that order."""
    return Regions(
        boxes=regions.boxes[rows],
        proposals=regions.proposals[rows],
        objectness=regions.objectness[rows],
        masks=regions.masks[rows],
        text_side=None if regions.text_side is None else regions.text_side[rows],
        image_side=None if regions.image_side is None else regions.image_side[rows],
        box_codes=None if regions.box_codes is None else regions.box_codes[rows],
        size=regions.size,
    )
