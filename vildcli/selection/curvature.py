"""s = H⁻¹ v, the inverse Hessian times the reference gradient, for last layers.

Two ways (ISAL §3, facts in docs/decisions.md):

    kronecker_inverse   H block by block in a Kronecker-factored eigenbasis (EK-FAC): two passes
                        over the images, no chain that could diverge
    lissa               the stochastic recursion that ISAL published, Hessian products only
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vildcli.selection.last_layers import HeadPass, Weights

KRONECKER_DAMPING = 0.1  # times the mean eigenvalue of a layer
DRAWS = 4
LISSA_DAMPING = 0.01
LARGEST_SCALE = 1e8
TRIAL_STEPS = 50

Passes = Callable[[], Iterable[HeadPass]]


@dataclass(frozen=True, slots=True)
class Inverse:
    """What s was found by, beside s itself.

    Attributes:
        direction: s of each layer [out, in].
        scales: LiSSA's of each layer; empty otherwise.
        resets: how often a layer's recursion was begun anew because its Hessian product was not
            finite: the published NaN guard.
    """

    direction: Weights
    scales: Mapping[str, float] = field(default_factory=dict)
    resets: Mapping[str, int] = field(default_factory=dict)


def mean_gradient(passes: Iterable[HeadPass]) -> Weights:
    """The mean over images of the loss's gradient by each layer's weights."""
    total: Weights = {}
    count = 0
    for one in passes:
        count += 1
        _add(total, one.gradient())
    return {layer: value / count for layer, value in total.items()}


def kronecker_inverse(
    passes: Passes,
    gradient: Mapping[str, Tensor],
    *,
    damping: float = KRONECKER_DAMPING,
    draws: int = DRAWS,
    seed: int = 0,
) -> Inverse:
    """Find s with the Gauss-Newton Hessian in the eigenbasis of its Kronecker factors (EK-FAC).

    Per layer A = E[a aᵀ] and B = E[c cᵀ] give the basis, and E[(u_Bᵀ c)² (u_Aᵀ a)²] the eigenvalues
    in it. Exact where the Hessian is a Kronecker product, as in least squares.

    Args:
        passes: the images, gone through twice.
        gradient: v of each layer.
        damping: added to the eigenvalues of a layer, in shares of their mean.
        draws: of labels for each image; they cost no forward pass.
    """
    bases = {
        layer: (torch.linalg.eigh(b)[1], torch.linalg.eigh(a)[1])
        for layer, (b, a) in _factors(passes(), draws, seed).items()
    }
    values: Weights = {}
    count = 0
    generator = torch.Generator().manual_seed(seed)
    for one in passes():
        count += 1
        for layer, inputs, drawn in _drawn(one, draws, generator):
            u_b, u_a = bases[layer]
            squares = (drawn.double() @ u_b).square().T @ (inputs.double() @ u_a).square()
            _add(values, {layer: squares})
    direction: Weights = {}
    for layer, v in gradient.items():
        u_b, u_a = bases[layer]
        eigenvalues = values[layer] / (count * draws)
        limit = damping * float(eigenvalues.mean())
        turned = u_b.T @ v.double() @ u_a
        safe = (eigenvalues + limit).clamp(min=torch.finfo(torch.float64).tiny)
        direction[layer] = (u_b @ (turned / safe) @ u_a.T).to(v)
    return Inverse(direction)


def _drawn(
    one: HeadPass, draws: int, generator: torch.Generator
) -> Iterator[tuple[str, Tensor, Tensor]]:
    for _ in range(draws):
        yield from one.curvature_rows(generator)


def _factors(passes: Iterable[HeadPass], draws: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """B [out, out] and A [in, in] of each layer, up to a factor, in float64."""
    outputs: Weights = {}
    inputs_of: Weights = {}
    generator = torch.Generator().manual_seed(seed)
    for one in passes:
        for layer, inputs, drawn in _drawn(one, draws, generator):
            _add(outputs, {layer: drawn.double().T @ drawn.double()})
            _add(inputs_of, {layer: inputs.double().T @ inputs.double()})
    return {layer: (outputs[layer], inputs_of[layer]) for layer in outputs}


def lissa(
    passes: Sequence[Callable[[], HeadPass]],
    gradient: Mapping[str, Tensor],
    *,
    chains: int = 4,
    depth: int = 1000,
    damping: float = LISSA_DAMPING,
    scales: Mapping[str, float] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Inverse:
    """Find s by h ← v + (1 - d) h - H_x h / s, an image x a step, chains averaged: as published.

    Its fixed point is (H + d S)⁻¹ S v with S the scales: damping is d s, and layers of larger
    scale weigh more. There is no division by s in the end.

    Args:
        passes: makes the pass of an image when it is its turn; a chain goes on where the one
            before it ended.
        gradient: v of each layer.
        scales: of each layer; None finds the smallest of 1, 10, 100, … that does not diverge.
    """
    found = dict(scales) if scales is not None else find_scales(passes, gradient, damping=damping)
    resets = dict.fromkeys(gradient, 0)
    total: Weights = {}
    for chain in range(chains):
        h = {layer: v.clone() for layer, v in gradient.items()}
        for step in range(depth):
            one = passes[(chain * depth + step) % len(passes)]()
            h = _lissa_step(one, gradient, h, damping, found, resets)
            advance()
        _add(total, h)
    direction = {layer: value / chains for layer, value in total.items()}
    return Inverse(direction, found, resets)


def find_scales(
    passes: Sequence[Callable[[], HeadPass]],
    gradient: Mapping[str, Tensor],
    *,
    damping: float = LISSA_DAMPING,
    steps: int = TRIAL_STEPS,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """For each layer the smallest scale of 1, 10, 100, … that its recursion does not diverge at.

    While no eigenvalue leaves [0, s], |h| never exceeds |v| / d: beyond it, a recursion diverges.
    """
    scales = dict.fromkeys(gradient, 1.0)
    while True:
        h = {layer: v.clone() for layer, v in gradient.items()}
        diverged: set[str] = set()
        for step in range(steps):
            one = passes[step % len(passes)]()
            h = _lissa_step(one, gradient, h, damping, scales, dict.fromkeys(gradient, 0))
            advance()
            limits = {layer: float(v.norm()) / damping for layer, v in gradient.items()}
            diverged = {
                layer
                for layer, value in h.items()
                if limits[layer] > 0 and not float(value.norm()) <= limits[layer]
            }
            if diverged:
                break
        growing = {layer for layer in diverged if scales[layer] < LARGEST_SCALE}
        if not growing:
            return scales
        scales.update({layer: 10 * scales[layer] for layer in growing})


def _lissa_step(
    one: HeadPass,
    gradient: Mapping[str, Tensor],
    h: Mapping[str, Tensor],
    damping: float,
    scales: Mapping[str, float],
    resets: dict[str, int],
) -> Weights:
    products = one.hessian_product(h)
    found: Weights = {}
    for layer, v in gradient.items():
        product = products.get(layer)
        if product is None:  # the layer had no row in this image
            found[layer] = v + (1 - damping) * h[layer]
        elif not torch.isfinite(product).all():
            found[layer] = v.clone()
            resets[layer] += 1
        else:
            found[layer] = v + (1 - damping) * h[layer] - product / scales[layer]
    return found


def influence(one: HeadPass, direction: Mapping[str, Tensor]) -> float:
    """I(z) = -⟨s, G_z⟩ of an image; NaN layers of s say nothing, as published."""
    known = {
        layer: s if bool(torch.isfinite(s).all()) else torch.zeros_like(s)
        for layer, s in direction.items()
    }
    value = -one.along(known)
    return value if math.isfinite(value) else math.nan


def unknown_layers(direction: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The layers that `influence` leaves out because their s is not finite."""
    return tuple(k for k, s in direction.items() if not bool(torch.isfinite(s).all()))


def _add(total: Weights, more: Mapping[str, Tensor]) -> None:
    for layer, value in more.items():
        total[layer] = total[layer] + value if layer in total else value
