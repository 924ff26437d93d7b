"""The teacher of the small world: which captions are true of a crop; open_clip reads it back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from vildcli.teacher.adapt import open_norms
from vildcli.teacher.crops import embed_regions
from vildcli.teacher.encoder import image_encoder_of
from vildcli.text.encoder import text_encoder_of
from vildcli.text.open_clip_models import load_open_clip
from vildcli.world.teacher import (
    MODEL_CONFIG,
    TRANSFORMER,
    CaptionedCrop,
    _Truth,
    teacher_steps,
    train_teacher,
)
from vildcli.world.world import draw_world

BOX = (0.0, 0.0, 8.0, 8.0)
IMAGE = torch.zeros(3, 16, 16, dtype=torch.uint8)


def crop(name: str, colour: str | None, caption: str) -> CaptionedCrop:
    return CaptionedCrop(IMAGE, BOX, name, colour, caption)


def test_truth__the_same_name_and_no_other_colour_said() -> None:
    crops = [
        crop("apple", "red", "a photo of a red apple"),
        crop("apple", "green", "a photo of an apple"),
        crop("apple", "green", "a green apple"),
        crop("pear", "green", "a green pear"),
        crop("grass", None, "a photo of grass"),
    ]
    truth = _Truth(crops).of(np.arange(5)).int().tolist()
    assert truth == [
        [1, 1, 0, 0, 0],  # the red apple: its own caption, and the one that says no colour
        [0, 1, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_teacher_steps__grow_with_the_categories() -> None:
    assert (teacher_steps(60), teacher_steps(240)) == (560, 2240)


def test_train_teacher__open_clip_reads_it_back(tmp_path: Path) -> None:
    world = draw_world(tmp_path / "world", images=1, val_images=1, caption_images=24)
    seen: list[str | None] = []
    train_teacher(
        world.captions_json,
        world.caption_images,
        tmp_path / "teacher",
        steps=2,
        width=8,
        advance=lambda steps=1, note=None: seen.append(note),
    )
    assert len(seen) == 2
    config = json.loads((tmp_path / "teacher" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["width"] == 8
    assert MODEL_CONFIG["vision_cfg"]["width"] == 16  # the demo's stays as it is
    clip = load_open_clip(f"local-dir:{tmp_path / 'teacher'}", offline=True)
    encoder = image_encoder_of(clip, torch.device("cpu"))
    assert (encoder.recipe.size, encoder.recipe.fit) == (64, "crop")
    regions = embed_regions(IMAGE, torch.tensor([BOX]), encoder)
    texts = text_encoder_of(clip).encode(["a photo of an apple"])
    assert regions.shape == texts.shape == (1, 128)


def test_train_teacher__a_transformer_has_norms_to_adapt(tmp_path: Path) -> None:
    world = draw_world(tmp_path / "world", images=1, val_images=1, caption_images=24)
    train_teacher(
        world.captions_json,
        world.caption_images,
        tmp_path / "teacher",
        steps=1,
        tower="transformer",
        advance=lambda steps=1, note=None: None,
    )
    clip = load_open_clip(f"local-dir:{tmp_path / 'teacher'}")
    found = open_norms(clip, "both")
    width, blocks = TRANSFORMER["width"], TRANSFORMER["layers"]
    assert sum(p.numel() for p in found.vision) == 2 * width * (2 * blocks + 2)
