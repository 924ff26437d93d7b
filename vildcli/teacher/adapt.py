"""EZSD's adaptation of a teacher: its LayerNorms alone, trained on crops of base ground truth.

    logits = exp(logit scale) · cos(crop, "a photo of a NAME")     sigmoid or softmax cross-entropy

Everything else of the model stays as it is, the logit scale included. Crops are 1.2 times the box,
padded with black to a square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    normalize,
    one_hot,
)

from vildcli.console import Advance
from vildcli.data.batches import seeded_generator
from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage
from vildcli.errors import ModelError
from vildcli.runs import write_atomically
from vildcli.teacher.chosen_regions import least_boxes
from vildcli.teacher.crops import BATCH, ImageEncoder, cut_crops, normalise
from vildcli.teacher.ground_truth import BaseTruth
from vildcli.text.encoder import embed_tokens
from vildcli.text.open_clip_models import LoadedClip
from vildcli.text.templates import Prompts

Towers = Literal["both", "vision"]
Loss = Literal["sigmoid", "softmax"]
STATE_FILE = "adaptation.pt"
_READERS = 4


@dataclass(frozen=True, slots=True)
class AdaptRecipe:
    """How long and how fast; the defaults are those released for COCO.

    Attributes:
        loss: `sigmoid` asks of every name by itself, `softmax` for the one.
        batch: images a step, with all their base objects.
    """

    towers: Towers = "both"
    loss: Loss = "sigmoid"
    epochs: int = 12
    batch: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    clip_norm: float = 0.1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class OpenNorms:
    """The LayerNorm parameters that are trained; `text` is empty where its tower stays closed."""

    vision: tuple[nn.Parameter, ...]
    text: tuple[nn.Parameter, ...]

    @property
    def all(self) -> list[nn.Parameter]:
        return [*self.vision, *self.text]


def open_norms(clip: LoadedClip, towers: Towers) -> OpenNorms:
    """Let the LayerNorms of a model's towers be trained, and nothing else.

    Raises:
        ModelError: a tower has none.
    """
    model: Any = clip.model
    model.requires_grad_(False)
    vision = _norms_of(clip, "vision", [model.visual])
    of_text = [model.text] if hasattr(model, "text") else [model.transformer, model.ln_final]
    text = _norms_of(clip, "text", of_text) if towers == "both" else ()
    for parameter in (*vision, *text):
        parameter.requires_grad_(True)
    return OpenNorms(vision, text)


def _norms_of(
    clip: LoadedClip, tower: str, modules: Sequence[nn.Module]
) -> tuple[nn.Parameter, ...]:
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.LayerNorm)]
    found = tuple(p for norm in norms for p in norm.parameters())
    if not found:
        raise ModelError(
            f"The {tower} tower of {clip.reference} is a {type(modules[0]).__name__} without a "
            "LayerNorm, and LayerNorms are all that adaptation trains.",
            hint="Give a teacher of transformers, such as ViT-B-32:openai.",
        )
    return found


@dataclass(frozen=True, slots=True)
class Crops:
    """Where the training crops come from: images that have base objects, and their columns."""

    images: tuple[AnnotatedImage, ...]
    folder: Path
    truth: BaseTruth

    def __len__(self) -> int:
        return len(self.images)

    def columns(self, image_id: int) -> list[int]:
        """Of each object, the place of its category among the base ones."""
        places = {category.id: i for i, category in enumerate(self.truth.categories)}
        return [places[a.category_id] for a in self.truth.objects[image_id]]


def adapt(
    clip: LoadedClip,
    encoder: ImageEncoder,
    crops: Crops,
    prompts: Prompts,
    recipe: AdaptRecipe,
    *,
    state: Path,
    seed: int,
    advance: Advance,
) -> OpenNorms:
    """Train the norms of a model in place; an interrupted call continues with the next epoch.

    Args:
        encoder: an `object_encoder` of the same model.
        state: file that an epoch's end is written to.
        advance: told of each step.

    Raises:
        ModelError: a tower without LayerNorms; a loss that is no number.
    """
    norms = open_norms(clip, recipe.towers)
    optimiser = torch.optim.AdamW(norms.all, recipe.learning_rate, weight_decay=recipe.weight_decay)
    sentences = [s for c in crops.truth.categories for s in prompts.sentences(c.name)]
    tokens = clip.tokenizer(sentences).to(encoder.device)
    first = _resume(state, norms, optimiser)
    advance(first * steps_an_epoch(crops, recipe))
    for epoch in range(first, recipe.epochs):
        for pixels, columns in _batches(crops, encoder, recipe, seed, epoch):
            optimiser.zero_grad(set_to_none=True)
            texts = _embed_names(clip.model, tokens, len(prompts.templates))
            loss = accumulate(clip.model, pixels, columns, texts, recipe.loss)
            if not torch.isfinite(torch.tensor(loss)):
                raise ModelError(
                    f"The loss is {loss} in epoch {epoch + 1}: the adaptation has diverged.",
                    hint="Lower --learning-rate.",
                )
            nn.utils.clip_grad_norm_(norms.all, recipe.clip_norm)
            optimiser.step()
            advance(1, f"loss {loss:.3f}")
        _keep(state, epoch + 1, norms, optimiser)
    clip.model.requires_grad_(False)
    return norms


def steps_an_epoch(crops: Crops, recipe: AdaptRecipe) -> int:
    return -(-len(crops) // recipe.batch)


def accumulate(model: Any, pixels: Tensor, columns: Tensor, texts: Tensor, loss: Loss) -> float:
    """Add the gradients of the mean loss over crops, a part of the crops at a time.

    Args:
        pixels: [M, 3, S, S] normalised; columns: [M] of the names.
        texts: [C, D] unit norm, with a graph where the text tower is trained.

    Returns:
        The loss.
    """
    # The text tower is passed once: its gradient is collected in a leaf, then sent through.
    leaf = texts.detach().requires_grad_(texts.requires_grad)
    total = 0.0
    for some, wanted in zip(torch.split(pixels, BATCH), torch.split(columns, BATCH), strict=True):
        seen = normalize(model.encode_image(some).float(), dim=-1)
        logits = model.logit_scale.exp() * seen @ leaf.T
        if getattr(model, "logit_bias", None) is not None:
            logits = logits + model.logit_bias
        share = _loss(logits, wanted, loss) * (len(some) / len(pixels))
        torch.autograd.backward(share)
        total += share.item()
    if texts.requires_grad:
        torch.autograd.backward(texts, leaf.grad)
    return total


def _loss(logits: Tensor, columns: Tensor, loss: Loss) -> Tensor:
    if loss == "softmax":
        return cross_entropy(logits, columns)
    wanted = one_hot(columns, logits.shape[1]).to(logits.dtype)
    return binary_cross_entropy_with_logits(logits, wanted)


def _embed_names(model: nn.Module, tokens: Tensor, templates: int) -> Tensor:
    """One unit vector a name, [C, D]: the mean over its sentences."""
    each = normalize(embed_tokens(model, tokens).float(), dim=-1)
    return normalize(each.view(-1, templates, each.shape[-1]).mean(1), dim=-1)


def _batches(
    crops: Crops, encoder: ImageEncoder, recipe: AdaptRecipe, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised crops [M, 3, S, S] on the device and their columns [M], of an epoch."""
    generator = seeded_generator(seed, epoch)
    order = torch.randperm(len(crops), generator=generator).tolist()
    flips = (torch.rand(len(crops), generator=generator) < 0.5).tolist()
    with ThreadPoolExecutor(_READERS) as readers:
        for start in range(0, len(order), recipe.batch):
            rows = order[start : start + recipe.batch]
            chosen = [crops.images[row] for row in rows]
            images = readers.map(lambda image: read_image(crops.folder / image.file_name), chosen)
            parts, columns = [], []
            for row, image, decoded in zip(rows, chosen, images, strict=True):
                pixels = torch.from_numpy(decoded.pixels).permute(2, 0, 1).to(encoder.device)
                found = object_crops(pixels, crops.truth.boxes(image.id), encoder)
                parts.append(found.flip(-1) if flips[row] else found)
                columns += crops.columns(image.id)
            batch = normalise(torch.cat(parts), encoder.recipe)
            yield batch, torch.tensor(columns, device=encoder.device)


def object_crops(pixels: Tensor, boxes: Tensor, encoder: ImageEncoder) -> Tensor:
    """Crops [R, 3, S, S] uint8 of objects [R, 4], as an `object_encoder` sees them."""
    (factor,) = encoder.recipe.factors
    return cut_crops(pixels, least_boxes(boxes, *pixels.shape[-2:]), factor, encoder.recipe)


def _keep(state: Path, epochs: int, norms: OpenNorms, optimiser: torch.optim.Optimizer) -> None:
    content = {
        "epochs": epochs,
        "norms": [p.detach().cpu() for p in norms.all],
        "optimiser": optimiser.state_dict(),
    }
    write_atomically(state, lambda beside: torch.save(content, beside))


def _resume(state: Path, norms: OpenNorms, optimiser: torch.optim.Optimizer) -> int:
    """Epochs that are done."""
    if not state.is_file():
        return 0
    content = torch.load(state, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for parameter, kept in zip(norms.all, content["norms"], strict=True):
            parameter.copy_(kept)
    optimiser.load_state_dict(content["optimiser"])
    return int(content["epochs"])
