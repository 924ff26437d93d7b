"""A model with random weights and a small LVIS truth with images, for tests of evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_clip import tiny_clip, tiny_config
from tiny_detector import tiny_card, tiny_detector
from tiny_training import rewrite, write_images

from vildcli.checkpoint import save_model
from vildcli.text.encoder import text_encoder_of, text_tower_state
from vildcli.text.open_clip_models import load_open_clip, save_open_clip


def save_clip(folder: Path) -> str:
    """Reference of a tiny CLIP with random weights."""
    model = tiny_clip(tiny_config())
    assert isinstance(model.logit_scale, torch.nn.Parameter)
    model.logit_scale.data.fill_(2.3)
    save_open_clip(folder, model, tiny_config())
    return f"local-dir:{folder}"


def save_student(path: Path, clip: str, system: str = "vild-ensemble", **card: Any) -> Path:
    """A tiny detector whose base categories are apple and pear."""
    encoder = text_encoder_of(load_open_clip(clip, offline=True))
    config, tower = text_tower_state(encoder)
    values = tiny_card(system, text_encoder=config, temperature=encoder.temperature, **card)
    save_model(path, tiny_detector(system), tower, values)
    return path


def lvis_truth(folder: Path, count: int = 3) -> Path:
    """LVIS JSON beside its images: apple (10) and pear (20) are base, plum (30) is rare."""

    def change(content: Any) -> None:
        for image in content["images"]:
            image["neg_category_ids"] = []
            image["not_exhaustive_category_ids"] = []

    return rewrite(write_images(folder, count), change)
