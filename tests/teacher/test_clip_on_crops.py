from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vildcli.teacher.clip_on_crops import CropDetector
from vildcli.teacher.crops import CropRecipe, ImageEncoder, embed_regions
from vildcli.types import Regions

ENCODER = ImageEncoder(
    lambda pixels: torch.cat([pixels.mean((2, 3)), pixels.std((2, 3)) + 1], 1),
    CropRecipe(8, (0.5,) * 3, (0.5,) * 3),
    0.01,
    "stub",
    torch.device("cpu"),
)
BOXES = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 19], [5, 5, 30, 30], [20, 2, 38, 20]])


def propose(images: Sequence[Tensor]) -> list[Regions]:
    return [
        Regions(
            boxes=BOXES,
            proposals=BOXES + 1,
            objectness=torch.tensor([0.9, 0.8, 0.7, 0.6]),
            masks=torch.zeros(4, 28, 28, dtype=torch.uint8),
            text_side=torch.arange(16.0).view(4, 4).half(),
            image_side=torch.full((4, 4), 9.0).half(),
        )
        for _ in images
    ]


def image(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=generator)


def detector(*, keep_text_side: bool, count: int = 100) -> CropDetector:
    return CropDetector(propose, ENCODER, keep_text_side=keep_text_side, count=count)


def test_image_side_is_the_teacher_at_the_final_boxes() -> None:
    found = detector(keep_text_side=False).regions([image(0), image(1)])
    for seed, regions in enumerate(found):
        assert regions.boxes.tolist() == BOXES[[0, 2, 3]].tolist()  # agnostic NMS 0.7
        assert regions.text_side is None
        expected = embed_regions(image(seed), regions.boxes, ENCODER).half()
        assert regions.image_side is not None
        assert torch.equal(regions.image_side, expected)
        assert regions.proposals.tolist() == (BOXES + 1)[[0, 2, 3]].tolist()
        assert regions.objectness.tolist() == sorted(regions.objectness.tolist(), reverse=True)


def test_vild_text_clip_keeps_the_students_text_side() -> None:
    regions = detector(keep_text_side=True).regions([image(0)])[0]
    assert regions.text_side is not None
    assert torch.equal(regions.text_side, torch.arange(16.0).view(4, 4).half()[[0, 2, 3]])


def test_only_so_many_are_cropped() -> None:
    regions = detector(keep_text_side=True, count=2).regions([image(0)])[0]
    assert regions.boxes.tolist() == BOXES[[0, 2]].tolist()
