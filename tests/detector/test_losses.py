from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vildcli.detector.losses import (
    LossParts,
    box_loss,
    class_logits,
    classifier_logits,
    distillation_loss,
    mask_loss,
    text_loss,
)

Array = NDArray[np.float64]


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x)).float()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def log_softmax(logits: Array) -> Array:
    shifted: Array = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_class_logits__by_hand() -> None:
    regions = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    # A background of length 5 counts by its direction alone.
    logits = class_logits(regions, texts, torch.tensor([3.0, 4.0]), 0.5)
    torch.testing.assert_close(logits, torch.tensor([[1.2, 0.0, 2.0], [2.0, 1.6, 1.2]]))


def test_loss_parts__shares_of_several_processes_add_up_to_the_whole() -> None:
    whole = LossParts(torch.tensor([6.0, 0.0, 5.0]), torch.tensor([4.0, 0.0, 2.0]))
    assert whole.mean().item() == 6 / 4 + 5 / 2  # a part that counted nothing is 0
    shares = [
        LossParts(torch.tensor([5.0, 0.0, 5.0]), torch.tensor([3.0, 0.0, 2.0])),
        LossParts(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])),
    ]
    divisors = whole.counts.clamp(min=1) / 2
    assert np.mean([share.divided_by(divisors).item() for share in shares]) == whole.mean().item()
    assert np.mean([share.mean().item() for share in shares]) != whole.mean().item()


def test_classifier_logits__a_linear_layer(rng: np.random.Generator) -> None:
    features, weights, bias = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=4)
    ones = np.ones((5, 1))
    found = classifier_logits(
        tensor(np.concatenate([features, ones], 1)),
        tensor(np.concatenate([weights, bias[:, None]], 1)),
    )
    np.testing.assert_allclose(found.numpy(), features @ weights.T + bias, rtol=1e-5, atol=1e-5)


def test_logits__are_float32_whatever_the_autocast() -> None:
    regions = torch.nn.functional.normalize(torch.randn(8, 64), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(5, 64), dim=-1)
    plain = class_logits(regions, texts, torch.ones(64), 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(class_logits(regions, texts, torch.ones(64), 0.01), plain)


def test_text_loss__novel_logits_are_zero_and_stay_in_the_softmax(rng: np.random.Generator) -> None:
    logits, labels = rng.normal(size=(6, 4)) * 5, np.array([0, 1, 3, 0, 1, 3])
    is_base = np.array([True, False, True])
    zeroed = logits * np.array([1, *is_base])
    expected = -log_softmax(zeroed)[np.arange(6), labels].mean()
    loss = text_loss(tensor(logits), torch.from_numpy(labels), torch.from_numpy(is_base)).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_text_loss__masked_novel_logits_leave_the_softmax(rng: np.random.Generator) -> None:
    logits, labels = rng.normal(size=(6, 4)) * 5, np.array([0, 1, 3, 0, 1, 3])
    without = np.delete(logits, 2, axis=1)
    expected = -log_softmax(without)[np.arange(6), np.array([0, 1, 2, 0, 1, 2])].mean()
    is_base = torch.tensor([True, False, True])
    loss = text_loss(tensor(logits), torch.from_numpy(labels), is_base, "masked").mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_text_loss__two_categories_by_hand() -> None:
    loss = text_loss(torch.zeros(2, 3), torch.tensor([0, 2]), torch.tensor([True, True])).mean()
    assert loss.item() == pytest.approx(np.log(3))


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_distillation_loss__mean_of_norms_over_valid_regions(
    kind: str, rng: np.random.Generator
) -> None:
    student, teacher = unit(rng.normal(size=(5, 8))), 7 * rng.normal(size=(5, 8))
    valid = np.array([True, False, True, True, False])
    difference = student - unit(teacher)
    power = np.abs(difference) if kind == "l1" else difference**2
    expected = power.sum(1)[valid].mean()
    loss = distillation_loss(
        tensor(student),
        tensor(teacher),
        torch.from_numpy(valid),
        kind,  # type: ignore[arg-type]
    ).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_distillation_loss__nothing_valid_is_zero_with_a_gradient() -> None:
    student = torch.randn(3, 4, requires_grad=True)
    loss = distillation_loss(student, torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)).mean()
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().sum() == 0


def test_box_loss__huber_over_the_coordinates_of_positives(rng: np.random.Generator) -> None:
    codes, targets = rng.normal(size=(7, 4)) * 2, rng.normal(size=(7, 4)) * 2
    d = np.abs(codes - targets)
    expected = np.where(d <= 1, 0.5 * d**2, d - 0.5).mean()
    assert (d > 1).any()
    assert (d < 1).any()
    assert box_loss(tensor(codes), tensor(targets)).mean().item() == pytest.approx(
        expected, rel=1e-5
    )


def test_mask_loss__sigmoid_cross_entropy_over_pixels(rng: np.random.Generator) -> None:
    logits, targets = rng.normal(size=(3, 28, 28)), rng.integers(0, 2, (3, 28, 28)).astype(float)
    p = 1 / (1 + np.exp(-logits))
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    assert mask_loss(tensor(logits), tensor(targets)).mean().item() == pytest.approx(
        expected, rel=1e-5
    )


def test_no_foreground_is_zero() -> None:
    codes = torch.zeros(0, 4, requires_grad=True)
    pixels = torch.zeros(0, 28, 28, requires_grad=True)
    assert box_loss(codes, torch.zeros(0, 4)).mean().item() == 0
    assert mask_loss(pixels, torch.zeros(0, 28, 28)).mean().item() == 0


def test_gradients_reach_what_is_learned_alone() -> None:
    regions = torch.randn(4, 8, requires_grad=True)
    background = torch.randn(8, requires_grad=True)
    texts = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1).requires_grad_(False)
    embeddings = torch.nn.functional.normalize(regions, dim=-1)
    logits = class_logits(embeddings, texts, background, 0.1)
    loss = text_loss(logits, torch.tensor([0, 1, 2, 0]), torch.tensor([True, True, False])).mean()
    loss.backward()
    assert texts.grad is None
    for learned in (regions, background):
        assert learned.grad is not None
        assert learned.grad.abs().sum() > 0
