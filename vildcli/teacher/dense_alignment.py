"""From what a teacher's dense view says of an anchor to what its crop would say.

In a tile an object is smaller than in a crop of its own, and seen amid its surroundings: a teacher
embeds it elsewhere. A linear map by least squares, fitted once on crops of some anchors of a few
images, brings the one to the other. It looks at no annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from vildcli.console import Advance
from vildcli.data.batches import seeded_generator
from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage
from vildcli.runs import write_atomically
from vildcli.teacher.anchors import SIDES, Anchors, make_anchors

FITTED_IMAGES, FITTED_ANCHORS = 16, 2000  # once for a cache; anchors of each image
_RIDGE = 3.0
_FILE = "alignment.safetensors"
DenseEmbed = Callable[[Tensor, Anchors], Tensor]
"""Image [3, H, W] uint8 and its anchors to embeddings [A, D], unit norm, without crops."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """The fitted map, weights [F, D] of the features [A, F] of anchors."""

    weights: Tensor

    def of(self, dense: DenseEmbed) -> DenseEmbed:
        """The same view, aligned with crops."""
        return lambda image, anchors: normalize(
            _features(dense(image, anchors), anchors) @ self.weights, dim=-1
        )


def open_alignment(
    folder: Path,
    images: Sequence[AnnotatedImage],
    image_folder: Path,
    *,
    dense: DenseEmbed,
    exact: Callable[[Tensor, Tensor], Tensor],
    stride: int,
    seed: int,
    advance: Advance,
) -> Alignment:
    """The alignment that a cache folder keeps; fitted where there is none yet.

    Args:
        exact: an image [3, H, W] uint8 and boxes [R, 4] to the embeddings [R, D] of their crops.
        stride: of the anchors.

    Raises:
        DataError: an image cannot be read.
    """
    path = folder / _FILE
    try:
        return Alignment(load_file(path)["weights"])
    except (OSError, SafetensorError, KeyError):
        pass  # absent or damaged: it is fitted, the same again
    generator = seeded_generator(seed)
    order = torch.randperm(len(images), generator=generator)[:FITTED_IMAGES].tolist()
    fit = _LeastSquares()
    for done, i in enumerate(order):
        advance(0, f"aligning the teacher's dense view, image {done + 1} of {len(order)}")
        pixels = torch.from_numpy(read_image(image_folder / images[i].file_name).pixels)
        pixels = pixels.permute(2, 0, 1)
        anchors = make_anchors(pixels.shape[-2], pixels.shape[-1], stride)
        some = torch.randperm(len(anchors.boxes), generator=generator)[:FITTED_ANCHORS]
        chosen = anchors.rows(some)
        fit.add(_features(dense(pixels, chosen), chosen), exact(pixels, chosen.boxes))
    alignment = Alignment(fit.solve())
    write_atomically(path, lambda beside: save_file({"weights": alignment.weights}, beside))
    return alignment


def _features(embeddings: Tensor, anchors: Anchors) -> Tensor:
    """What the map is linear in: the dense embedding, and an anchor's side and shape, [A, F]."""
    width, height = (anchors.boxes[:, 2:] - anchors.boxes[:, :2]).unbind(1)
    shape = (height / width).log()
    columns = torch.stack([shape, shape.square(), torch.ones_like(shape)], 1)
    levels = one_hot(anchors.levels, len(SIDES)).to(embeddings.dtype)
    return torch.cat([embeddings, levels, columns], 1)


class _LeastSquares:
    """Ridge regression of targets [A, D] on features [A, F], from one batch after another."""

    def __init__(self) -> None:
        self.square: Tensor | float = 0.0
        self.product: Tensor | float = 0.0

    def add(self, features: Tensor, targets: Tensor) -> None:
        features, targets = features.double(), targets.double()
        self.square = self.square + features.T @ features
        self.product = self.product + features.T @ targets

    def solve(self) -> Tensor:
        """Weights [F, D], float32."""
        assert isinstance(self.square, Tensor), "nothing was added"
        assert isinstance(self.product, Tensor), "nothing was added"
        ridge = _RIDGE * torch.eye(len(self.square), dtype=torch.float64)
        weights: Tensor = torch.linalg.solve(self.square + ridge, self.product)
        return weights.float().contiguous()
