from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vildcli.labelling.human_labels import HumanBoxes, label_free, leave_free
from vildcli.types import RegionLabels, Regions

DRAWN = HumanBoxes(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([False]), None)
CROWD = HumanBoxes(torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([True]), None)


def regions(*boxes: tuple[float, float, float, float]) -> Regions:
    found = torch.tensor(boxes)
    count = len(found)
    return Regions(
        boxes=found,
        proposals=found,
        objectness=torch.linspace(1, 0.5, count),
        masks=torch.zeros(count, 28, 28, dtype=torch.uint8),
        text_side=torch.arange(count)[:, None].half(),
        image_side=None,
    )


def kept(found: Regions) -> list[int]:
    assert found.text_side is not None
    return [int(row) for row in found.text_side[:, 0]]


def test_leave_free__by_iou_from_a_half() -> None:
    found = regions(
        (0, 0, 10, 4.9), (0, 0, 10, 5), (0, 0, 20, 10), (0, 0, 20.5, 10), (50, 50, 60, 60)
    )
    assert kept(leave_free(found, DRAWN)) == [0, 3, 4]


def test_leave_free__of_a_crowd_by_the_share_inside() -> None:
    found = regions((0, 0, 10, 10), (95, 0, 105, 10), (96, 0, 106, 10))
    assert kept(leave_free(found, CROWD)) == [2]
    assert kept(leave_free(found, replace(CROWD, is_crowd=torch.tensor([False])))) == [0, 1, 2]


def labels_at(boxes: Tensor, of: Regions) -> RegionLabels:
    rows = torch.arange(len(of))
    return RegionLabels(
        regions=rows,
        category_ids=rows + 1,
        is_base=rows > 0,
        scores=of.objectness,
        boxes=boxes,
    )


def test_label_free__leaves_out_what_a_name_moves_onto_a_box() -> None:
    found = regions((30, 0, 40, 10), (60, 0, 70, 10), (0, 0, 9, 9))
    shifts = {0: -28.0, 1: -50.0}  # the first lands on what people drew

    def label(of: Regions) -> RegionLabels:
        shift = torch.tensor([[shifts[row], 0, shifts[row], 0] for row in kept(of)])
        return labels_at(of.boxes + shift, of)

    left, labels = label_free(found, DRAWN, label)
    assert kept(left) == [1]
    assert labels.boxes is not None
    assert labels.boxes.tolist() == [[10, 0, 20, 10]]
