"""Gradients of last layers without per-image copies of them (ISAL, last layers only).

A linear layer's weight gradient is Σ_r δ_r a_rᵀ over its rows r, with inputs a [r, in] and
gradients δ [r, out] of its outputs. So nothing below a last layer is differentiated: a hook cuts
the graph at its outputs, which become leaves, and ⟨S, gradient⟩ = Σ_r δ_rᵀ S a_r needs no gradient
in memory.
Weights alone, as published: biases are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]  # of each last layer [out, in]


@dataclass(frozen=True, slots=True)
class LayerPass:
    """One call of a last layer.

    Attributes:
        inputs: [r, in] of a linear layer, [1, in, h, w] of a 1x1 convolution.
        outputs: [r, out] or [1, out, h, w], the leaf that the loss starts from.
    """

    layer: str
    inputs: Tensor
    outputs: Tensor

    def rows(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [r, in] and gradients [r, out] of the rows that the loss depends on."""
        inputs, deltas = _rows(self.inputs), _rows(gradient)
        felt = deltas.any(1)
        return inputs[felt], deltas[felt]

    def along(self, direction: Tensor) -> Tensor:
        """How the outputs move where the weight moves by [out, in]; shaped as they are."""
        if self.inputs.dim() == 2:
            return self.inputs @ direction.T
        return torch.einsum("oi,bihw->bohw", direction, self.inputs)


@dataclass(frozen=True, slots=True)
class HeadPass:
    """One image through the last layers, its loss normalised by what this image counts.

    Attributes:
        loss: scalar; its graph ends at the outputs of `passes`.
        draw: a scalar whose gradients c [r, out] at the outputs are random, with Σ E c cᵀ the
            Gauss-Newton Hessian of the loss by its outputs: labels drawn from the model's own
            softmax, signs for regression.
    """

    passes: Sequence[LayerPass]
    loss: Tensor
    draw: Callable[[torch.Generator], Tensor]

    def gradient_rows(self) -> list[tuple[str, Tensor, Tensor]]:
        """Layer, inputs [r, in] and gradients [r, out] of every pass."""
        return self._rows_of(self.loss)

    def curvature_rows(self, generator: torch.Generator) -> list[tuple[str, Tensor, Tensor]]:
        """Layer, inputs [r, in] and drawn gradients c [r, out] of every pass."""
        return self._rows_of(self.draw(generator))

    def gradient(self) -> Weights:
        """The loss's gradient by the weights of each layer."""
        return _outer_products(self.gradient_rows())

    def along(self, direction: Mapping[str, Tensor]) -> float:
        """⟨direction, gradient⟩ over all layers, the gradient itself never made."""
        return sum(
            float(torch.einsum("ro,oi,ri->", deltas, direction[layer], inputs))
            for layer, inputs, deltas in self.gradient_rows()
        )

    def hessian_product(self, direction: Mapping[str, Tensor]) -> Weights:
        """The loss's Hessian by the weights, times a direction: by differentiating twice."""
        leaves = [one.outputs for one in self.passes]
        found = torch.autograd.grad(
            self.loss, leaves, create_graph=True, retain_graph=True, materialize_grads=True
        )
        moved = [
            (first * one.along(direction[one.layer])).sum()
            for first, one in zip(found, self.passes, strict=True)
        ]
        inner = torch.stack(moved).sum()
        if not inner.requires_grad:  # the loss is linear here
            return {layer: torch.zeros_like(value) for layer, value in direction.items()}
        second = torch.autograd.grad(inner, leaves, retain_graph=True, materialize_grads=True)
        rows = [
            (one.layer, *one.rows(change)) for one, change in zip(self.passes, second, strict=True)
        ]
        return _outer_products(rows)

    def _rows_of(self, loss: Tensor) -> list[tuple[str, Tensor, Tensor]]:
        leaves = [one.outputs for one in self.passes]
        found = torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True)
        return [
            (one.layer, *one.rows(gradient))
            for one, gradient in zip(self.passes, found, strict=True)
        ]


@contextmanager
def cut_at(layers: Mapping[str, nn.Module]) -> Iterator[list[LayerPass]]:
    """While open, every call of a layer is noted, and what it gives is a leaf of the graph.

    Args:
        layers: linear layers or 1x1 convolutions by name.
    """
    passes: list[LayerPass] = []

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
            leaf = outputs.detach().requires_grad_()
            passes.append(LayerPass(name, inputs[0].detach(), leaf))
            return leaf

        return note

    hooks = [module.register_forward_hook(noting(name)) for name, module in layers.items()]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def _rows(values: Tensor) -> Tensor:
    """Rows [r, n] as they are; a map [b, n, h, w] place by place."""
    return values if values.dim() == 2 else values.permute(0, 2, 3, 1).flatten(0, 2)


def _outer_products(rows: Sequence[tuple[str, Tensor, Tensor]]) -> Weights:
    found: Weights = {}
    for layer, inputs, deltas in rows:
        product = deltas.T @ inputs
        found[layer] = found[layer] + product if layer in found else product
    return found
