from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.selection.linear_head import LinearHead, as_features, fit_head

CLASSES, WIDTH = 3, 6


def data(count: int, seed: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features of three clusters that overlap, and their classes."""
    centres = normalize(torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(7)))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    rows = centres[labels] + noise * torch.randn(count, WIDTH, generator=generator)
    return as_features(normalize(rows)), labels


def head(count: int = 60) -> LinearHead:
    return fit_head(*data(count, 0), CLASSES, regularisation=1e-2)


def hessian(found: LinearHead) -> np.ndarray:
    """[C * (D + 1), C * (D + 1)] of the objective, by numpy."""
    x, p = found.features.numpy(), found.probabilities(found.features).numpy()
    size = p.shape[1] * x.shape[1]
    total = found.regularisation * np.eye(size)
    for row, chances in zip(x, p, strict=True):
        bent = np.diag(chances) - np.outer(chances, chances)
        total += np.kron(bent, np.outer(row, row)) / len(x)
    return total


def spearman(one: Tensor, other: Tensor) -> float:
    ranks = [t.argsort().argsort().double() for t in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def test_fit_head__stops_where_the_objective_is_flat() -> None:
    found = head()
    gradient = found.gradient(found.features, found.labels) + found.regularisation * found.weights
    assert gradient.abs().max() < 1e-6
    accuracy = (found.probabilities(found.features).argmax(1) == found.labels).double().mean()
    assert accuracy > 0.6


def test_exact_direction__is_numpys_solution() -> None:
    found = head()
    v = found.gradient(*data(40, 1))
    wanted = np.linalg.solve(hessian(found), v.numpy().ravel()).reshape(v.shape)
    np.testing.assert_allclose(found.exact_direction(v).numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_influences__are_minus_the_products_with_autograds_gradients() -> None:
    found = head()
    features, _ = data(5, 2)
    s = found.exact_direction(found.gradient(*data(40, 1)))
    for row, value in zip(features, found.influences(features, s), strict=True):
        weights = found.weights.clone().requires_grad_()
        logits = weights @ row
        torch.nn.functional.cross_entropy(logits, logits.argmax()).backward()
        assert weights.grad is not None
        assert abs(float(value + (s * weights.grad).sum())) < 1e-9


def test_kronecker_and_lissa__rank_as_the_exact_inverse() -> None:
    found = head()
    v = found.gradient(*data(60, 1))
    pool, _ = data(200, 3)
    wanted = found.influences(pool, found.exact_direction(v))
    near = found.influences(pool, found.kronecker_direction(v))
    chained, scale, resets = found.lissa_direction(v, chains=2, depth=300)
    assert spearman(near, wanted) > 0.9
    assert spearman(found.influences(pool, chained), wanted) > 0.8  # an image a step is noisy
    assert (scale >= 1, resets) == (True, 0)


def test_influences__predict_what_retraining_with_true_labels_does() -> None:
    """Leave-one-in: each image is added with its true class, and the head trained again."""
    found = head()
    reference, pool = data(400, 1), data(60, 3)
    s = found.exact_direction(found.gradient(*reference))
    predicted = found.influences(pool[0], s)
    # Of a true label the sign of the change follows; of a wrong pseudo label it need not.
    true = -((found._deltas(*pool) * (pool[0] @ s.T)).sum(1))

    def loss(one: LinearHead) -> float:
        logits = reference[0] @ one.weights.T
        return float(torch.nn.functional.cross_entropy(logits, reference[1]))

    before = loss(found)
    change = []
    for row, label in zip(*pool, strict=True):
        more = fit_head(
            torch.cat([found.features, row[None]]),
            torch.cat([found.labels, label[None]]),
            CLASSES,
            regularisation=found.regularisation,
        )
        change.append(loss(more) - before)
    measured = torch.tensor(change)
    assert spearman(true, measured) > 0.9
    assert spearman(predicted, measured) > 0.2


def test_gradient__over_all_classes_by_their_chances_would_be_nothing() -> None:
    """ISAL's trap: why an image's label is its likeliest class alone."""
    found = head()
    features, _ = data(1, 4)
    p = found.probabilities(features)[0]
    parts = [p[c] * found.gradient(features, torch.tensor([c])) for c in range(CLASSES)]
    assert sum(parts).abs().max() < 1e-12  # type: ignore[union-attr]
    assert parts[int(p.argmax())].abs().max() > 1e-3
