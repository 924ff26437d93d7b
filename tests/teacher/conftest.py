"""A teacher, a model and a data set that are small enough to run the whole command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_clip, tiny_config
from tiny_detector import tiny_card, tiny_detector
from tiny_training import write_images

from vildcli.checkpoint import save_model
from vildcli.text.encoder import text_encoder_of, text_tower_state
from vildcli.text.open_clip_models import load_open_clip, save_open_clip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """Reference of a tiny CLIP with random weights."""
    save_open_clip(tmp_path / "clip", tiny_clip(tiny_config()), tiny_config())
    return f"local-dir:{tmp_path / 'clip'}"


@pytest.fixture
def student(tmp_path: Path, clip: str) -> Path:
    """A model file whose first stage proposes at random."""
    encoder = text_encoder_of(load_open_clip(clip, offline=True))
    config, tower = text_tower_state(encoder)
    card = tiny_card("vild-text", text_encoder=config, temperature=encoder.temperature)
    save_model(tmp_path / "student.safetensors", tiny_detector("vild-text"), tower, card)
    return tmp_path / "student.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Annotations of four images, beside them."""
    return write_images(tmp_path / "photos")
