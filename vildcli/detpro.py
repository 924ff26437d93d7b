"""The ViLD weights that DetPro's authors released, as a model of ours.

They are checkpoints of mmdetection 2.7: a dict with `state_dict`, and `meta` and `optimizer`
beside it. CLIP and the text embeddings are not read from them: the one travels in the file unused,
the others never do. docs/detpro.md says where the files are and what is known of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises, even of weights only
from typing import Any

import torch
from torch import Tensor

from vildcli.checkpoint import Model, ModelCard, model_identity
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.detector import Detector
from vildcli.detector.initialise import first_few, name_misfits
from vildcli.errors import ModelError
from vildcli.runs import file_sha256
from vildcli.systems import SYSTEMS
from vildcli.text.templates import load_prompts
from vildcli.vocabulary.files import load_vocabulary

ARCHITECTURE, SYSTEM, WIDTH = "detpro", "vild-ensemble", 512
TEMPERATURE = 0.007  # τ of their test; trained with 0.01
PROMPTS, VOCABULARY, TEXT_ENCODER = "detpro-74", "lvis-v1", "ViT-B-32:openai"
PROVENANCE = {
    "release": "DetPro (ViLD* or DetPro)",
    "init": "SoCo",
    "note": "vildcli was never run on the real file",
}

_MAGIC = (b"PK\x03\x04", b"\x80")  # of torch's archive, and of its form of before 2020
_PEEKED = 1 << 24  # bytes
_BACKGROUND = ("roi_head.bg_embedding.weight", "roi_head.bg_embedding.bias")
_UNUSED = ("roi_head.clip_model.", "roi_head.bbox_head.fc_cls.")
_COUNTER = "num_batches_tracked"


def _renamed() -> dict[str, str]:
    """Beginnings of our weights' names, and of theirs."""
    names = {
        "backbone.body.": "backbone.",
        "proposal_head.convs.0.": "rpn_head.rpn_conv.",
        "proposal_head.objectness.": "rpn_head.rpn_cls.",
        "proposal_head.deltas.": "rpn_head.rpn_reg.",
        "boxes.": "roi_head.bbox_head.fc_reg.",
        "mask_head.upsample.": "roi_head.mask_head.upsample.",
        "mask_head.logits.": "roi_head.mask_head.conv_logits.",
    }
    for head, suffix in (("head", ""), ("image_head", "_for_image")):
        names[f"{head}.project."] = f"roi_head.projection{suffix}."
        names[f"{head}.fcs.0."] = f"roi_head.bbox_head.shared_fcs{suffix}.0."
        for i in range(4):
            conv = f"roi_head.bbox_head.shared_convs{suffix}.{i}"
            names |= {
                f"{head}.convs.{i}.0.": f"{conv}.conv.",
                f"{head}.convs.{i}.1.": f"{conv}.bn.",
            }
    for i in range(4):
        lateral, output = f"neck.lateral_convs.{i}", f"neck.fpn_convs.{i}"
        names |= {
            f"backbone.lateral.{i + 2}.": f"{lateral}.conv.",
            f"backbone.lateral_norm.{i + 2}.": f"{lateral}.bn.",
            f"backbone.post.{i + 2}.": f"{output}.conv.",
            f"backbone.norm.{i + 2}.": f"{output}.bn.",
            f"mask_head.convs.{i}.0.": f"roi_head.mask_head.convs.{i}.conv.",
        }
    return names


_RENAMED = _renamed()


def is_detpro(path: Path) -> bool:
    """Whether a file of `torch.save` names weights as mmdetection's detectors do.

    Nothing is unpickled: the names stand at its beginning as they are, even in a cut download.
    """
    with path.open("rb") as file:
        beginning = file.read(_PEEKED)
    return beginning.startswith(_MAGIC) and b"roi_head." in beginning


def load_detpro(path: Path, device: torch.device) -> Model:
    """Read a released Mask R-CNN checkpoint, ViLD* or DetPro.

    Raises:
        ModelError: unreadable, another variant, or weights missing, unknown or of another shape.
    """
    state = _read_state(path)
    _refuse_variants(path, state)
    detector = Detector(ARCHITECTURES[ARCHITECTURE], SYSTEMS[SYSTEM], WIDTH)
    fill(path, detector, state)
    card = _card(path)
    tensors = {f"detector.{name}": value for name, value in detector.state_dict().items()}
    identity = model_identity(tensors, card)
    return Model(card, detector.eval().to(device), {}, identity)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        # Mapped: most of the file is an optimiser's state and CLIP.
        mapped = zipfile.is_zipfile(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors and plain values, and is not read: {_reason(error)}",
            hint="Such a file runs code. Get the authors' own, or one that holds state_dict alone.",
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise ModelError(
            f"{path} cannot be read: {_reason(error)}", hint="Download it again."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state_dict of tensors.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _reason(error: BaseException) -> str:
    """The line of torch's long advice that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("WeightsUnpickler error: ")]
    return (telling or lines or [type(error).__name__])[0]


def _refuse_variants(path: Path, state: Mapping[str, Tensor]) -> None:
    def holds(beginning: str) -> bool:
        return any(name.startswith(beginning) for name in state)

    variants = {
        "is the Cascade model, whose heads come in threes": holds("roi_head.bbox_head.0."),
        "has a single head and no image head": not holds("roi_head.projection_for_image."),
        "was trained with a fixed background (fix_bg), which is not in the file": not holds(
            "roi_head.bg_embedding."
        ),
    }
    for what, is_so in variants.items():
        if is_so:
            raise ModelError(
                f"{path} {what}: it cannot be read.",
                hint="Take the Mask R-CNN weights, ViLD* or DetPro, of DetPro's README.",
            )


def fill(path: Path, detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Copy a released state dict into a detector.

    Raises:
        ModelError: weights missing, unknown or of another shape; nothing is copied then.
    """
    own = {k: v for k, v in detector.state_dict().items() if not k.endswith(_COUNTER)}
    background = own.pop("background")
    names = {name: _their_name(name) for name in own}
    wanted = {theirs: own[name] for name, theirs in names.items()}
    wanted |= dict(zip(_BACKGROUND, (background[:, None], background), strict=True))
    unknown = [
        name
        for name in state
        if name not in wanted and not name.startswith(_UNUSED) and not name.endswith(_COUNTER)
    ]
    misfits = [name_misfits(wanted, state)]
    misfits += [f"{len(unknown)} unknown: {first_few(unknown)}"] if unknown else []
    if said := "; ".join(filter(None, misfits)):
        raise ModelError(
            f"{path} is not the released architecture: {said}.",
            hint="Take the Mask R-CNN weights, ViLD* or DetPro, of DetPro's README.",
        )
    for name, theirs in names.items():
        own[name].copy_(state[theirs])
    weight, bias = (state[name].float() for name in _BACKGROUND)
    background.copy_(weight[:, 0] + bias)  # a linear layer that is fed with a one


def _their_name(name: str) -> str:
    [(ours, theirs)] = [pair for pair in _RENAMED.items() if name.startswith(pair[0])]
    return theirs + name.removeprefix(ours)


def _card(path: Path) -> ModelCard:
    lvis = load_vocabulary(VOCABULARY).categories
    return ModelCard(
        system=SYSTEM,
        architecture=ARCHITECTURES[ARCHITECTURE].as_dict(),
        embedding_width=WIDTH,
        temperature=TEMPERATURE,
        prompts=asdict(load_prompts(PROMPTS)),
        base_categories=tuple(c for c in lvis if c.frequency in ("f", "c")),
        # Which weights of it they had is not written down: any of this public tag are taken.
        text_encoder={"reference": TEXT_ENCODER},
        default_conf=None,
        provenance={**PROVENANCE, "sha256": file_sha256(path)},
    )
