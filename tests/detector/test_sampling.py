from __future__ import annotations

import torch

from vildcli.detector.sampling import sample_regions
from vildcli.types import Target

TRUTH = torch.tensor([[0.0, 0, 10, 10], [50, 50, 80, 80]])


def target(boxes: torch.Tensor = TRUTH) -> Target:
    labels = torch.tensor([4, 2])[: len(boxes)]
    return Target(boxes, labels, torch.zeros(len(boxes), 4, 4, dtype=torch.bool))


def test_a_quarter_is_foreground() -> None:
    near = TRUTH[:1].repeat(300, 1)
    far = torch.tensor([[20.0, 20, 30, 30]]).repeat(300, 1)
    sampled = sample_regions(torch.cat([near, far]), target(), count=64)
    assert len(sampled.boxes) == 64
    assert sampled.foreground.sum() == 16
    assert set(sampled.labels[sampled.foreground].tolist()) <= {5, 3}  # column + 1
    assert (sampled.labels[~sampled.foreground] == 0).all()


def test_foreground_overlaps_by_more_than_half() -> None:
    # IoU 0.5 exactly, and a little more.
    proposals = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 5.1]])
    sampled = sample_regions(proposals, target(TRUTH[:1]), count=64)
    assert len(sampled.boxes) == 3  # each once, and the truth
    labels = dict(zip(map(tuple, sampled.boxes.tolist()), sampled.labels, strict=True))
    assert labels[(0, 0, 10, 5)] == 0
    assert [label.item() for box, label in labels.items() if box[3] > 5] == [5, 5]


def test_ground_truth_is_a_proposal() -> None:
    sampled = sample_regions(torch.zeros(0, 4), target(), count=64)
    assert sorted(sampled.boxes.tolist()) == TRUTH.tolist()
    assert TRUTH[sampled.truth].tolist() == sampled.boxes.tolist()
    assert sampled.labels.tolist() == [[5, 3][row] for row in sampled.truth.tolist()]


def test_without_truth_all_is_background() -> None:
    proposals = torch.tensor([[0.0, 0, 10, 10], [5, 5, 9, 9]])
    sampled = sample_regions(proposals, target(TRUTH[:0]), count=64)
    assert sampled.labels.tolist() == [0, 0]


def test_the_generator_decides() -> None:
    proposals = torch.rand(200, 4).cumsum(1) * 20
    drawn = [
        sample_regions(
            proposals, target(), count=32, generator=torch.Generator().manual_seed(seed)
        ).boxes
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
