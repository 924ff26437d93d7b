from __future__ import annotations

import open_clip
import pytest
import torch
from tiny_clip import tiny_clip, tiny_config

from vildcli.errors import ModelError
from vildcli.text import encoder as encoder_module
from vildcli.text.encoder import (
    OpenClipTextEncoder,
    in_bfloat16,
    text_encoder_from_state,
    text_tower_state,
)
from vildcli.text.templates import load_prompts

PROMPTS = [
    "a photo of a cat.",
    "This is a low resolution photo of the hard to see aerosol can in the scene.",
    "x",
    "a photo of a cat.",
    "word " * 200,  # cut by the tokenizer at the context length
]


def make_encoder(custom_text: bool = False, **text) -> OpenClipTextEncoder:
    config = tiny_config(**text)
    return OpenClipTextEncoder(
        tower=tiny_clip(config, custom_text=custom_text),
        tokenizer=open_clip.SimpleTokenizer(context_length=77),
        config=config,
        identity="tiny",
        temperature=0.07,
    )


def reference(encoder: OpenClipTextEncoder, prompts: list[str]) -> torch.Tensor:
    with torch.inference_mode():
        return encoder.tower.encode_text(encoder.tokenizer(prompts))


def positions_seen(encoder: OpenClipTextEncoder) -> list[tuple[int, ...]]:
    """Tokens of every batch that the tower is asked to read: [P, T], or one a prefix."""
    seen: list[tuple[int, ...]] = []
    embed = encoder.tower.get_submodule(
        "token_embedding" if hasattr(encoder.tower, "token_embedding") else "text.token_embedding"
    )
    embed.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    return seen


@pytest.mark.parametrize("custom_text", [False, True])
def test_the_causal_cut_equals_encode_text(custom_text):
    encoder = make_encoder(custom_text)
    torch.testing.assert_close(
        encoder.encode(PROMPTS), reference(encoder, PROMPTS), atol=1e-5, rtol=0
    )


def test_a_prefix_that_sentences_share_is_read_once():
    encoder = make_encoder()
    seen = positions_seen(encoder)
    encoder.encode(["a cat", "a cat", "a cat in the rain", "dog"])
    # start, a, cat, end; in, the, rain, end; dog, end
    assert seen == [(10,)]


def test_batches_hold_sentences_of_like_beginning(monkeypatch):
    monkeypatch.setattr(encoder_module, "_BATCH", 2)
    encoder = make_encoder()
    seen = positions_seen(encoder)
    prompts = ["a b c d e f g", "x", "a b c d e f h", "y"]
    found = encoder.encode(prompts)
    assert seen == [(11,), (5,)]
    torch.testing.assert_close(found, reference(encoder, prompts), atol=1e-5, rtol=0)


def test_prefixes__equal_encode_text_for_many_names_and_templates():
    encoder = make_encoder()
    names = ["cat", "catapult", "dog house", "a", "cat in the rain"]
    prompts = [s for name in names for s in load_prompts("vild-63").sentences(name)]
    torch.testing.assert_close(
        encoder.encode(prompts), reference(encoder, prompts), atol=1e-5, rtol=0
    )


def test_blocks_that_are_computed_otherwise_are_cut_alone():
    encoder = make_encoder()
    for block in encoder.tower.transformer.resblocks:
        block.__class__ = type("OtherBlock", (type(block),), {})
    seen = positions_seen(encoder)
    found = encoder.encode(["a cat", "x"])
    assert seen == [(2, 4)]
    torch.testing.assert_close(found, reference(encoder, ["a cat", "x"]), atol=1e-5, rtol=0)


def test_in_bfloat16__is_nearly_the_same_and_says_so():
    encoder = make_encoder()
    exact = encoder.encode(PROMPTS)
    rounded = in_bfloat16(encoder)
    found = rounded.encode(PROMPTS)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, exact).min() > 0.999
    assert not torch.equal(found, exact)
    assert rounded.identity == "tiny, bfloat16"


def test_a_tower_that_sees_every_position_is_not_cut():
    encoder = make_encoder(custom_text=True, no_causal_mask=True)
    seen = positions_seen(encoder)
    found = encoder.encode(PROMPTS)
    assert [length for _, length in seen] == [77]
    torch.testing.assert_close(found, reference(encoder, PROMPTS), atol=1e-5, rtol=0)


def test_a_tower_that_reads_the_last_position_is_not_cut():
    encoder = make_encoder(custom_text=True, pool_type="last")
    found = encoder.encode(PROMPTS)
    torch.testing.assert_close(found, reference(encoder, PROMPTS), atol=1e-5, rtol=0)


def test_a_tower_that_reads_a_named_end_token_is_cut():
    encoder = make_encoder(custom_text=True, pool_type="eos", eos_id=49407)
    seen = positions_seen(encoder)
    found = encoder.encode(["a cat", "x"])
    assert seen == [(6,)]
    torch.testing.assert_close(found, reference(encoder, ["a cat", "x"]), atol=1e-5, rtol=0)


def test_a_class_token_forbids_the_cut():
    encoder = make_encoder(custom_text=True, embed_cls=True, context_length=77)
    found = encoder.encode(["a cat", "x"])
    torch.testing.assert_close(found, reference(encoder, ["a cat", "x"]), atol=1e-5, rtol=0)


def test_no_prompt_gives_no_row():
    assert make_encoder().encode([]).shape == (0, 16)


@pytest.mark.slow
def test_the_causal_cut_equals_encode_text_of_vit_b_32():
    config = open_clip.get_model_config("ViT-B-32")
    encoder = OpenClipTextEncoder(
        tiny_clip(config), open_clip.get_tokenizer("ViT-B-32"), config, "b32", 0.01
    )
    torch.testing.assert_close(
        encoder.encode(PROMPTS), reference(encoder, PROMPTS), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("custom_text", [False, True])
def test_a_text_tower_travels_in_a_model_file(custom_text):
    encoder = make_encoder(custom_text)
    config, tensors = text_tower_state(encoder)
    back = text_encoder_from_state(config, tensors)
    assert (back.identity, back.temperature, back.width) == ("tiny", 0.07, 16)
    assert not any(key.startswith("visual") for key in tensors)
    torch.testing.assert_close(back.encode(PROMPTS), encoder.encode(PROMPTS), atol=0, rtol=0)
    again, _ = text_tower_state(back)
    assert again == config


def test_a_public_tower_stays_outside_the_model_file():
    encoder = make_encoder()
    public = OpenClipTextEncoder(
        encoder.tower, encoder.tokenizer, encoder.config, "hash", 0.01, "ViT-B-32:openai"
    )
    assert text_tower_state(public) == (
        {"identity": "hash", "temperature": 0.01, "reference": "ViT-B-32:openai"},
        {},
    )


def test_other_public_weights_than_then_are_refused(monkeypatch):
    monkeypatch.setattr(
        encoder_module, "load_text_encoder", lambda reference, offline: make_encoder()
    )
    with pytest.raises(ModelError) as error:
        text_encoder_from_state({"reference": "ViT-B-32:openai", "identity": "then"}, {})
    assert str(error.value) == (
        "The weights of ViT-B-32:openai here are not those that the model was made with."
    )


def test_public_weights_are_taken_where_a_model_does_not_say_which(monkeypatch):
    encoder = make_encoder()
    monkeypatch.setattr(encoder_module, "load_text_encoder", lambda reference, offline: encoder)
    assert text_encoder_from_state({"reference": "ViT-B-32:openai"}, {}) is encoder


def test_a_damaged_tower_is_refused():
    config, tensors = text_tower_state(make_encoder())
    del tensors["ln_final.weight"]
    with pytest.raises(ModelError, match=r"text tower is damaged: .*ln_final\.weight"):
        text_encoder_from_state(config, tensors)
