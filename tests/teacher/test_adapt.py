from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from tiny_clip import tiny_clip, tiny_config
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.errors import ModelError
from vildcli.teacher import adapt
from vildcli.teacher.adapt import Loss, _embed_names, accumulate, open_norms


def loaded(model: Any) -> Any:
    return SimpleNamespace(model=model, reference="it")


def count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def resnet_config() -> dict[str, Any]:
    config = tiny_config()
    config["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    return config


@pytest.fixture(scope="module")
def vit_b_32() -> Any:
    """open_clip's own architecture; its random weights are not even drawn."""
    with torch.device("meta"):
        return open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))


def test_open_norms__of_vit_b_32_are_the_published_numbers(vit_b_32: Any) -> None:
    norms = open_norms(loaded(vit_b_32), "both")
    assert (count(norms.vision), count(norms.text)) == (39_936, 25_600)
    trained = {name for name, p in vit_b_32.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in vit_b_32.named_parameters() if "ln_" in name}
    assert len(trained) == 2 * (26 + 25)
    norms = open_norms(loaded(vit_b_32), "vision")
    assert (count(norms.vision), count(norms.text)) == (39_936, 0)
    assert count(p for p in vit_b_32.parameters() if p.requires_grad) == 39_936


@pytest.mark.parametrize("custom_text", [False, True])
def test_open_norms__of_other_models_by_the_same_rule(custom_text: bool) -> None:
    model = tiny_clip(tiny_config(), custom_text=custom_text)
    norms = open_norms(loaded(model), "both")
    assert (count(norms.vision), count(norms.text)) == (4 * 2 * 64, 5 * 2 * 16)


def test_open_norms__a_tower_without_any_is_refused() -> None:
    model = tiny_clip(resnet_config())
    for towers in ("both", "vision"):
        with pytest.raises(ModelError) as error:
            open_norms(loaded(model), towers)  # type: ignore[arg-type]
        assert str(error.value) == (
            "The vision tower of it is a ModifiedResNet without a LayerNorm, and LayerNorms are "
            "all that adaptation trains."
        )
        assert error.value.hint == "Give a teacher of transformers, such as ViT-B-32:openai."


def tokens_and_crops() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = open_clip.SimpleTokenizer()(["a photo of a cat", "a photo of a dog", "a photo of it"])
    return tokens, torch.randn(5, 3, 32, 32, generator=generator), torch.tensor([0, 2, 1, 1, 0])


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_accumulate__in_parts_is_the_gradient_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    model: Any = tiny_clip(tiny_config())
    model.logit_scale.data.fill_(1.0)
    norms = open_norms(loaded(model), "both").all
    tokens, crops, columns = tokens_and_crops()
    images = normalize(model.encode_image(crops), dim=-1)
    texts = normalize(model.encode_text(tokens), dim=-1)
    logits = model.logit_scale.exp() * images @ texts.T
    if loss == "softmax":
        whole = -logits.log_softmax(1)[torch.arange(5), columns].mean()
    else:
        p, wanted = logits.sigmoid(), torch.eye(3)[columns]
        whole = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    expected = torch.autograd.grad(whole, norms)
    monkeypatch.setattr(adapt, "BATCH", 2)
    found = accumulate(model, crops, columns, _embed_names(model, tokens, 1), loss)
    assert found == pytest.approx(whole.item(), rel=1e-4)
    for parameter, gradient in zip(norms, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)
    assert model.logit_scale.grad is None


def test_accumulate__a_closed_text_tower_gets_no_gradient() -> None:
    model: Any = tiny_clip(tiny_config())
    norms = open_norms(loaded(model), "vision")
    tokens, crops, columns = tokens_and_crops()
    accumulate(model, crops, columns, _embed_names(model, tokens, 1), "sigmoid")
    assert all(p.grad is not None for p in norms.vision)
    assert all(p.grad is None for p in model.transformer.parameters())


def test_embed_names__the_mean_over_templates_then_unit_norm() -> None:
    model: Any = tiny_clip(tiny_config())
    sentences = ["a cat", "the big cat", "a dog", "the big dog"]
    tokens = open_clip.SimpleTokenizer()(sentences)
    with torch.no_grad():
        found = _embed_names(model, tokens, 2).numpy()
        each = model.encode_text(tokens).numpy()
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    expected = each.reshape(2, 2, -1).mean(1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
