"""Loading open_clip models: the one place that knows its names, its files and its traps.

    ViT-B-32:openai                 an architecture and a public tag
    ViT-B-32:/path/weights.pt       an architecture and a local file (.pt, .bin or .safetensors)
    local-dir:/folder, /folder      open_clip_config.json beside open_clip_model.safetensors

Weights are never random and never fetched behind the user's back: a tag's file is looked for in
vildcli's cache, then in the caches of the hubs, and downloaded only when the network is allowed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vildcli.errors import ModelError
from vildcli.runs import file_sha256, write_atomically, write_json
from vildcli.text.open_clip_weights import (
    OPENAI_KEYS,
    SUFFIXES,
    WEIGHTS_FILE,
    architecture_config,
    find_public_weights,
    first_line,
    is_openai_form,
    quiet,
    read_state,
    tag_settings,
    weights_folder,
)

Tokenizer = Callable[[list[str]], Tensor]

CONFIG_FILE = "open_clip_config.json"
_FOLDER_PREFIX = "local-dir:"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image encoder wants its pixels: RGB in 0-1, resized, (x - mean) / std."""

    image_size: tuple[int, int]  # height, width
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # bicubic, bilinear
    resize_mode: str  # shortest (then centre crop), squash, longest (then pad)


@dataclass(frozen=True, slots=True)
class LoadedClip:
    """A model with its weights, in eval mode, float32, on the CPU.

    Attributes:
        tokenizer: texts → token ids [P, context length], int64.
        config: open_clip's model configuration, QuickGELU resolved.
        identity: hash of configuration and weights; equal identities give equal embeddings.
        sha256: of the weights file.
        is_public_tag: whether the reference names weights that anybody can fetch.
    """

    model: nn.Module
    preprocessing: Preprocessing
    tokenizer: Tokenizer
    config: Mapping[str, Any]
    reference: str
    identity: str
    sha256: str
    is_public_tag: bool

    @property
    def temperature(self) -> float:
        """1 / logit scale."""
        scale: Any = self.model.logit_scale
        return float(torch.exp(-scale.detach().float().flatten()[0]))


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model comes from, before anything heavy is loaded."""

    reference: str
    name: str  # open_clip's own, of a built-in architecture or `local-dir:FOLDER`
    weights: Path
    config: dict[str, Any]
    preprocessing: Mapping[str, Any]
    is_public_tag: bool = False


def load_open_clip(
    reference: str,
    *,
    offline: bool = False,
    cache: Path | None = None,
    trust: bool = False,
) -> LoadedClip:
    """Load an open_clip model with its weights.

    Args:
        reference: see the top of this module.
        offline: never touch the network.
        cache: folder that holds the weights of tags; by default vildcli's cache folder / weights.
        trust: read a TorchScript archive too, the form of OpenAI's own files. It runs code of the
            file.

    Raises:
        ModelError: unknown architecture or tag; weights missing, damaged or of another
            architecture.
    """
    import open_clip

    with quiet():
        source = _find_source(reference, offline=offline, cache=cache or weights_folder())
        state = read_state(source.weights, trust)
        config = dict(source.config)
        if is_openai_form(source.weights, state):
            state = {key: value for key, value in state.items() if key not in OPENAI_KEYS}
            # OpenAI trained with QuickGELU; plain GELU loads as well and is silently worse.
            config["quick_gelu"] = True
        model = _build(source, config)
        _load_state(model, state, source)
        tokenizer = _tokenizer(source, offline)
        preprocess = open_clip.get_model_preprocess_cfg(model)
    sha256 = file_sha256(source.weights)
    identity = hashlib.sha256(f"{json.dumps(config, sort_keys=True)}{sha256}".encode()).hexdigest()
    return LoadedClip(
        model=model.eval().float().requires_grad_(False),
        preprocessing=_preprocessing(preprocess),
        tokenizer=tokenizer,
        config=config,
        reference=reference,
        identity=identity,
        sha256=sha256,
        is_public_tag=source.is_public_tag,
    )


def absolute_reference(reference: str) -> str:
    """The same reference, good from any working directory."""
    folder = Path(reference.removeprefix(_FOLDER_PREFIX))
    if folder.is_dir():
        return f"{_FOLDER_PREFIX}{folder.resolve()}"
    architecture, _, weights = reference.partition(":")
    path = Path(weights).expanduser()
    return f"{architecture}:{path.resolve()}" if path.is_file() else reference


def save_open_clip(folder: Path, model: nn.Module, config: Mapping[str, Any]) -> None:
    """Write a model so that `load_open_clip(folder)` reads it back.

    Args:
        config: open_clip's model configuration: embed_dim, vision_cfg, text_cfg, quick_gelu.
    """
    import open_clip

    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path))
    preprocess = open_clip.get_model_preprocess_cfg(model)
    write_json(folder / CONFIG_FILE, {"model_cfg": dict(config), "preprocess_cfg": preprocess})


def build_text_tower(config: Mapping[str, Any]) -> nn.Module:
    """An open_clip text tower with random weights, of a configuration as in `LoadedClip.config`."""
    from open_clip.model import _build_text_tower  # the one function that maps text_cfg to a tower

    tower: nn.Module = _build_text_tower(
        config["embed_dim"], dict(config["text_cfg"]), config.get("quick_gelu", False)
    )
    return tower


def simple_tokenizer(context_length: int) -> Tokenizer:
    """CLIP's own byte-pair tokenizer; its vocabulary is part of open_clip."""
    from open_clip import SimpleTokenizer

    tokenizer: Tokenizer = SimpleTokenizer(context_length=context_length)
    return tokenizer


def _find_source(reference: str, *, offline: bool, cache: Path) -> _Source:
    folder = Path(reference.removeprefix(_FOLDER_PREFIX))
    if reference.startswith(_FOLDER_PREFIX) or folder.is_dir():
        return _folder_source(reference, folder)
    architecture, _, weights = reference.partition(":")
    config = architecture_config(architecture)
    if not weights:
        raise ModelError(
            f"'{reference}' names no weights, and random ones are of no use.",
            hint=f"Write {architecture}:openai, {architecture}:WEIGHTS_FILE, or a folder.",
        )
    path = Path(weights).expanduser()
    if path.is_file():
        return _Source(reference, architecture, path, config, {})
    if path.suffix in SUFFIXES or "/" in weights:
        raise ModelError(f"There is no weights file {weights}.")
    settings = tag_settings(architecture, weights)
    config["quick_gelu"] = config.get("quick_gelu", False) or settings.get("quick_gelu", False)
    found = find_public_weights(architecture, weights, offline=offline, cache=cache)
    return _Source(reference, architecture, found, config, settings, is_public_tag=True)


def _folder_source(reference: str, folder: Path) -> _Source:
    config_file, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for path in (config_file, weights):
        if not path.is_file():
            raise ModelError(
                f"{folder} is not an open_clip model: it has no {path.name}.",
                hint=f"Such a folder holds {CONFIG_FILE} and {WEIGHTS_FILE}.",
            )
    try:
        written = json.loads(config_file.read_text(encoding="utf-8"))
        config, preprocessing = dict(written["model_cfg"]), written.get("preprocess_cfg", {})
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{config_file} is not an open_clip configuration: {error!r}.") from error
    return _Source(reference, f"{_FOLDER_PREFIX}{folder}", weights, config, preprocessing)


def _build(source: _Source, config: Mapping[str, Any]) -> nn.Module:
    import open_clip

    try:
        model: nn.Module = open_clip.create_model(
            source.name,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=bool(config.get("quick_gelu", False)),
            force_preprocess_cfg=dict(source.preprocessing),
        )
    except (RuntimeError, ValueError, TypeError, LookupError, ImportError) as error:
        raise ModelError(
            f"open_clip cannot build {source.reference}: {first_line(error)}."
        ) from error
    return model


def _load_state(model: nn.Module, state: dict[str, Tensor], source: _Source) -> None:
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    expected = model.state_dict()
    for key, tensor in expected.items():
        if key not in state:
            _refuse(source, f"it lacks {key}")
        # A scale may be stored as a number or as a vector of one.
        if state[key].numel() == tensor.numel() == 1:
            state[key] = state[key].reshape(tensor.shape)
        if state[key].shape != tensor.shape:
            _refuse(source, f"{key} is {tuple(state[key].shape)}, not {tuple(tensor.shape)}")
    # Old checkpoints store the row numbers of Hugging Face towers, which newer towers count
    # themselves.
    surplus = [k for k in state if k not in expected and not k.endswith("position_ids")]
    if surplus:
        _refuse(source, f"it has {surplus[0]} besides")
    model.load_state_dict({key: state[key] for key in expected})


def _refuse(source: _Source, why: str) -> None:
    raise ModelError(
        f"{source.weights} does not fit the architecture of {source.reference}: {why}.",
        hint="Name the architecture that these weights were trained with.",
    )


def _tokenizer(source: _Source, offline: bool) -> Tokenizer:
    import open_clip

    if offline and source.config["text_cfg"].get("hf_tokenizer_name"):
        raise ModelError(
            f"The tokenizer of {source.reference} comes over the network, which is forbidden.",
            hint="Use an architecture with CLIP's own tokenizer, such as ViT-B-32.",
        )
    try:
        tokenizer: Tokenizer = open_clip.get_tokenizer(source.name)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"The tokenizer of {source.reference} cannot be made: {first_line(error)}.",
            hint="This architecture's tokenizer needs the package transformers and its files.",
        ) from error
    return tokenizer


def _preprocessing(settings: Mapping[str, Any]) -> Preprocessing:
    size = settings["size"]
    height, width = (size, size) if isinstance(size, int) else size
    (r, g, b), (std_r, std_g, std_b) = settings["mean"], settings["std"]
    return Preprocessing(
        image_size=(int(height), int(width)),
        mean=(r, g, b),
        std=(std_r, std_g, std_b),
        interpolation=settings["interpolation"],
        resize_mode=settings["resize_mode"],
    )
