"""Weights kept for offline use: which files, where they lie, and fetching them.

They lie in the cache folder under `weights/`, where a person may put them as well.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from vildcli.errors import ModelError
from vildcli.runs import write_atomically
from vildcli.text.open_clip_weights import (
    SUFFIXES,
    cached_weights_name,
    download_open_clip,
    tag_settings,
    weights_folder,
)
from vildcli.vocabulary.wordnet import DOWNLOAD as WORDNET_ADDRESS
from vildcli.vocabulary.wordnet import download_wordnet, fetched_file

DETECTOR = "torchvision"  # Mask R-CNN trained on COCO, whose proposals clip-on-crops takes
IMAGENET = "imagenet"  # torchvision's classifier weights: resnet50:imagenet
WORDNET = "wordnet"  # no weights, but fetched for offline use all the same: expand reads it
BACKBONES = ("resnet50", "resnet152", "efficientnet_b7")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One download.

    Attributes:
        reference: what a command calls it: ARCHITECTURE:TAG, BACKBONE:imagenet, `torchvision` or
            `wordnet`.
        path: where it lies, or will lie.
        origin: where it comes from.
        is_present: whether it is there already.
    """

    reference: str
    path: Path
    origin: str
    is_present: bool


def plan_fetch(references: Sequence[str]) -> list[WeightsFile]:
    """Say what fetching would do; nothing is downloaded.

    Raises:
        ModelError: a reference without a tag, an unknown architecture or tag.
    """
    return [_planned(reference) for reference in references]


def fetch(file: WeightsFile) -> Path:
    """Download one file into the weights folder; a file that is there stays.

    Raises:
        ModelError: no network, or a download that is not what it should be.
    """
    if file.is_present:
        return file.path
    if file.reference == WORDNET:
        return download_wordnet()
    if _is_torchvision(file.reference):
        _download(file)
        return file.path
    architecture, _, tag = file.reference.partition(":")
    downloaded = download_open_clip(architecture, tag)
    target = file.path.with_name(cached_weights_name(architecture, tag) + downloaded.suffix)
    write_atomically(target, lambda beside: _copy(downloaded, beside))
    return target


def find_detector_weights(*, offline: bool = False) -> Path:
    """Find torchvision's Mask R-CNN: in the weights folder, torch's own cache, or by download.

    Raises:
        ModelError: not here, and the network is forbidden or fails.
    """
    return _find_torchvision(DETECTOR, offline)


def find_backbone_weights(backbone: str, *, offline: bool = False) -> Path:
    """Find torchvision's ImageNet weights of a backbone, as `find_detector_weights` does.

    Raises:
        ModelError: torchvision has none of it, or as there.
    """
    if backbone not in BACKBONES:
        raise ModelError(
            f"torchvision has no ImageNet weights of the backbone '{backbone}'.",
            hint=f"Train it with --init scratch, or choose one of {', '.join(BACKBONES)}.",
        )
    return _find_torchvision(f"{backbone}:{IMAGENET}", offline)


def _find_torchvision(reference: str, offline: bool) -> Path:
    import torch

    file = _torchvision_file(reference)
    by_torch = Path(torch.hub.get_dir()) / "checkpoints" / file.path.name
    if not file.is_present and by_torch.is_file():
        return by_torch
    if not file.is_present and offline:
        raise ModelError(
            f"The weights {_named(reference)} are not here, and the network is forbidden.",
            hint=_where_to_put(file),
        )
    return fetch(file)


def _planned(reference: str) -> WeightsFile:
    if reference == WORDNET:
        path = fetched_file()
        return WeightsFile(reference, path, WORDNET_ADDRESS, path.is_file())
    if _is_torchvision(reference):
        return _torchvision_file(reference)
    return _open_clip_file(reference)


def _is_torchvision(reference: str) -> bool:
    backbone, _, tag = reference.partition(":")
    return reference == DETECTOR or (backbone in BACKBONES and tag == IMAGENET)


def _named(reference: str) -> str:
    return "of torchvision's Mask R-CNN" if reference == DETECTOR else reference


def _open_clip_file(reference: str) -> WeightsFile:
    architecture, _, tag = reference.partition(":")
    if not tag:
        raise ModelError(f"'{reference}' names no public weights.", hint="Write ViT-B-32:openai.")
    settings = tag_settings(architecture, tag)
    name = cached_weights_name(architecture, tag)
    candidates = [weights_folder() / f"{name}{suffix}" for suffix in SUFFIXES]
    present = next((path for path in candidates if path.is_file()), None)
    origin = settings.get("hf_hub", "").rstrip("/") or settings.get("url", "")
    return WeightsFile(reference, present or candidates[0], origin, present is not None)


def _torchvision_file(reference: str) -> WeightsFile:
    from torchvision import models

    addresses = {
        DETECTOR: models.detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url,
        "resnet50:imagenet": models.ResNet50_Weights.IMAGENET1K_V1.url,
        "resnet152:imagenet": models.ResNet152_Weights.IMAGENET1K_V1.url,
        "efficientnet_b7:imagenet": models.EfficientNet_B7_Weights.IMAGENET1K_V1.url,
    }
    address = addresses[reference]
    path = weights_folder() / address.rsplit("/", 1)[1]
    return WeightsFile(reference, path, address, path.is_file())


def _download(file: WeightsFile) -> None:
    import torch

    # torchvision ends its file names with the first eight digits of the file's hash.
    digits = file.path.stem.rsplit("-", 1)[1]
    try:
        write_atomically(
            file.path,
            lambda beside: torch.hub.download_url_to_file(
                file.origin, str(beside), hash_prefix=digits, progress=False
            ),
        )
    except (URLError, OSError, RuntimeError) as error:
        raise ModelError(
            f"The weights {_named(file.reference)} cannot be downloaded: {error}.",
            hint=_where_to_put(file),
        ) from error


def _where_to_put(file: WeightsFile) -> str:
    return f"Run 'vildcli fetch' where there is a network and copy {file.path.name} to {file.path}"


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
