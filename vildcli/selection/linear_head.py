"""A linear softmax classifier on embeddings: the convex case, whose inverse Hessian is exact.

Objective: mean cross-entropy + λ/2 |W|², in float64, so that it has one minimum and a Hessian that
is positive definite. ISAL's expected gradient of an unlabelled image is that of its likeliest class
alone: over all classes it is zero (ISAL, classification).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vildcli.selection.curvature import kronecker_inverse, lissa
from vildcli.selection.last_layers import HeadPass, cut_at

REGULARISATION = 1e-4
_STEPS = 200  # of Newton's method by L-BFGS
_ROWS = 256  # images a pass
PRECISION = 1e-10  # of conjugate gradients, relative


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A trained head and what it was trained on.

    Attributes:
        weights: [C, D + 1], bias last, float64.
        features: [N, D + 1] of the labelled images, the last column 1, float64.
        labels: [N] 0..C-1.
    """

    weights: Tensor
    features: Tensor
    labels: Tensor
    regularisation: float = REGULARISATION

    def probabilities(self, features: Tensor) -> Tensor:
        """Softmax [M, C] of features [M, D + 1]."""
        return (features @ self.weights.T).softmax(-1)

    def gradient(self, features: Tensor, labels: Tensor) -> Tensor:
        """Of the mean cross-entropy of images, [C, D + 1]."""
        return self._deltas(features, labels).T @ features / len(features)

    def influences(self, features: Tensor, direction: Tensor) -> Tensor:
        """I(z) = -⟨s, G_z⟩ [M], G_z the gradient with the likeliest class for a label."""
        likeliest = self.probabilities(features).argmax(1)
        deltas = self._deltas(features, likeliest)
        return -(deltas * (features @ direction.T)).sum(1)

    def hessian_product(self, direction: Tensor) -> Tensor:
        """The Hessian of the objective times [C, D + 1]."""
        p = self.probabilities(self.features)
        moved = self.features @ direction.T
        bent = p * moved - p * (p * moved).sum(1, keepdim=True)
        return bent.T @ self.features / len(p) + self.regularisation * direction

    def exact_direction(self, gradient: Tensor, precision: float = PRECISION) -> Tensor:
        """Solve H s = v by conjugate gradients: H is positive definite.

        Args:
            precision: of the residual, relative to v.
        """
        s, rest = torch.zeros_like(gradient), gradient.clone()
        step, norm = rest.clone(), rest.square().sum()
        limit = (precision * gradient.norm()) ** 2
        for _ in range(10 * gradient.numel()):
            if norm <= limit:
                break
            product = self.hessian_product(step)
            length = norm / (step * product).sum()
            s, rest = s + length * step, rest - length * product
            before, norm = norm, rest.square().sum()
            step = rest + norm / before * step
        return s

    def kronecker_direction(self, gradient: Tensor) -> Tensor:
        """Find s by EK-FAC, as for detectors."""
        found = kronecker_inverse(lambda: self._passes(_ROWS), {"head": gradient.float()})
        return found.direction["head"].double()

    def lissa_direction(
        self, gradient: Tensor, *, chains: int, depth: int
    ) -> tuple[Tensor, float, int]:
        """Find s by LiSSA, an image a step; with its scale, and how often it began anew."""
        ones = [partial(self._pass, row, row + 1) for row in range(len(self.labels))]
        found = lissa(ones, {"head": gradient.float()}, chains=chains, depth=depth)
        return found.direction["head"].double(), found.scales["head"], found.resets["head"]

    def _deltas(self, features: Tensor, labels: Tensor) -> Tensor:
        """Gradient of each image's loss by its logits, [M, C]."""
        return self.probabilities(features) - F.one_hot(labels, len(self.weights))

    def _passes(self, rows: int) -> Iterator[HeadPass]:
        for start in range(0, len(self.labels), rows):
            yield self._pass(start, start + rows)

    def _pass(self, start: int, end: int) -> HeadPass:
        classes, width = self.weights.shape
        layer = nn.Linear(width, classes, bias=False).requires_grad_(False)
        layer.weight.copy_(self.weights)
        with cut_at({"head": layer}) as passes:
            logits = layer(self.features[start:end].float())
        loss = F.cross_entropy(logits, self.labels[start:end])

        def draw(generator: torch.Generator) -> Tensor:
            chances = logits.detach().softmax(-1)
            drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]
            total: Tensor = F.cross_entropy(logits, drawn, reduction="sum")
            return total / math.sqrt(len(logits))

        return HeadPass(passes, loss, draw)


def as_features(embeddings: Tensor) -> Tensor:
    """Embeddings [N, D] with a column of ones, [N, D + 1] float64: the bias is one more weight."""
    return F.pad(embeddings.double(), (0, 1), value=1.0)


def fit_head(
    features: Tensor, labels: Tensor, classes: int, *, regularisation: float = REGULARISATION
) -> LinearHead:
    """Minimise the objective, to convergence.

    Args:
        features: [N, D + 1], of `as_features`.
        labels: [N] 0..C-1.
    """
    weights = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights],
        max_iter=_STEPS,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(features @ weights.T, labels)
        total: Tensor = loss + regularisation / 2 * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    return LinearHead(weights.detach(), features, labels, regularisation)
