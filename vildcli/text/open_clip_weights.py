"""Weights of open_clip models: where they lie, how they are fetched, and what a file holds.

The weights of a public tag are looked for in vildcli's cache, then in the caches of the hubs, and
downloaded only when the network is allowed. Nothing is unpickled: TorchScript archives need the
user's word.
"""

from __future__ import annotations

import difflib
import logging
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from vildcli.assets import cache_folder
from vildcli.errors import ModelError

WEIGHTS_FILE = "open_clip_model.safetensors"
SUFFIXES = (".safetensors", ".pt", ".bin")
# Three buffers that only OpenAI's own archives carry.
OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
# What torch and safetensors raise for a file that is cut off, of another kind, or unsafe.
_UNREADABLE = (
    SafetensorError,
    UnpicklingError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
)


def weights_folder() -> Path:
    """Where `vildcli fetch` puts weights."""
    return cache_folder() / "weights"


def cached_weights_name(architecture: str, tag: str) -> str:
    """File name of a public tag's weights in the weights folder, without its suffix."""
    return f"{architecture}.{tag}"


def architecture_config(architecture: str) -> dict[str, Any]:
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if config is None:
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=3)
        meant = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ModelError(
            f"open_clip has no architecture '{architecture}'.",
            hint=f"{meant}A reference is ARCHITECTURE:TAG, ARCHITECTURE:FILE or a folder.",
        )
    return config


def tag_settings(architecture: str, tag: str) -> dict[str, Any]:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    architecture_config(architecture)
    settings: dict[str, Any] = get_pretrained_cfg(architecture, tag)
    if not settings:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise ModelError(f"{architecture} has no public weights '{tag}'.", hint=f"It has: {tags}.")
    return settings


def find_public_weights(architecture: str, tag: str, *, offline: bool, cache: Path) -> Path:
    for suffix in SUFFIXES:
        path = cache / (cached_weights_name(architecture, tag) + suffix)
        if path.is_file():
            return path
    if found := _in_hub_caches(tag_settings(architecture, tag)):
        return found
    if offline:
        raise ModelError(
            f"The weights {architecture}:{tag} are not here, and the network is forbidden.",
            hint=_where_to_put(architecture, tag, cache),
        )
    return download_open_clip(architecture, tag)


def download_open_clip(architecture: str, tag: str) -> Path:
    """Download the weights of a public tag into the hub's own cache, and return the file.

    Raises:
        ModelError: unknown architecture or tag, or no network.
    """
    from open_clip.pretrained import download_pretrained

    settings = tag_settings(architecture, tag)
    with quiet():
        try:
            return Path(download_pretrained(settings))
        # The hubs raise errors of many packages; OSError and RuntimeError are their roots.
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"The weights {architecture}:{tag} cannot be downloaded: {first_line(error)}.",
                hint=_where_to_put(architecture, tag, weights_folder()),
            ) from error


def read_state(path: Path, trust: bool) -> dict[str, Tensor]:
    from open_clip.factory import load_state_dict

    archive = _is_torchscript(path)
    if archive and not trust:
        raise ModelError(
            f"{path} is a TorchScript archive, and reading one runs code of the file.",
            hint="Use the .safetensors form of these weights.",
        )
    try:
        return dict(load_state_dict(str(path), weights_only=not archive))
    except _UNREADABLE as error:
        raise ModelError(f"{path} cannot be read as weights: {first_line(error)}.") from error
    except (AttributeError, TypeError, StopIteration) as error:
        raise ModelError(f"{path} holds no state dict.") from error


def is_openai_form(path: Path, state: Mapping[str, Tensor]) -> bool:
    """Whether weights are OpenAI's own: by name, buffers, archive or mix of precisions."""
    if any(".openai" in part for part in path.parts) or any(key in state for key in OPENAI_KEYS):
        return True
    if _is_torchscript(path):  # the buffers are lost in reading one
        return True
    first, norm = state.get("visual.conv1.weight"), state.get("ln_final.weight")
    halves = first is not None and first.dtype == torch.float16
    return halves and norm is not None and norm.dtype == torch.float32


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip's warnings and root-logger messages from the user; leave logging as it was."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers = list(root.handlers)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        # logging.info() on a root without handlers adds one, even where it is disabled.
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _in_hub_caches(settings: Mapping[str, Any]) -> Path | None:
    """A tag's file where open_clip itself would have left it."""
    from huggingface_hub import try_to_load_from_cache

    repository = settings.get("hf_hub", "").rstrip("/")
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin") if repository else ()
    for name in names:
        if isinstance(found := try_to_load_from_cache(repository, name), str):
            return Path(found)
    by_address = Path.home() / ".cache" / "clip" / Path(settings.get("url", "")).name
    # OpenAI's own archive is TorchScript, which is not read unasked.
    return by_address if by_address.is_file() and not _is_torchscript(by_address) else None


def _where_to_put(architecture: str, tag: str, cache: Path) -> str:
    target = cache / (cached_weights_name(architecture, tag) + ".safetensors")
    repository = tag_settings(architecture, tag).get("hf_hub", "").rstrip("/")
    origin = f" ({WEIGHTS_FILE} of {repository} on the Hugging Face Hub)" if repository else ""
    return f"Run 'vildcli fetch' where there is a network and copy the weights{origin} to {target}"


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
