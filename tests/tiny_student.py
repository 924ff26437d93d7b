"""Model files small enough for a test: a CLIP with random weights, and a student of it."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_clip import tiny_clip, tiny_config
from tiny_detector import tiny_card, tiny_detector

from vildcli.checkpoint import save_model
from vildcli.text.encoder import text_encoder_of, text_tower_state
from vildcli.text.open_clip_models import load_open_clip, save_open_clip


def save_clip(folder: Path, shift: float = 0.0) -> str:
    model = tiny_clip(tiny_config())
    assert isinstance(model.logit_scale, torch.nn.Parameter)
    model.logit_scale.data.fill_(2.3 + shift)
    save_open_clip(folder, model, tiny_config())
    return f"local-dir:{folder}"


def save_student(path: Path, clip: str, system: str = "vild-ensemble") -> Path:
    encoder = text_encoder_of(load_open_clip(clip, offline=True))
    config, tower = text_tower_state(encoder)
    card = tiny_card(system, text_encoder=config, temperature=encoder.temperature)
    save_model(path, tiny_detector(system), tower, card)
    return path
