"""Text encoders: sentences in, one embedding each out; open_clip's here, GloVe in `glove.py`.

CLIP's text tower is causal and reads the embedding at the end-of-text token, so the padding after
the longest prompt of a batch can be cut without changing anything; with prompts sorted by length
that is several times faster than the 77 positions of `encode_text`. Towers that see every position
get all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vildcli.errors import ModelError, VocabularyError
from vildcli.text.glove import (
    BARE_NAME,
    GLOVE_PREFIX,
    KIND,
    GloveTextEncoder,
    glove_from_state,
    glove_state,
    load_glove,
)
from vildcli.text.open_clip_models import (
    LoadedClip,
    Tokenizer,
    build_text_tower,
    load_open_clip,
    simple_tokenizer,
)
from vildcli.text.templates import Prompts
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import names_of

_BATCH = 256
_TOWER_KEYS = (
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
    "cls_emb",
)


class TextEncoder(Protocol):
    """What makes text embeddings.

    Attributes:
        identity: hash of everything that decides an embedding.
        temperature: τ = 1 / logit scale, that its embeddings are scored with.
        width: D.
    """

    @property
    def identity(self) -> str: ...
    @property
    def temperature(self) -> float: ...
    @property
    def width(self) -> int: ...

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode sentences to [P, D], float32 on the CPU, not normalised.

        A row of zeros is a sentence of which the encoder knows no word.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpenClipTextEncoder:
    """The text side of an open_clip model.

    Attributes:
        tower: an open_clip model, or its text tower alone.
        config: open_clip's model configuration.
        public_reference: architecture:tag where the weights are public, else None.
    """

    tower: nn.Module
    tokenizer: Tokenizer
    config: Mapping[str, Any]
    identity: str
    temperature: float
    public_reference: str | None = None

    @property
    def width(self) -> int:
        return int(self.config["embed_dim"])

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode sentences to [P, D], float32 on the CPU, not normalised; equal ones once."""
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        embeddings = torch.empty(len(rows), self.width)
        if not rows:
            return embeddings
        tokens = self.tokenizer(list(rows))
        causal = _causal_part(self.tower)
        lengths = _end_of_text(causal, tokens) + 1 if causal else torch.zeros(len(tokens))
        device = next(self.tower.parameters()).device
        for batch in torch.split(torch.argsort(lengths, stable=True), _BATCH):
            chosen = tokens[batch].to(device)
            if causal:
                found = encode_cut(causal, chosen[:, : int(lengths[batch].max())])
            else:
                found = getattr(self.tower, "encode_text", self.tower)(chosen)
            embeddings[batch] = found.float().cpu()
        return embeddings[torch.tensor([rows[prompt] for prompt in prompts])]


def text_encoder_of(clip: LoadedClip) -> OpenClipTextEncoder:
    """The text encoder of a loaded model."""
    return OpenClipTextEncoder(
        tower=clip.model,
        tokenizer=clip.tokenizer,
        config=clip.config,
        identity=clip.identity,
        temperature=clip.temperature,
        public_reference=clip.reference if clip.is_public_tag else None,
    )


def load_text_encoder(
    reference: str, *, offline: bool = False, cache: Path | None = None, trust: bool = False
) -> OpenClipTextEncoder | GloveTextEncoder:
    """Load the text side of a model; arguments and errors of `load_open_clip`.

    `glove:FILE` names GloVe's word vectors instead; errors of `load_word_vectors`.
    """
    if reference.startswith(GLOVE_PREFIX):
        return load_glove(Path(reference.removeprefix(GLOVE_PREFIX)).expanduser())
    return text_encoder_of(load_open_clip(reference, offline=offline, cache=cache, trust=trust))


def usual_prompts(reference: str) -> str:
    """The shipped prompts that an encoder is used with unless others are asked for."""
    return BARE_NAME.name if reference.startswith(GLOVE_PREFIX) else "vild-63"


def refuse_sentences(encoder: TextEncoder, prompts: Prompts) -> None:
    """Refuse sentences for an encoder that reads bare names alone.

    Raises:
        VocabularyError: such an encoder and such prompts.
    """
    is_bare = prompts.fingerprint == BARE_NAME.fingerprint
    if isinstance(encoder, GloveTextEncoder) and not is_bare:
        raise VocabularyError(
            f"GloVe reads names and no sentences, as the prompts '{prompts.name}' are.",
            hint=f"Give --prompts {BARE_NAME.name}, or leave --prompts out.",
        )


def unread_words(
    encoder: TextEncoder, categories: Iterable[Category]
) -> dict[str, tuple[str, ...]]:
    """Names and synonyms that the encoder knows in part or not at all, and the words it lacks."""
    names = [name for category in categories for name in names_of(category)]
    return encoder.unread_words(names) if isinstance(encoder, GloveTextEncoder) else {}


def text_tower_state(
    encoder: TextEncoder, categories: Iterable[Category] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Describe an encoder for a model file: plain values, and tensors where not public.

    Args:
        categories: of GloVe's vectors, only those of these names travel.

    Raises:
        ModelError: its tokenizer is not CLIP's own and cannot travel.
    """
    if isinstance(encoder, GloveTextEncoder):
        return glove_state(encoder, categories)
    assert isinstance(encoder, OpenClipTextEncoder), f"{type(encoder)} does not travel"
    config: dict[str, Any] = {"identity": encoder.identity, "temperature": encoder.temperature}
    if encoder.public_reference is not None:
        return {**config, "reference": encoder.public_reference}, {}
    text = dict(encoder.config["text_cfg"])
    if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        raise ModelError(
            "A text tower with a Hugging Face tokenizer cannot travel in a model file."
        )
    config |= {
        "embed_dim": encoder.width,
        "text_cfg": text,
        "quick_gelu": bool(encoder.config.get("quick_gelu", False)),
    }
    state = {key.removeprefix("text."): value for key, value in encoder.tower.state_dict().items()}
    tensors = {k: v.detach().float().cpu() for k, v in state.items() if k.startswith(_TOWER_KEYS)}
    return config, tensors


def text_encoder_from_state(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, offline: bool = False
) -> OpenClipTextEncoder | GloveTextEncoder:
    """Rebuild an encoder from what `text_tower_state` gave.

    A public reference without an identity is of a model that does not say which weights of it it
    was made with: any are taken.

    Raises:
        ModelError: public weights that are missing or others than then, or tensors that do not fit.
    """
    if config.get("kind") == KIND:
        return glove_from_state(config, tensors)
    if reference := config.get("reference"):
        encoder = load_text_encoder(reference, offline=offline)
        if encoder.identity != config.get("identity", encoder.identity):
            raise ModelError(
                f"The weights of {reference} here are not those that the model was made with.",
                hint="Delete them and run 'vildcli fetch'.",
            )
        return encoder
    tower = build_text_tower(config)
    try:
        tower.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ModelError(
            f"The model's text tower is damaged: {str(error).splitlines()[-1].strip()}"
        ) from error
    return OpenClipTextEncoder(
        tower=tower.eval().requires_grad_(False),
        tokenizer=simple_tokenizer(config["text_cfg"].get("context_length", 77)),
        config=config,
        identity=config["identity"],
        temperature=config["temperature"],
    )


def _causal_part(model: nn.Module) -> Any:
    """The text tower where cutting its padding is exact, else None."""
    tower: Any = model if hasattr(model, "token_embedding") else getattr(model, "text", None)
    mask = getattr(tower, "attn_mask", None)
    if not isinstance(mask, Tensor) or _pool_type(tower) not in ("argmax", "eos"):
        return None
    if (
        getattr(tower, "cls_emb", None) is not None
        or getattr(tower, "output_tokens", False) is True
    ):
        return None
    later = torch.ones_like(mask).triu(1).bool()
    # 0 where a position may look, -inf at every later one.
    causal = torch.isneginf(mask[later]).all() and not mask[~later].any()
    return tower if causal else None


def _pool_type(tower: Any) -> str:
    return str(getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", ""))


def _end_of_text(tower: Any, tokens: Tensor) -> Tensor:
    """Position of the token whose embedding is read, [P] int64."""
    if _pool_type(tower) == "argmax":
        return tokens.argmax(dim=-1)
    end: int = getattr(tower, "text_eos_id", None) or tower.eos_id
    return torch.eq(tokens, end).int().argmax(dim=-1)


def embed_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """Embed sentences [P, T] of a model's tokenizer: [P, D], not normalised, with gradients."""
    causal = _causal_part(model)
    if causal:
        return encode_cut(causal, tokens[:, : int(_end_of_text(causal, tokens).max()) + 1])
    found: Tensor = getattr(model, "encode_text", model)(tokens)
    return found


def encode_cut(tower: Any, tokens: Tensor) -> Tensor:
    """`encode_text` of tokens [P, T] with T below the context length, [P, D]."""
    length, dtype = tokens.shape[1], tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length].to(dtype))
    x = tower.ln_final(x)
    read: Tensor = x[torch.arange(len(tokens)), _end_of_text(tower, tokens)]
    projection: nn.Linear | Tensor | None = tower.text_projection
    if projection is None:
        return read
    return read @ projection if isinstance(projection, Tensor) else projection(read)
