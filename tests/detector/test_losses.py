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
    float32_product,
    mask_loss,
    objectness_logits,
    region_weights,
    seesaw_loss,
    text_loss,
    word_logits,
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


@pytest.mark.parametrize("count", [0, 1, 16, 17, 1203])
def test_float32_product__is_the_product_with_gradients_or_without(count: int) -> None:
    rows, columns = torch.randn(40, 64), torch.randn(count, 64)
    exact = rows @ columns.T
    torch.testing.assert_close(float32_product(rows, columns), exact)
    columns.requires_grad_()
    found = float32_product(rows, columns)
    torch.testing.assert_close(found, exact)
    found.sum().backward()
    torch.testing.assert_close(columns.grad, rows.sum(0).expand(count, -1))


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


def test_distillation_loss__as_ezsd_published_it(rng: np.random.Generator) -> None:
    """512 · mean over images' regions and dimensions of m · |e - v|, m of mean 1 in each image."""
    width, counts = 512, (5, 3)
    student = [unit(rng.normal(size=(n, width))) for n in counts]
    teacher = [3 * rng.normal(size=(n, width)) for n in counts]
    confidence = [rng.uniform(0.05, 1, n) for n in counts]
    m = np.concatenate([c / c.mean() for c in confidence])
    gaps = np.abs(np.concatenate(student) - unit(np.concatenate(teacher)))
    expected = width * (m[:, None] * gaps).mean()
    everything = [torch.ones(n, dtype=torch.bool) for n in counts]
    weights = [region_weights(tensor(c), v) for c, v in zip(confidence, everything, strict=True)]
    loss = distillation_loss(
        tensor(np.concatenate(student)),
        tensor(np.concatenate(teacher)),
        torch.cat(everything),
        weights=torch.cat(weights),
    )
    assert loss.mean().item() == pytest.approx(expected, rel=1e-5)
    alike = distillation_loss(
        tensor(np.concatenate(student)), tensor(np.concatenate(teacher)), torch.cat(everything)
    )
    assert alike.mean().item() != pytest.approx(expected, rel=1e-3)


def test_region_weights__mean_1_over_what_is_valid() -> None:
    valid = torch.tensor([True, True, False, True])
    weights = region_weights(torch.tensor([1.0, 0.5, 0.9, 0.3]), valid)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.5, 0.0, 0.3]) / 0.6)
    assert region_weights(None, valid).tolist() == [1, 1, 0, 1]
    assert region_weights(torch.ones(4), ~valid & valid).tolist() == [0, 0, 0, 0]
    assert region_weights(torch.zeros(0), valid[:0]).tolist() == []


def seesaw(logits: Array, labels: Array, counts: Array, p: float, q: float) -> float:
    """Sum over the objects of -log(e^zi / Σj Sij e^zj), category by category (Wang et al.)."""
    total = 0.0
    for z, i in zip(logits, labels, strict=True):
        share = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        bottom = 0.0
        for j in range(len(z)):
            fewer = min(1.0, counts[j] / counts[i]) ** p
            surer = max(1.0, share[j] / max(share[i], 1e-2)) ** q
            bottom += np.exp(z[j]) * (1.0 if i == j else fewer * surer)
        total += -np.log(np.exp(z[i]) / bottom)
    return total


@pytest.mark.parametrize(("p", "q"), [(0.8, 2.0), (0.8, 0.0), (0.0, 2.0), (0.0, 0.0)])
def test_seesaw_loss__category_by_category(p: float, q: float, rng: np.random.Generator) -> None:
    labels = np.array([0, 3, 1, 2, 0, 3, 3, 1])
    logits, objectness = rng.normal(size=(8, 3)) * 2, rng.normal(size=(8, 2))
    counts = np.array([400.0, 20.0, 3.0])
    own = -log_softmax(objectness)[np.arange(8), (labels > 0).astype(int)].sum()
    seen = labels > 0
    expected = (own + seesaw(logits[seen], labels[seen] - 1, counts, p, q)) / 8
    loss = seesaw_loss(
        tensor(logits),
        tensor(objectness),
        torch.from_numpy(labels),
        torch.ones(3, dtype=torch.bool),
        tensor(counts),
        mitigation=p,
        compensation=q,
    )
    assert loss.mean().item() == pytest.approx(expected, rel=1e-5)


def test_seesaw_loss__published_exponents_novel_ones_left_out(rng: np.random.Generator) -> None:
    labels, is_base = np.array([1, 3, 0]), np.array([True, False, True, True])
    logits, objectness = rng.normal(size=(3, 4)) * 2, rng.normal(size=(3, 2))
    counts = np.array([9.0, 0.0, 90.0, 0.0])  # a category without any counts as one with 1
    kept = np.delete(logits, 1, axis=1)
    own = -log_softmax(objectness)[np.arange(3), (labels > 0).astype(int)].sum()
    of_objects = seesaw(kept[:2], np.array([0, 1]), np.array([9.0, 90.0, 1.0]), 0.8, 2.0)
    loss = seesaw_loss(
        tensor(logits).requires_grad_(),
        tensor(objectness),
        torch.from_numpy(labels),
        torch.from_numpy(is_base),
        tensor(counts),
    )
    assert loss.mean().item() == pytest.approx((own + of_objects) / 3, rel=1e-5)


def test_seesaw_loss__weights_have_no_gradient_and_no_objects_no_loss() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    objectness = torch.randn(4, 2, requires_grad=True)
    nothing = torch.zeros(4, dtype=torch.int64)
    base, counts = torch.ones(3, dtype=torch.bool), torch.ones(3)
    loss = seesaw_loss(logits, objectness, nothing, base, counts).mean()
    loss.backward()
    assert loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(objectness, nothing).item()
    )
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0
    none = seesaw_loss(logits[:0], objectness[:0], nothing[:0], base, counts)
    assert none.mean().item() == 0


def test_free_background__its_length_counts() -> None:
    regions, texts = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    logits = class_logits(regions, texts, torch.tensor([3.0, 4.0]), 0.5, free_background=True)
    torch.testing.assert_close(logits, torch.tensor([[6.0, 0.0]]))


def test_objectness_has_no_temperature() -> None:
    regions = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    background = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    torch.testing.assert_close(
        objectness_logits(regions, background), torch.tensor([[3.0, 0.0], [5.0, 0.8]])
    )
    torch.testing.assert_close(
        word_logits(regions, background[1:], torch.tensor(0.5)), torch.tensor([[0.0], [1.6]])
    )


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
