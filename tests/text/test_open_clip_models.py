from __future__ import annotations

import logging
import warnings
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from open_clip.pretrained import get_pretrained_cfg
from safetensors.torch import save_file
from tiny_clip import tiny_clip, tiny_config

from vildcli.errors import ModelError
from vildcli.text import open_clip_weights
from vildcli.text.encoder import text_encoder_of
from vildcli.text.open_clip_models import LoadedClip, load_open_clip, save_open_clip

# A built-in name with tiny weights: the code path of ViT-B-32 at a thousandth of its size.
ARCHITECTURE = "ViT-B-32"


@pytest.fixture(autouse=True)
def tiny_built_in(tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, ARCHITECTURE, tiny_config())
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)


@pytest.fixture
def no_network(monkeypatch):
    def fail(settings):
        raise RuntimeError("the network was asked")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", fail)


def state(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**tiny_clip(tiny_config()).state_dict(), **more}


def safetensors(folder: Path, name: str = "weights.safetensors", **more: torch.Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state(**more), folder / name)
    return folder / name


def refusal(reference: str, **options) -> ModelError:
    with pytest.raises(ModelError) as error:
        load_open_clip(reference, **options)
    assert "\n" not in str(error.value)
    return error.value


def is_quick_gelu(clip: LoadedClip) -> bool:
    kinds = {type(module).__name__ for module in clip.model.modules()}
    assert ("QuickGELU" in kinds) != ("GELU" in kinds)
    return "QuickGELU" in kinds


def test_a_folder_is_read_back_as_it_was_saved(tmp_path):
    config = tiny_config()
    model = tiny_clip(config)
    model.logit_scale.data.fill_(2.0)
    save_open_clip(tmp_path / "model", model, config)
    for reference in (str(tmp_path / "model"), f"local-dir:{tmp_path / 'model'}"):
        clip = load_open_clip(reference, offline=True)
        assert clip.temperature == pytest.approx(torch.exp(torch.tensor(-2.0)).item())
        assert not clip.is_public_tag
        assert not clip.model.training
        assert not any(p.requires_grad for p in clip.model.parameters())
        tokens = clip.tokenizer(["a cat"])
        assert torch.equal(clip.model.encode_text(tokens), model.encode_text(tokens))
        pixels = torch.rand(1, 3, 32, 32)
        assert torch.equal(clip.model.encode_image(pixels), model.encode_image(pixels))
    assert clip.preprocessing.image_size == (32, 32)
    assert clip.preprocessing.resize_mode == "shortest"
    assert text_encoder_of(clip).width == 16
    assert clip.identity == load_open_clip(str(tmp_path / "model")).identity


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_local_file_of_an_architecture(tmp_path, wrapped):
    path = tmp_path / "weights.pt"
    content = {"state_dict": {f"module.{k}": v for k, v in state().items()}} if wrapped else state()
    torch.save(content, path)
    clip = load_open_clip(f"{ARCHITECTURE}:{path}", offline=True)
    assert not is_quick_gelu(clip)
    assert torch.equal(clip.model.state_dict()["ln_final.weight"], state()["ln_final.weight"])


def test_a_tag_is_taken_from_the_cache_folder_with_its_own_activation(tmp_path, no_network):
    safetensors(tmp_path / "cache" / "weights", f"{ARCHITECTURE}.openai.safetensors")
    clip = load_open_clip(f"{ARCHITECTURE}:openai")
    assert clip.is_public_tag
    assert is_quick_gelu(clip)  # open_clip itself only warns, and loads it with GELU
    assert clip.preprocessing.mean == get_pretrained_cfg(ARCHITECTURE, "openai")["mean"]
    assert text_encoder_of(clip).public_reference == f"{ARCHITECTURE}:openai"


def test_a_tag_is_taken_from_the_hub_cache(tmp_path, monkeypatch, no_network):
    path = safetensors(tmp_path / "hub", open_clip_weights.WEIGHTS_FILE)
    asked = []

    def cached(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert is_quick_gelu(load_open_clip(f"{ARCHITECTURE}:openai", offline=True))
    assert asked == [("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")]


def test_offline_never_asks_the_network(tmp_path, no_network):
    error = refusal(f"{ARCHITECTURE}:openai", offline=True)
    assert str(error) == "The weights ViT-B-32:openai are not here, and the network is forbidden."
    assert error.hint == (
        "Run 'vildcli fetch' where there is a network and copy the weights "
        "(open_clip_model.safetensors of timm/vit_base_patch32_clip_224.openai on the Hugging Face "
        f"Hub) to {tmp_path / 'cache' / 'weights' / 'ViT-B-32.openai.safetensors'}"
    )


def test_a_failing_download_says_what_to_put_where(tmp_path, no_network):
    error = refusal(f"{ARCHITECTURE}:openai")
    assert str(error) == (
        "The weights ViT-B-32:openai cannot be downloaded: the network was asked."
    )
    assert str(tmp_path / "cache" / "weights" / "ViT-B-32.openai.safetensors") in (error.hint or "")


@pytest.mark.parametrize("how", ["keys", "half", "name"])
def test_openai_s_own_weights_are_loaded_with_quick_gelu(tmp_path, how):
    path, content = tmp_path / "weights.pt", state()
    if how == "keys":
        content |= {
            k: torch.tensor(77) for k in ("input_resolution", "context_length", "vocab_size")
        }
    elif how == "half":
        content = {k: v.half() if "ln_" not in k else v for k, v in content.items()}
    else:
        path = tmp_path / "ViT-B-32.openai.pt"
    torch.save(content, path)
    clip = load_open_clip(f"{ARCHITECTURE}:{path}", offline=True)
    assert is_quick_gelu(clip)
    assert all(p.dtype == torch.float32 for p in clip.model.parameters())


def test_the_activation_is_part_of_the_identity(tmp_path):
    path = safetensors(tmp_path)
    plain = load_open_clip(f"{ARCHITECTURE}:{path}")
    renamed = path.rename(tmp_path / "w.openai.safetensors")
    quick = load_open_clip(f"{ARCHITECTURE}:{renamed}")
    assert plain.sha256 == quick.sha256
    assert plain.identity != quick.identity


def torchscript(path: Path) -> Path:
    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for key, value in state(vocab_size=torch.tensor(49408)).items():
                owner = self
                *parents, name = key.split(".")
                for parent in parents:
                    if not hasattr(owner, parent):
                        owner.add_module(parent, torch.nn.Module())
                    owner = getattr(owner, parent)
                owner.register_buffer(name, value.detach())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Holder()), path)
    return path


def test_a_torchscript_archive_needs_trust(tmp_path):
    path = torchscript(tmp_path / "ViT-B-32.pt")
    error = refusal(f"{ARCHITECTURE}:{path}")
    assert str(error) == (
        f"{path} is a TorchScript archive, and reading one runs code of the file."
    )
    assert is_quick_gelu(load_open_clip(f"{ARCHITECTURE}:{path}", trust=True))


def test_random_weights_are_refused():
    error = refusal(ARCHITECTURE)
    assert str(error) == "'ViT-B-32' names no weights, and random ones are of no use."
    assert error.hint == "Write ViT-B-32:openai, ViT-B-32:WEIGHTS_FILE, or a folder."


def test_unknown_architectures_tags_and_files_are_refused(tmp_path):
    error = refusal("ViT-B-23:openai")
    assert str(error) == "open_clip has no architecture 'ViT-B-23'."
    assert "Did you mean" in (error.hint or "")
    error = refusal(f"{ARCHITECTURE}:opanai")
    assert str(error) == "ViT-B-32 has no public weights 'opanai'."
    assert "openai" in (error.hint or "")
    assert str(refusal(f"{ARCHITECTURE}:/gone/w.pt")) == "There is no weights file /gone/w.pt."
    assert str(refusal(f"local-dir:{tmp_path}")) == (
        f"{tmp_path} is not an open_clip model: it has no open_clip_config.json."
    )


def test_weights_of_another_architecture_are_refused_by_key(tmp_path):
    path = safetensors(tmp_path, text_projection=torch.zeros(16, 8))
    assert str(refusal(f"{ARCHITECTURE}:{path}")) == (
        f"{path} does not fit the architecture of {ARCHITECTURE}:{path}: "
        "text_projection is (16, 8), not (16, 16)."
    )
    path = safetensors(tmp_path, surplus=torch.zeros(1))
    assert "it has surplus besides." in str(refusal(f"{ARCHITECTURE}:{path}"))
    partial = state()
    del partial["ln_final.bias"]
    save_file(partial, path)
    assert "it lacks ln_final.bias." in str(refusal(f"{ARCHITECTURE}:{path}"))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_damaged_weights_are_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert str(refusal(f"{ARCHITECTURE}:{path}")).startswith(f"{path} ")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Trap()}, tmp_path / "w.pt")
    refusal(f"{ARCHITECTURE}:{tmp_path / 'w.pt'}")
    assert not (tmp_path / "ran").exists()


def test_a_broken_configuration_is_refused(tmp_path):
    safetensors(tmp_path, open_clip_weights.WEIGHTS_FILE)
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert "is not an open_clip configuration: KeyError('model_cfg')" in str(refusal(str(tmp_path)))


def test_loading_leaves_logging_as_it_was(tmp_path, capsys):
    path = safetensors(tmp_path)
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    load_open_clip(f"{ARCHITECTURE}:{path}")
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, disabled)
    assert capsys.readouterr() == ("", "")
