"""Tiny open_clip models with random weights, for tests."""

from __future__ import annotations

from typing import Any

import open_clip
import torch


def tiny_config(**text: Any) -> dict[str, Any]:
    return {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
            **text,
        },
    }


def tiny_clip(config: dict[str, Any], *, custom_text: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    model = kind(**config).eval()
    for parameter in model.parameters():  # open_clip's own initialisation makes all texts alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model
