from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from convex_heads import Problem, least_squares, softmax
from torch import Tensor

from vildcli.selection.curvature import (
    find_scales,
    influence,
    kronecker_inverse,
    lissa,
    mean_gradient,
    unknown_layers,
)
from vildcli.selection.last_layers import HeadPass


def exact(problem: Problem, v: Tensor, damping: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """(H + damping)⁻¹ scale v."""
    hessian = problem.hessian()
    rhs = scale * v.double().numpy().ravel()
    found = np.linalg.solve(hessian + damping * np.eye(len(hessian)), rhs)
    return found.reshape(v.shape)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def test_mean_gradient__is_that_of_the_mean_loss() -> None:
    problem = softmax()
    weight = problem.layer.weight.clone().requires_grad_()
    logits = (problem.inputs @ weight.T).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, problem.targets.flatten()).backward()
    torch.testing.assert_close(mean_gradient(problem.passes())["head"], weight.grad)


def test_kronecker_inverse__is_exact_in_least_squares() -> None:
    problem = least_squares()
    v = mean_gradient(problem.passes())
    mean = np.linalg.eigvalsh(problem.hessian()).mean()
    for damping in (0.0, 0.1):
        found = kronecker_inverse(problem.passes, v, damping=damping, draws=100).direction["head"]
        wanted = exact(problem, v["head"], damping * mean)
        np.testing.assert_allclose(found.numpy(), wanted, atol=0.05 * abs(wanted).max())


def test_kronecker_inverse__comes_near_the_softmax_one_where_the_gradient_does_not() -> None:
    problem = softmax()
    v = mean_gradient(problem.passes())
    shift = 0.1 * np.trace(problem.hessian()) / problem.hessian().shape[0]
    wanted = exact(problem, v["head"], shift)
    found = kronecker_inverse(problem.passes, v).direction["head"].double().numpy()
    assert cosine(found, wanted) > 0.95
    assert cosine(found, wanted) > cosine(v["head"].double().numpy(), wanted)


@pytest.mark.parametrize("make", [least_squares, softmax])
def test_lissa__its_fixed_point_is_the_damped_inverse_times_the_scale(
    make: type[Problem],
) -> None:
    problem = make()  # type: ignore[call-arg]
    v = mean_gradient(problem.passes())
    whole = [_averaged(problem)]  # one "image" that holds all, so that nothing is drawn
    found = lissa(whole, v, chains=1, depth=2000, scales={"head": 10.0})
    wanted = exact(problem, v["head"], damping=0.01 * 10, scale=10)
    np.testing.assert_allclose(
        found.direction["head"].double().numpy(), wanted, atol=2e-3 * abs(wanted).max()
    )
    assert found.resets == {"head": 0}


def test_lissa__image_by_image_agrees_with_the_exact_inverse() -> None:
    problem = least_squares()
    v = mean_gradient(problem.passes())
    found = lissa(problem.makers(), v, chains=4, depth=400, scales={"head": 100.0})
    wanted = exact(problem, v["head"], damping=0.01 * 100, scale=100)
    assert cosine(found.direction["head"].double().numpy(), wanted) > 0.99


def test_find_scales__takes_the_smallest_that_does_not_diverge() -> None:
    problem = least_squares()
    v = mean_gradient(problem.passes())
    largest = np.linalg.eigvalsh(problem.hessian()).max()
    assert find_scales(problem.makers(), v)["head"] in (1.0, 10.0)
    steep = replace(problem, inputs=problem.inputs * 100)
    v = mean_gradient(steep.passes())
    found = find_scales(steep.makers(), v)["head"]
    assert found >= largest * 1e4 / 10
    assert found <= largest * 1e4 * 100
    below = lissa(steep.makers(), v, chains=1, depth=60, scales={"head": found / 100})
    assert not float(below.direction["head"].norm()) <= float(v["head"].norm()) / 0.01


def test_lissa__what_is_not_finite_begins_anew_and_is_counted() -> None:
    problem = least_squares()
    v = mean_gradient(problem.passes())
    broken = Problem(problem.inputs * math.nan, problem.targets, problem.layer)
    found = lissa([broken.makers()[0]], v, chains=2, depth=3, scales={"head": 10.0})
    assert found.resets == {"head": 6}
    torch.testing.assert_close(found.direction["head"], v["head"])


def test_influence__the_most_negative_step_lowers_the_reference_loss_most() -> None:
    problem, reference = softmax(), softmax(seed=9)
    reference = replace(reference, layer=problem.layer)
    direction = kronecker_inverse(problem.passes, mean_gradient(reference.passes())).direction
    values = [influence(one, direction) for one in problem.passes()]

    def after(image: int) -> float:
        gradient = problem.one(image).gradient()["head"]
        moved = problem.layer.weight - 0.05 * gradient
        logits = (reference.inputs @ moved.T).flatten(0, 1)
        return float(torch.nn.functional.cross_entropy(logits, reference.targets.flatten()))

    best, worst = int(np.argmin(values)), int(np.argmax(values))
    assert values[best] < 0 < values[worst]
    assert after(best) < after(worst)


def test_influence__strong_damping_ranks_as_gradient_similarity() -> None:
    problem = softmax()
    v = mean_gradient(problem.passes())
    damped = kronecker_inverse(problem.passes, v, damping=1e6).direction
    similar = np.argsort([influence(one, v) for one in problem.passes()])
    assert list(similar) == list(np.argsort([influence(o, damped) for o in problem.passes()]))


def test_influence__says_nothing_by_a_layer_that_is_not_finite() -> None:
    problem = softmax()
    v = mean_gradient(problem.passes())
    lost = {"head": torch.full_like(v["head"], math.nan)}
    assert unknown_layers(lost) == ("head",)
    assert unknown_layers(v) == ()
    assert influence(problem.one(0), lost) == 0
    bad = Problem(problem.inputs * math.inf, problem.targets, problem.layer)
    assert math.isnan(influence(bad.one(0), v))


def _averaged(problem: Problem) -> object:
    """All images as one."""
    flat = Problem(
        problem.inputs.flatten(0, 1)[None], problem.targets.flatten(0, 1)[None], problem.layer
    )

    def make() -> HeadPass:
        return flat.one(0)

    return make
