from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from vildcli.detector.postprocess import NmsKind, best_names, top_detections

Floats = NDArray[np.float64]


def iou(a: Floats, b: Floats) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return float(shared / (sum(areas) - shared))


def simple_nms(boxes: Floats, groups: list[int], limit: float) -> list[int]:
    """Rows that stay of boxes in rank order; only those of one group suppress each other."""
    kept: list[int] = []
    for i in range(len(boxes)):
        rivals = [j for j in kept if groups[j] == groups[i]]
        if all(iou(boxes[i], boxes[j]) <= limit for j in rivals):
            kept.append(i)
    return kept


def every_candidate(boxes: Tensor, scores: Tensor, count: int) -> list[tuple[int, int]]:
    """Per-class NMS over all R x C candidates; equal scores by category, then region."""
    values = scores.double().numpy()
    order = [(-values[r, c], c, r) for r in range(len(values)) for c in range(values.shape[1])]
    ranked = [(r, c) for _, c, r in sorted(order)]
    boxes_in_order = boxes.double().numpy()[[r for r, _ in ranked]]
    return [ranked[i] for i in simple_nms(boxes_in_order, [c for _, c in ranked], 0.5)][:count]


def scene(seed: int, regions: int, categories: int, levels: int) -> tuple[Tensor, Tensor]:
    """Overlapping boxes; scores on few levels, so that most are tied."""
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 30, (regions, 2)), rng.integers(5, 25, (regions, 2))
    boxes = torch.from_numpy(np.hstack([corner, corner + size])).float()
    scores = torch.from_numpy(rng.integers(0, levels, (regions, categories)) / levels).float()
    return boxes, scores


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    regions=st.integers(1, 20),
    categories=st.integers(1, 5),
    levels=st.sampled_from([1, 3, 1000]),
    first_guess=st.sampled_from([1, 3, 10_000]),
    count=st.sampled_from([1, 7, 300]),
)
def test_top_detections__equals_the_full_procedure(
    seed: int, regions: int, categories: int, levels: int, first_guess: int, count: int
) -> None:
    boxes, scores = scene(seed, regions, categories, levels)
    rows, columns = top_detections(boxes, scores, count=count, first_guess=first_guess)
    found = list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert found == every_candidate(boxes, scores, count)


def test_top_detections__many_regions_are_cut_at_300() -> None:
    boxes, scores = scene(3, 60, 12, 50)
    rows, columns = top_detections(boxes, scores, first_guess=100)
    assert len(rows) == 300
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == every_candidate(
        boxes, scores, 300
    )


def test_top_detections__many_categories_do_not_blur_boxes() -> None:
    # IoU is 0.5000: kept at a threshold of 0.5, however large the category's number is.
    boxes = torch.tensor([[0.0, 0, 1000, 1000], [0, 0, 1000, 500]])
    scores = torch.zeros(2, 1203)
    scores[:, 1202] = torch.tensor([0.9, 0.8])
    rows, columns = top_detections(boxes, scores, count=2)
    assert rows.tolist() == [0, 1]
    assert columns.tolist() == [1202, 1202]


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (4, 0)])
def test_nothing_gives_nothing(shape: tuple[int, int]) -> None:
    boxes, scores = torch.zeros(shape[0], 4), torch.zeros(shape)
    assert [len(x) for x in top_detections(boxes, scores)] == [0, 0]


def test_best_names__no_region_gives_no_name() -> None:
    assert [len(x) for x in best_names(torch.zeros(0, 4), torch.zeros(0, 3))] == [0, 0]


BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 1, 10, 10]])
SCORES = torch.tensor([[0.6, 0.1, 0.2], [0.1, 0.8, 0.3], [0.005, 0.002, 0.001], [0.1, 0.2, 0.5]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("agnostic", [(1, 1)]),
        ("none", [(1, 1), (0, 0), (3, 2)]),
        ("class", [(1, 1), (0, 0), (3, 2)]),
        ("group", [(1, 1), (3, 2)]),  # 0 and 1 are of one group
    ],
)
def test_best_names__policies(kind: NmsKind, expected: list[tuple[int, int]]) -> None:
    groups = torch.tensor([7, 7, 8])
    rows, columns = best_names(BOXES, SCORES, floor=0.01, kind=kind, groups=groups)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


def test_best_names__floor_and_count() -> None:
    rows, _ = best_names(BOXES, SCORES, floor=0.0, kind="none")
    assert rows.tolist() == [1, 0, 3, 2]
    rows, _ = best_names(BOXES, SCORES, floor=0.55, kind="none")
    assert rows.tolist() == [1, 0]
    rows, _ = best_names(BOXES, SCORES, floor=0.0, kind="none", count=1)
    assert rows.tolist() == [1]
