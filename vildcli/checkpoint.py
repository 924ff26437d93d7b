"""Model files: one copyable `.safetensors` with detector, text tower and all needed to use them.

Tensors are named `detector.*` and `text.*` (the text tower travels inside unless it is a public
open_clip tag); the metadata has one key, of JSON: `format` and `card`. A file of a newer format is
refused with both numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vildcli.detector.architecture import architecture_from_dict
from vildcli.detector.detector import Detector
from vildcli.errors import ModelError
from vildcli.runs import refuse_newer, write_atomically
from vildcli.systems import find_system, vary
from vildcli.vocabulary.category import Category, category_from_dict

MODEL_FORMAT = 1
_FORMAT_NAME = "vildcli-model"
MODEL_FILE = Path("checkpoints") / "model.safetensors"  # in a training run


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model says of itself.

    Attributes:
        temperature: τ of both sides, that of its text encoder; 1 in a closed set. A learned one is
            among the weights.
        prompts: name and templates that its text embeddings were made with; empty in a closed set.
        base_categories: what boxes were seen of; its default scoring context, and the classes of a
            closed set in their order.
        text_encoder: the tower's configuration, or a public reference with the hash of its weights;
            empty in a closed set.
        default_conf: score from which labels are shown, where it was measured.
        provenance: initialisation and proposals: what else the weights have seen.
        variation: what differs from the system's row, see `vildcli.systems.VARIABLE`.
    """

    system: str
    architecture: Mapping[str, Any]
    embedding_width: int
    temperature: float
    prompts: Mapping[str, Any]
    base_categories: tuple[Category, ...]
    text_encoder: Mapping[str, Any]
    default_conf: float | None
    provenance: Mapping[str, Any]
    variation: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """A row as it stands says nothing of variations: older models keep their identity."""
        values = asdict(self)
        if not self.variation:
            del values["variation"]
        return values


@dataclass(frozen=True, slots=True)
class Model:
    """A model file in memory. `text_tower` is empty where the text encoder is a public one."""

    card: ModelCard
    detector: Detector
    text_tower: Mapping[str, Tensor]
    identity: str


def save_model(
    path: Path, detector: Detector, text_tower: Mapping[str, Tensor], card: ModelCard
) -> None:
    tensors = {f"detector.{k}": v.contiguous() for k, v in detector.state_dict().items()}
    tensors |= {f"text.{k}": v.contiguous() for k, v in text_tower.items()}
    # One key: safetensors writes several in an order of the moment, and equal models would differ.
    said = {"format": MODEL_FORMAT, "card": card.as_dict()}
    metadata = {_FORMAT_NAME: json.dumps(said, sort_keys=True)}
    write_atomically(path, lambda beside: save_file(tensors, beside, metadata))


def find_model(reference: str | Path) -> Path:
    """The file of `--model`: a model file, or the one of a training run.

    Raises:
        ModelError: nothing there.
    """
    path = Path(reference)
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise ModelError(
            f"There is no model at {reference}.",
            hint="Give a .safetensors file, the folder of a finished training run, or weights of "
            "DetPro's.",
        )
    return path


def load_model(reference: str | Path, device: torch.device) -> Model:
    """Read a model file written by `save_model`, or weights that DetPro's authors released.

    Raises:
        ModelError: not a model file, of a newer format, or its weights do not fit its card.
    """
    from vildcli.detpro import is_detpro, load_detpro  # which makes such a model

    path = find_model(reference)
    if is_detpro(path):
        return load_detpro(path, device)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a safetensors file: {error}.", hint="Give a model trained by vildcli."
        ) from error
    card = _read_card(path, metadata)
    system = vary(find_system(card.system), card.variation)
    detector = Detector(
        architecture_from_dict(dict(card.architecture)),
        system,
        card.embedding_width,
        len(card.base_categories),
    )
    try:
        detector.load_state_dict(_of_part(tensors, "detector."))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelError(f"{path} does not fit its own card: {first}") from error
    return Model(
        card,
        detector.eval().to(device),
        _of_part(tensors, "text."),
        model_identity(tensors, card),
    )


def _of_part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _read_card(path: Path, metadata: Mapping[str, str]) -> ModelCard:
    name, _, number = metadata.get("format", "").partition("/")
    is_older = name == _FORMAT_NAME and number.isdigit()  # a key each
    if _FORMAT_NAME not in metadata and not is_older:
        raise ModelError(
            f"{path} is not a vildcli model file.", hint="Give a model trained by vildcli."
        )
    try:
        if is_older:
            said = {"format": number, "card": json.loads(metadata["card"])}
        else:
            said = json.loads(metadata[_FORMAT_NAME])
        refuse_newer(path, int(said["format"]), MODEL_FORMAT, ModelError)
        values = said["card"]
        categories = tuple(category_from_dict(category) for category in values["base_categories"])
        return ModelCard(**{**values, "base_categories": categories})
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} has a card that cannot be read: {error}.",
            hint="Give a model trained by vildcli.",
        ) from error


def model_identity(tensors: Mapping[str, Tensor], card: ModelCard) -> str:
    """Hash of the weights and of what decides scores; the same for a copy or a renamed file."""
    digest = hashlib.sha256(json.dumps(card.as_dict(), sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
