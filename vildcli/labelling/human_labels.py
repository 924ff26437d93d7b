"""Labels that people made already: which images have them, and which regions they leave free.

    skip      images that people labelled are left out of the run
    merge     of these images, regions that overlap a person's box are left out
    replace   nothing is left out

A run holds what the machine found, and never what people drew: `vildcli merge` puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from vildcli.data.images import DecodedImage
from vildcli.errors import DataError
from vildcli.labelling.human_files import HumanLabels
from vildcli.labelling.plan import PlannedImage
from vildcli.teacher.clip_on_crops import select_rows
from vildcli.types import RegionLabels, Regions

Existing = Literal["skip", "merge", "replace"]
OVERLAP = 0.5  # IoU from which a region shows what a person's box shows


@dataclass(frozen=True, slots=True)
class HumanBoxes:
    """What people drew on one image.

    Attributes:
        boxes: [N, 4] x1 y1 x2 y2, pixels of the image as it was annotated.
        is_crowd: [N]; of these a region is judged by its own share that lies inside.
        size: width and height of the image as it was annotated; None where that is not said.
    """

    boxes: Tensor
    is_crowd: Tensor
    size: tuple[int, int] | None


def human_boxes(labels: HumanLabels, plan: Iterable[PlannedImage]) -> dict[int, HumanBoxes]:
    """What people drew on the images of a plan, by image id, where they drew anything."""
    found = {}
    for planned in plan:
        if drawn := labels.drawn(planned.key):
            image = labels.found[planned.key]
            found[planned.image_id] = HumanBoxes(
                boxes=torch.tensor([annotation.box for annotation in drawn]),
                is_crowd=torch.tensor([annotation.iscrowd for annotation in drawn]),
                size=(image.width, image.height) if image.width and image.height else None,
            )
    return found


def refuse_other_frame(drawn: HumanBoxes, image: DecodedImage, name: str) -> None:
    """Refuse boxes that were drawn on an image of another size, such as one not yet upright.

    Raises:
        DataError: the sizes differ.
    """
    if drawn.size is not None and drawn.size != (image.width, image.height):
        width, height = drawn.size
        raise DataError(
            f"{name}: is {image.width} x {image.height} pixels, where people labelled it "
            f"{width} x {height}."
        )


def leave_free(regions: Regions, drawn: HumanBoxes) -> Regions:
    """The regions that show nothing a person has drawn a box around."""
    return select_rows(regions, torch.where(~shows_drawn(regions.boxes, drawn))[0])


def label_free(
    regions: Regions, drawn: HumanBoxes, label: Callable[[Regions], RegionLabels]
) -> tuple[Regions, RegionLabels]:
    """Regions that show nothing a person has drawn a box around, and their labels.

    A name may move its box (EZSD): regions that land on a person's box go as well.
    """
    regions = leave_free(regions, drawn)
    labels = label(regions)
    while labels.boxes is not None and (moved := shows_drawn(labels.boxes, drawn)).any():
        left = torch.ones(len(regions), dtype=torch.bool)
        left[labels.regions[moved]] = False
        regions = select_rows(regions, torch.where(left)[0])
        labels = label(regions)
    return regions, labels


def shows_drawn(boxes: Tensor, drawn: HumanBoxes) -> Tensor:
    """Whether each of the boxes [R, 4] shows what a person has drawn a box around: [R] bool."""
    overlaps = box_iou(boxes, drawn.boxes)
    if drawn.is_crowd.any():
        overlaps = torch.where(drawn.is_crowd, _share_inside(boxes, drawn.boxes), overlaps)
    shown: Tensor = (overlaps >= OVERLAP).any(1)
    return shown


def _share_inside(boxes: Tensor, others: Tensor) -> Tensor:
    """Share of each box [R, 4] that lies in each other box [N, 4]; [R, N]."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    area = box_area(boxes).clamp(min=torch.finfo(torch.float32).tiny)
    share: Tensor = common / area[:, None]
    return share
