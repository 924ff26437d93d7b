"""A training set of rectangles on grey, with a teacher cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_detector import WIDTH
from torch import Tensor

from vildcli.data.lvis import AnnotatedImage, load_annotations
from vildcli.data.training_set import Augmentation, TrainingSet
from vildcli.teacher.cache import TeacherCache, embed_proposals, fill_cache
from vildcli.teacher.crops import CropRecipe, ImageEncoder
from vildcli.training.recipe import Recipe

NOVEL_ID = 30
COLUMNS = {10: 0, 20: 1}  # base categories; 30 is column 2
GREY = (124.0, 116.0, 104.0)


def write_images(folder: Path, count: int = 4) -> Path:
    """A JSON and `count` images of 60 x 50 with one object of each category."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(count):
        pixels = np.full((50, 60, 3), 100, np.uint8)
        for k, category in enumerate((10, 20, NOVEL_ID)):
            x, y, w, h = 4 + 18 * k, 5 + 3 * i, 14, 20
            pixels[y : y + h, x : x + w, k] = 250
            annotations.append(annotation(len(annotations) + 1, i + 1, category, [x, y, w, h]))
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 60, "height": 50})
    categories = [
        {"id": 10, "name": "apple", "frequency": "f"},
        {"id": 20, "name": "pear", "frequency": "c"},
        {"id": NOVEL_ID, "name": "plum", "frequency": "r"},
    ]
    path = folder / "train.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def annotation(number: int, image: int, category: int, bbox: list[float]) -> dict[str, Any]:
    x, y, w, h = bbox
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "area": w * h,
        "segmentation": [corners],
        "iscrowd": 0,
    }


def rewrite(path: Path, change: Any) -> Path:
    """Let `change` edit the JSON; images stay."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def tiny_cache(folder: Path, image_ids: list[int]) -> TeacherCache:
    projection = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))

    def encode(pixels: Tensor) -> Tensor:
        return torch.cat([pixels.mean((2, 3)), pixels.std((2, 3)) + 1], 1) @ projection

    recipe = CropRecipe(8, (0.5,) * 3, (0.5,) * 3)
    images = [AnnotatedImage(i, f"{i - 1}.png", 60, 50) for i in image_ids]  # of write_images
    boxes = torch.tensor([[4.0, 5, 18, 25], [22, 5, 36, 40], [0, 0, 60, 50]])
    fill_cache(
        folder,
        images,
        folder.parent,
        regions_of=embed_proposals(
            lambda image, pixels: boxes,
            ImageEncoder(encode, recipe, 0.1, "stub", torch.device("cpu")),
        ),
        advance=lambda count=1, text=None: None,
    )
    return TeacherCache(folder, images, folder.parent)


def tiny_set(
    path: Path, teacher: TeacherCache | None = None, limits: tuple[float, float] = (0.8, 1.2)
) -> TrainingSet:
    return TrainingSet(
        load_annotations(path),
        path.parent,
        COLUMNS,
        Augmentation(64, limits, GREY),
        seed=0,
        teacher=teacher,
    )


def tiny_recipe(**changes: Any) -> Recipe:
    values = {
        "summary": "a test's",
        "steps": 4,
        "batch": 2,
        "optimiser": "adamw",
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "drops": (),
        "weight_decay": 1e-2,
        "regions": 16,
        "proposals": 24,
        "mask_regions": 128,
        "jitter": (0.8, 1.2),
        "box_weight": 1.0,
        "distillation_weight": 0.5,
        "clip_norm": 10.0,
        "checkpoint_every": 2,
    }
    return Recipe(**{**values, **changes})
