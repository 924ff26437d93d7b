"""What a detector's weights are before the first step, and what they have seen by then.

Never silently something else: what does not fit is an error or is named, and where the weights came
from is written into the model file, since it decides what may be called zero-shot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises, even of weights only
from typing import Any

import torch
from torch import Tensor

from vildcli.checkpoint import load_model
from vildcli.detector.detector import Detector
from vildcli.detector.initialise import load_backbone, load_torchvision_detector
from vildcli.detpro import is_detpro
from vildcli.errors import ModelError
from vildcli.runs import file_sha256
from vildcli.weights import find_backbone_weights, find_detector_weights

SCRATCH, IMAGENET, COCO = "scratch", "imagenet", "coco"
_TORCH_SUFFIXES = {".pth", ".pt"}
_OF_EZSD = {"word_boxes.weight", "logit_scale"}


def initialise(detector: Detector, init: str, *, offline: bool) -> dict[str, Any]:
    """Take over weights.

    Args:
        init: `scratch`, `imagenet` or `coco` (torchvision's), a file of torchvision's form, or a
            model.

    Returns:
        The provenance to be kept: `init`, the file's hash, and what stayed random.

    Raises:
        ModelError: missing, unreadable, or of another shape than the detector.
    """
    if init == SCRATCH:
        return {"init": SCRATCH}
    if names_a_model(init):
        return _from_model(detector, init)
    return _from_torchvision(detector, init, _torchvision_file(detector, init, offline))


def names_a_model(init: str) -> bool:
    """Whether `init` is a whole model, whose proposals are as good as its weights."""
    return init not in (SCRATCH, IMAGENET, COCO) and not _is_torchvision(Path(init))


def identity_of(init: str) -> str:
    """What tells two initialisations apart in a run's settings."""
    path = Path(init)
    return file_sha256(path) if path.is_file() else init


def _torchvision_file(detector: Detector, init: str, offline: bool) -> Path:
    if init == IMAGENET:
        return find_backbone_weights(detector.architecture.backbone, offline=offline)
    return find_detector_weights(offline=offline) if init == COCO else Path(init)


def _is_torchvision(path: Path) -> bool:
    return path.suffix in _TORCH_SUFFIXES and path.is_file() and not is_detpro(path)


def _from_torchvision(detector: Detector, init: str, path: Path) -> dict[str, Any]:
    state = _read_state(path)
    is_detector = any(key.startswith("roi_heads.") for key in state)
    if is_detector:
        _, random, unread = load_torchvision_detector(detector, state)
    else:
        unread = load_backbone(detector, state)
        random = sorted(k for k in detector.state_dict() if not k.startswith("backbone.body."))
    return {
        "init": COCO if is_detector else IMAGENET,
        "init_file": path.name,
        "init_sha256": file_sha256(path),
        "init_random": len(random),
        "init_unread": unread,
    }


def _read_state(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise ModelError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(
            f"{path} holds no weights of torchvision's form.",
            hint="Give a state dict of a torchvision classifier or Mask R-CNN, or a model file.",
        )
    return state


def _from_model(detector: Detector, init: str) -> dict[str, Any]:
    """Take over a whole model; a second head starts from the first one's weights."""
    source = load_model(init, torch.device("cpu"))
    state = source.detector.state_dict()
    if detector.image_head is not None and source.detector.image_head is None:
        state |= {f"image_{k}": v for k, v in state.items() if k.startswith("head.")}
    own = detector.state_dict()
    # Names have no say in the boxes of most models, nor do they learn τ: that starts as it would.
    state = {k: v for k, v in own.items() if k in _OF_EZSD} | state
    misfits = sorted(k for k in own if k not in state or state[k].shape != own[k].shape)
    if misfits:
        raise ModelError(
            f"{init} does not fit: {len(misfits)} weights differ, first {misfits[0]}.",
            hint=f"Initialise from a model of the same backbone and text encoder; this one is a "
            f"{source.card.system} on {source.detector.architecture.backbone}.",
        )
    detector.load_state_dict({k: state[k] for k in own})
    return {
        "init": source.identity,
        "init_system": source.card.system,
        "init_text_encoder": source.card.text_encoder.get("identity"),
        "init_provenance": {
            **source.card.provenance,
            "trained_on": [category.name for category in source.card.base_categories],
        },
    }
