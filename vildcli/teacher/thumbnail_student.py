"""How sure a teacher would be of an anchor's crop, guessed from the crop's thumbnail.

A small network learns it once for a cache, from crops of some anchors of a few images: what the
teacher says of them, and its embeddings, which say why. It looks at no annotation. The thumbnails
of all anchors of an image come from one summed-area table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from vildcli.console import Advance
from vildcli.data.batches import seeded_generator
from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage
from vildcli.runs import write_atomically
from vildcli.teacher.anchors import SIDES, Anchors, make_anchors

CELLS = 8  # of a thumbnail's side
FITTED_IMAGES, FITTED_ANCHORS = 64, 600  # once for a cache; anchors of each image
_WIDTH = 256
_STEPS, _BATCH, _RATE = 2000, 256, 2e-3
_FILE = "student.safetensors"

Guess = Callable[[Tensor, Anchors], Tensor]
"""Image [3, H, W] uint8 and its anchors to how sure the teacher may be of each, [A]."""
Ask = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Image [3, H, W] uint8 and boxes [R, 4] to their crops' embeddings [R, D] and objectness [R]."""


@dataclass(frozen=True, slots=True)
class ThumbnailStudent:
    """The fitted network: features [A, F] to [A, 1 + D], standardised objectness first."""

    network: nn.Sequential

    @torch.inference_mode()
    def __call__(self, image: Tensor, anchors: Anchors) -> Tensor:
        """Guessed objectness [A] of an image [3, H, W] uint8, standardised, on the CPU."""
        found: Tensor = self.network(_features(image, anchors))
        return found[:, 0].cpu()


def open_student(
    folder: Path,
    images: Sequence[AnnotatedImage],
    image_folder: Path,
    *,
    ask: Ask,
    stride: int,
    seed: int,
    device: torch.device,
    advance: Advance,
) -> ThumbnailStudent:
    """The student that a cache folder keeps; taught where there is none yet.

    Args:
        stride: of the anchors.

    Raises:
        DataError: an image cannot be read.
    """
    path = folder / _FILE
    try:
        network = _network(load_file(path))
    except (OSError, SafetensorError, KeyError, RuntimeError):  # absent or damaged
        network = _taught(images, image_folder, ask, stride, seed, advance)
        write_atomically(path, lambda beside: save_file(network.state_dict(), beside))
    return ThumbnailStudent(network.to(device))


def thumbnails(image: Tensor, boxes: Tensor) -> Tensor:
    """The mean colour of each cell of boxes.

    Args:
        image: [3, H, W] uint8.
        boxes: [R, 4] original image frame, within the image, each with area.

    Returns:
        [R, 3, CELLS, CELLS] in 0-1, float32, on the image's device.
    """
    table = pad(image.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    boxes = boxes.to(image.device).double()
    steps = torch.linspace(0, 1, CELLS + 1, dtype=boxes.dtype, device=boxes.device)
    sides = boxes[:, 2:] - boxes[:, :2]
    x, y = (boxes[:, axis, None] + sides[:, axis, None] * steps for axis in (0, 1))

    def corners(axis: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel edges before places [R, CELLS + 1], and how far behind them the places are."""
        before = places.floor().clamp(0, image.shape[axis] - 1)
        return before.long(), places - before

    (left, across), (top, down) = corners(2, x), corners(1, y)
    across, down = across[:, None, :], down[:, :, None]

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        return table[:, rows[:, :, None], columns[:, None, :]]

    above = torch.lerp(at(top, left), at(top, left + 1), across)
    below = torch.lerp(at(top + 1, left), at(top + 1, left + 1), across)
    sums = torch.lerp(above, below, down).diff(dim=2).diff(dim=3)
    area = sides.prod(1)[:, None, None] / CELLS**2
    return (sums / (255 * area)).float().transpose(0, 1)


def _features(image: Tensor, anchors: Anchors) -> Tensor:
    """An anchor's thumbnail, side and shape: [A, F] on the image's device."""
    width, height = (anchors.boxes[:, 2:] - anchors.boxes[:, :2]).unbind(1)
    shape = (height / width).log()
    columns = torch.stack([shape, shape.square(), shape.abs()], 1)
    geometry = torch.cat([one_hot(anchors.levels, len(SIDES)), columns], 1)
    colours = 4 * thumbnails(image, anchors.boxes).flatten(1) - 2
    return torch.cat([colours, geometry.to(colours)], 1)


def _taught(
    images: Sequence[AnnotatedImage],
    image_folder: Path,
    ask: Ask,
    stride: int,
    seed: int,
    advance: Advance,
) -> nn.Sequential:
    generator = seeded_generator(seed)
    order = torch.randperm(len(images), generator=generator)[:FITTED_IMAGES].tolist()
    asked = []
    for done, i in enumerate(order):
        advance(0, f"teaching the student of thumbnails, image {done + 1} of {len(order)}")
        pixels = torch.from_numpy(read_image(image_folder / images[i].file_name).pixels)
        pixels = pixels.permute(2, 0, 1)
        anchors = make_anchors(pixels.shape[-2], pixels.shape[-1], stride)
        some = torch.randperm(len(anchors.boxes), generator=generator)[:FITTED_ANCHORS]
        chosen = anchors.rows(some)
        asked.append((_features(pixels, chosen), *ask(pixels, chosen.boxes)))
    features, embeddings, objectness = (torch.cat(rows) for rows in zip(*asked, strict=True))
    spread = (objectness - objectness.mean()) / objectness.std().clamp(min=1e-6)
    return _fit(features, spread, embeddings, generator)


def _fit(
    features: Tensor, objectness: Tensor, embeddings: Tensor, generator: torch.Generator
) -> nn.Sequential:
    """A network whose squared errors, the sum over all outputs, are least."""
    targets = torch.cat([objectness[:, None], embeddings], 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        network = _layers(features.shape[1], targets.shape[1])
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    for _ in range(_STEPS):
        rows = torch.randint(len(features), (_BATCH,), generator=generator)
        loss = (network(features[rows]) - targets[rows]).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def _layers(features: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, _WIDTH),
        nn.GELU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.GELU(),
        nn.Linear(_WIDTH, outputs),
    )


def _network(state: dict[str, Tensor]) -> nn.Sequential:
    network = _layers(state["0.weight"].shape[1], len(state["4.bias"]))
    network.load_state_dict(state)
    return network
