"""Linear models as images of rows: problems whose Hessian numpy can write down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vildcli.selection.last_layers import HeadPass, cut_at


@dataclass(frozen=True)
class Problem:
    """Images of `rows` rows each, inputs [n, rows, in], and a linear layer under them."""

    inputs: Tensor
    targets: Tensor
    layer: nn.Linear

    def one(self, image: int) -> HeadPass:
        with cut_at({"head": self.layer}) as passes:
            outputs = self.layer(self.inputs[image])
        target = self.targets[image]
        count = len(outputs)
        if target.dtype == torch.int64:
            return HeadPass(
                passes,
                F.cross_entropy(outputs, target),
                lambda generator: _softmax_draw(outputs, generator) / count**0.5,
            )
        return HeadPass(
            passes,
            (outputs - target).square().sum() / (2 * count),
            lambda generator: (_signs(outputs, generator) * outputs).sum() / count**0.5,
        )

    def passes(self) -> list[HeadPass]:
        return [self.one(i) for i in range(len(self.inputs))]

    def makers(self) -> list[Callable[[], HeadPass]]:
        return [lambda i=i: self.one(i) for i in range(len(self.inputs))]  # type: ignore[misc]

    def hessian(self) -> np.ndarray:
        """[out * in, out * in] of the mean loss, weights row by row."""
        inputs = self.inputs.numpy().astype(np.float64)
        n, rows, width = inputs.shape
        outputs = self.layer(self.inputs).detach().double().numpy()
        out = outputs.shape[-1]
        total = np.zeros((out * width, out * width))
        for image in range(n):
            for row in range(rows):
                a, inner = inputs[image, row], np.eye(out)
                if self.targets.dtype == torch.int64:
                    p = np.exp(outputs[image, row] - outputs[image, row].max())
                    p /= p.sum()
                    inner = np.diag(p) - np.outer(p, p)
                total += np.kron(inner, np.outer(a, a)) / (n * rows)
        return total


def least_squares(seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(12, 6, 4, generator=generator) * torch.tensor([1.5, 1.0, 0.7, 0.4])
    return Problem(inputs, torch.randn(12, 6, 3, generator=generator), _layer(4, 3, generator))


def softmax(seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(30, 4, 5, generator=generator)
    return Problem(
        inputs, torch.randint(0, 3, (30, 4), generator=generator), _layer(5, 3, generator)
    )


def _layer(width: int, out: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, out, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.randn(out, width, generator=generator) * 0.3)
    return layer


def _softmax_draw(outputs: Tensor, generator: torch.Generator) -> Tensor:
    labels = torch.multinomial(outputs.detach().softmax(-1), 1, generator=generator)[:, 0]
    return F.cross_entropy(outputs, labels, reduction="sum")


def _signs(outputs: Tensor, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, outputs.shape, generator=generator) - 1
