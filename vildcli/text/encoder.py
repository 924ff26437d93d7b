"""Text encoders: sentences in, one embedding each out; open_clip's here, GloVe in `glove.py`.

CLIP's text tower is causal and reads the embedding at the end-of-text token. So the padding after a
sentence's end changes nothing, and what a position sees is decided by the tokens up to it: a prefix
that sentences share ("a photo of a", and of one name in two templates all of "a photo of a cat") is
computed once. Of 63 templates that leaves 4 of a sentence's 77 positions. Towers that see every
position get all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

_BATCH = 1024
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
        device = next(self.tower.parameters()).device
        for batch in torch.split(_in_order(tokens), _BATCH):
            if causal is None:
                found = getattr(self.tower, "encode_text", self.tower)(tokens[batch].to(device))
            elif _is_plain(causal):
                found = encode_prefixes(causal, tokens[batch])
            else:
                found = encode_cut(causal, _cut(causal, tokens[batch]).to(device))
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


def in_bfloat16(
    encoder: OpenClipTextEncoder | GloveTextEncoder,
) -> OpenClipTextEncoder:
    """The same encoder with weights in bfloat16, for good; its embeddings differ a little.

    Raises:
        VocabularyError: it has no weights.
    """
    if isinstance(encoder, GloveTextEncoder):
        raise VocabularyError(
            "GloVe's vectors are looked up, so there is no precision to choose.",
            hint="Leave --precision out.",
        )
    tower = encoder.tower.to(torch.bfloat16)
    return replace(encoder, tower=tower, identity=f"{encoder.identity}, bfloat16")


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


def _is_plain(tower: Any) -> bool:
    """Whether its blocks are those that `encode_prefixes` computes."""
    return all(
        type(block).__name__ == "ResidualAttentionBlock"
        and isinstance(block.attn, nn.MultiheadAttention)
        and block.attn.in_proj_weight is not None
        for block in tower.transformer.resblocks
    )


def _in_order(tokens: Tensor) -> Tensor:
    """Rows of sentences [P, T] in lexicographic order: those that share a prefix are neighbours."""
    columns = tokens.numpy().T[::-1]  # the last key decides first
    return torch.from_numpy(np.lexsort(columns))


def _cut(tower: Any, tokens: Tensor) -> Tensor:
    """Sentences [P, T] as long as the longest, without the padding that all have."""
    return tokens[:, : int(_end_of_text(tower, tokens).max()) + 1]


def embed_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """Embed sentences [P, T] of a model's tokenizer: [P, D], not normalised, with gradients."""
    causal = _causal_part(model)
    if causal:
        return encode_cut(causal, _cut(causal, tokens))
    found: Tensor = getattr(model, "encode_text", model)(tokens)
    return found


def encode_cut(tower: Any, tokens: Tensor) -> Tensor:
    """`encode_text` of tokens [P, T] with T below the context length, [P, D]."""
    length, dtype = tokens.shape[1], tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length].to(dtype))
    return _projected(tower, x[torch.arange(len(tokens)), _end_of_text(tower, tokens)])


def encode_prefixes(tower: Any, tokens: Tensor) -> Tensor:
    """`encode_text` of sentences [P, T] in lexicographic order, every distinct prefix once: [P, D].

    A state belongs to a prefix; only attention, which costs little, runs sentence by sentence.

    Args:
        tokens: on the CPU, wherever the tower is.
    """
    tokens = _cut(tower, tokens)
    ends = _end_of_text(tower, tokens)
    is_new, states = _prefixes(tokens, ends)
    last = states[torch.arange(len(tokens)), ends]
    place, new_tokens = is_new.nonzero()[:, 1], tokens[is_new]
    device, dtype = tower.positional_embedding.device, tower.transformer.get_cast_dtype()
    is_new, states = is_new.to(device), states.to(device)
    x = tower.token_embedding(new_tokens.to(device)).to(dtype)
    x = x + tower.positional_embedding[place.to(device)].to(dtype)
    for block in tower.transformer.resblocks:
        x = x + block.ls_1(_attend(block.attn, block.ln_1(x), is_new, states))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return _projected(tower, x[last.to(device)])


def _prefixes(tokens: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Where sentences [P, T] in order have a prefix that the one before lacks, and each one's row.

    Returns:
        [P, T] bool; [P, T] row of the prefix that ends there, any row after a sentence's end.
    """
    differs = torch.ones_like(tokens, dtype=torch.bool)
    differs[1:] = (tokens[1:] != tokens[:-1]).cumsum(1) > 0
    is_new = differs & (torch.arange(tokens.shape[1]) <= ends[:, None])
    rows = is_new.flatten().cumsum(0).view_as(tokens) - 1
    return is_new, rows.where(is_new, 0).cummax(dim=0).values


def _attend(attention: nn.MultiheadAttention, x: Tensor, is_new: Tensor, states: Tensor) -> Tensor:
    """Causal attention of each prefix [M, D] over those that it begins with."""
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    of_heads = (*states.shape, 3, attention.num_heads, attention.head_dim)
    query, key, value = projected[states].view(of_heads).permute(2, 0, 3, 1, 4)
    found = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    result: Tensor = attention.out_proj(found.transpose(1, 2)[is_new].flatten(1))
    return result


def _projected(tower: Any, states: Tensor) -> Tensor:
    """The embeddings [P, D] of the last layer's states at the end of text."""
    read: Tensor = tower.ln_final(states)
    projection: nn.Linear | Tensor | None = tower.text_projection
    if projection is None:
        return read
    return read @ projection if isinstance(projection, Tensor) else projection(read)
