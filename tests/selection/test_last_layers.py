from __future__ import annotations

import torch
import torch.nn.functional as F
from convex_heads import least_squares, softmax
from torch import nn

from vildcli.selection.last_layers import HeadPass, cut_at


def small_model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"body": nn.Conv2d(3, 4, 3), "map": nn.Conv2d(4, 2, 1), "fc": nn.Linear(8, 3)}
    )


def test_gradient__of_a_convolution_called_twice_and_a_linear_layer_equals_autograd() -> None:
    model, image = small_model(), torch.randn(1, 3, 6, 6)

    def loss() -> torch.Tensor:
        features = model["body"](image).relu()
        maps = [model["map"](features), model["map"](features[:, :, ::2, ::2])]
        pooled = F.adaptive_avg_pool2d(features, (1, 2)).flatten(1).expand(5, -1)
        classes = F.cross_entropy(model["fc"](pooled), torch.tensor([0, 1, 2, 1, 0]))
        return maps[0].square().sum() + maps[1].sigmoid().sum() + classes

    with cut_at({"map": model["map"], "fc": model["fc"]}) as passes:
        found = HeadPass(passes, loss(), lambda generator: passes[0].outputs.sum())
    weights = {"map": model["map"].weight, "fc": model["fc"].weight}
    wanted = torch.autograd.grad(loss(), list(weights.values()))
    gradient = found.gradient()
    for (name, weight), true in zip(weights.items(), wanted, strict=True):
        torch.testing.assert_close(gradient[name], true.view_as(weight).flatten(1))
    assert model["body"].weight.grad is None
    direction = {name: torch.randn_like(gradient[name]) for name in gradient}
    dot = sum(float((direction[name] * gradient[name]).sum()) for name in gradient)
    assert abs(found.along(direction) - dot) < 1e-5 * max(1, abs(dot))


def test_cut_at__nothing_is_left_behind_and_nothing_below_is_differentiated() -> None:
    model = small_model()
    with cut_at({"map": model["map"]}) as passes:
        outputs = model["map"](model["body"](torch.randn(1, 3, 5, 5)))
    assert outputs.is_leaf
    assert not passes[0].inputs.requires_grad
    assert model["map"](torch.randn(1, 4, 5, 5)).grad_fn is not None  # no hook any more
    assert len(passes) == 1


def test_hessian_product__is_the_hessian_of_numpy() -> None:
    for problem in (least_squares(), softmax()):
        direction = torch.randn(problem.layer.weight.shape, generator=torch.manual_seed(1))
        found = torch.stack(
            [one.hessian_product({"head": direction})["head"] for one in problem.passes()]
        ).mean(0)
        wanted = problem.hessian() @ direction.double().numpy().ravel()
        torch.testing.assert_close(
            found.double().flatten(), torch.from_numpy(wanted), atol=1e-5, rtol=1e-4
        )


def test_hessian_product__of_a_linear_loss_is_zero() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with cut_at({"head": layer}) as passes:
        loss = layer(torch.ones(3, 2)).sum()
    one = HeadPass(passes, loss, lambda generator: loss)
    assert not one.hessian_product({"head": torch.ones(2, 2)})["head"].any()


def test_draw__averages_to_the_gauss_newton_hessian() -> None:
    problem = softmax()
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(15, 15, dtype=torch.float64)
    for _ in range(60):
        for one in problem.passes():
            [(_, inputs, drawn)] = one.curvature_rows(generator)
            rows = torch.einsum("ro,ri->roi", drawn, inputs).flatten(1).double()
            total += rows.T @ rows
    found = (total / (60 * len(problem.inputs))).numpy()
    wanted = problem.hessian()
    assert abs(found - wanted).max() < 0.1 * abs(wanted).max()
