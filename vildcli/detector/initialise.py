"""Starting from weights that torchvision publishes: what fits is taken, and the rest is named.

Published ViLD starts from nothing; these are for shorter schedules. Batch norm's ε differs between
the sources and the architectures, so that its weights are rescaled: right after loading, the body
computes what torchvision's does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vildcli.detector.detector import Detector
from vildcli.errors import ModelError

# Where torchvision's classifiers keep the body, and their batch norm's ε.
_CLASSIFIERS = {
    "resnet50": ("", 1e-5),
    "resnet152": ("", 1e-5),
    "efficientnet_b7": ("features.", 1e-3),
}
_DETECTOR_BODY, _DETECTOR_EPS = "backbone.body.", 0.0  # torchvision sets it for its COCO weights
_COUNTER = "num_batches_tracked"  # of batch norm; older files do not hold it
_SHOWN = 5


def load_backbone(detector: Detector, state: Mapping[str, Tensor]) -> list[str]:
    """Take the body's weights from a torchvision ImageNet classifier.

    Returns:
        Names in `state` that were not used: the classifier's own.

    Raises:
        ModelError: a weight is missing or has another shape, or the backbone has no such weights.
    """
    name = detector.architecture.backbone
    prefix, eps = _CLASSIFIERS.get(name, (None, 0.0))
    if prefix is None:
        raise ModelError(
            f"There are no weights of torchvision's for the backbone {name}.",
            hint=f"Choose another backbone: {', '.join(_CLASSIFIERS)}.",
        )
    used = _load_body(detector, state, prefix, eps)
    return [key for key in state if key not in used]


def load_torchvision_detector(
    detector: Detector, state: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """Take what fits of torchvision's COCO `maskrcnn_resnet50_fpn`: body and pyramid convolutions.

    Its other parts have no counterpart: one proposal convolution and no norm where the published
    architecture has two with a norm each, no convolution before the box head's layers, and boxes,
    classes and masks of 91 classes.

    Returns:
        The detector's names that were filled, those that were left as they were, and names in
        `state` that were not used.

    Raises:
        ModelError: the backbone is not torchvision's resnet50, or the file does not hold it.
    """
    if detector.architecture.backbone != "resnet50":
        raise ModelError(
            f"torchvision's detector does not fit the backbone {detector.architecture.backbone}.",
            hint="It has resnet50.",
        )
    used = _load_body(detector, state, _DETECTOR_BODY, _DETECTOR_EPS)
    own = detector.state_dict()
    for key, value in state.items():
        target = _pyramid_name(key)
        if target in own and own[target].shape == value.shape:
            own[target].copy_(value)
            used[key] = target
    names = [name for name in own if not name.endswith(_COUNTER)]
    taken = set(used.values())
    return (
        [name for name in names if name in taken],
        [name for name in names if name not in taken],
        [key for key in state if key not in used and not key.endswith(_COUNTER)],
    )


def name_misfits(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Say which of `own` are missing from `found` or shaped otherwise there; empty if none."""
    missing = [name for name in own if name not in found]
    shaped = [
        f"{name} {tuple(found[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    said = [("missing", missing), ("of another shape", shaped)]
    return "; ".join(f"{len(names)} {what}: {first_few(names)}" for what, names in said if names)


def _load_body(
    detector: Detector, state: Mapping[str, Tensor], prefix: str, eps: float
) -> dict[str, str]:
    """Fill the body; returns the detector's name of every name in `state` that was used."""
    own = detector.backbone.body.state_dict()
    found = {name: state[prefix + name] for name in own if prefix + name in state}
    wanted = {name: value for name, value in own.items() if not name.endswith(_COUNTER)}
    if misfits := name_misfits(wanted, found):
        raise ModelError(
            f"The weights are not those of torchvision's {detector.architecture.backbone}: "
            f"{misfits}.",
            hint="Give the file that torchvision publishes for this backbone.",
        )
    for name, value in found.items():
        own[name].copy_(value)
    for name in own:
        if name.endswith(".running_var"):
            ratio = (own[name] + detector.architecture.norm_eps) / (own[name] + eps)
            own[name.removesuffix("running_var") + "weight"].mul_(torch.sqrt(ratio))
    return {prefix + name: f"backbone.body.{name}" for name in found}


def _pyramid_name(key: str) -> str:
    """The detector's name of a pyramid weight of torchvision's, in its old and new spelling."""
    match = re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?:0\.)?(weight|bias)", key)
    if match is None:
        return ""
    part = {"inner": "lateral", "layer": "post"}[match[1]]
    return f"backbone.{part}.{int(match[2]) + 2}.{match[3]}"


def first_few(names: list[str]) -> str:
    """Five names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
