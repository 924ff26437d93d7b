"""The small world's vision-language model: a small open_clip CLIP trained on captioned crops.

It stands for CLIP: it knows every category, base and novel, through text alone, as CLIP knows them
from the web. Saved in open_clip's own folder form, so it is read like any other teacher
(`local-dir:FOLDER`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vildcli.console import Advance
from vildcli.errors import DataError
from vildcli.teacher.crops import CropRecipe, cut_crop
from vildcli.text.encoder import encode_cut
from vildcli.text.open_clip_models import save_open_clip

INPUT_SIZE = 64
WIDTH = 16  # channels of the image tower's first stage
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": INPUT_SIZE, "layers": [1, 1, 1, 1], "width": WIDTH},
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
    },
}
# A tower with LayerNorms, which the other has none of: what EZSD's adaptation trains.
TRANSFORMER: dict[str, Any] = {
    "image_size": INPUT_SIZE,
    "layers": 3,
    "width": 96,
    "head_width": 32,
    "patch_size": 8,
}
Tower = Literal["resnet", "transformer"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
STEPS_A_NAME, BATCH, LEARNING_RATE = 28 / 3, 128, 3e-3  # 560 steps for the 60 shapes
MAX_LOGIT_SCALE = 100.0  # CLIP's own clip
JITTER = 0.12  # of a side: proposals are not centred on objects
FACTORS = (0.9, 1.6)  # the teacher is asked about 1x and 1.5x crops


@dataclass(frozen=True, slots=True)
class CaptionedCrop:
    """A box of an image [3, H, W] uint8 with a sentence that may leave the colour out."""

    image: Tensor
    box: tuple[float, float, float, float]
    name: str
    colour: str | None
    caption: str

    @property
    def said_colour(self) -> str | None:
        return self.colour if self.colour and self.colour in self.caption.split() else None


def train_teacher(
    captions_json: Path,
    images: Path,
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    width: int = WIDTH,
    tower: Tower = "resnet",
    device: torch.device | None = None,
    advance: Advance,
) -> None:
    """Train on captioned crops and write open_clip's own folder form to `out`.

    Args:
        captions_json, images: as `draw_world` writes them.
        out: a folder.
        seed: of everything random.
        steps: of 128 crops; by default as many as the number of categories asks for.
        width: of the residual image tower; more for more categories than the shapes.
        tower: that sees images; `transformer` has LayerNorms, which EZSD adapts.
        device: to train on, the CPU by default; crops are cut on the CPU in any case.
        advance: called after each step.
    """
    crops = read_captions(captions_json, images)
    if steps is None:
        steps = teacher_steps(len({crop.name for crop in crops if crop.colour}))
    torch.manual_seed(seed)
    config = {**MODEL_CONFIG, "vision_cfg": _vision(tower, width)}
    model = open_clip.CLIP(**config).to(device)
    tokens = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])(
        [crop.caption for crop in crops]
    )
    tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1]  # causal tower: the padding says nothing
    truth = _Truth(crops)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    model.to(memory_format=torch.channels_last).train()  # a third faster on CPU
    for step in range(steps):
        rows = rng.choice(len(crops), BATCH, replace=False)
        pixels = _normalise(torch.stack([_augmented(crops[i], rng) for i in rows]))
        batch = (part.to(device) for part in (pixels, tokens[rows], truth.of(rows)))
        loss = _contrastive_step(model, *batch)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(MAX_LOGIT_SCALE)))
        advance(1, f"loss {loss.item():.2f}" if step % 10 == 0 else None)
    save_open_clip(out, model.cpu().eval(), config)


def _vision(tower: Tower, width: int) -> dict[str, Any]:
    return TRANSFORMER if tower == "transformer" else {**MODEL_CONFIG["vision_cfg"], "width": width}


def teacher_steps(categories: int) -> int:
    """Steps in which the teacher learns that many categories' names."""
    return round(STEPS_A_NAME * categories)


def read_captions(captions_json: Path, images: Path) -> list[CaptionedCrop]:
    """Read captioned crops with their images in memory.

    Raises:
        DataError: the file has no captions.
    """
    rows = json.loads(captions_json.read_text(encoding="utf-8"))
    if not rows:
        raise DataError(f"{captions_json} has no captions.")
    pixels: dict[str, Tensor] = {}
    for name in {row["file_name"] for row in rows}:
        with Image.open(images / name) as image:
            pixels[name] = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return [
        CaptionedCrop(
            pixels[row["file_name"]],
            _corners(row["bbox"]),
            row["name"],
            row["colour"],
            row["caption"],
        )
        for row in rows
    ]


def _corners(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height


class _Truth:
    """Which captions of a batch are true of which crops: the same name, no other colour said."""

    def __init__(self, crops: Sequence[CaptionedCrop]) -> None:
        names = {name: i for i, name in enumerate(sorted({c.name for c in crops}))}
        colours = {c: i for i, c in enumerate(sorted({c.colour for c in crops if c.colour}))}
        self.names = torch.tensor([names[c.name] for c in crops])
        self.colours = torch.tensor([colours.get(c.colour or "", -1) for c in crops])
        self.said = torch.tensor([colours.get(c.said_colour or "", -1) for c in crops])

    def of(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """[M, M] bool: row a crop, column a caption."""
        names, colours, said = self.names[rows], self.colours[rows], self.said[rows]
        same_name = names[:, None] == names[None]
        return same_name & ((said[None] == -1) | (colours[:, None] == said[None]))


def _augmented(crop: CaptionedCrop, rng: np.random.Generator) -> Tensor:
    x1, y1, x2, y2 = crop.box
    dx, dy = rng.uniform(-JITTER, JITTER, 2) * (x2 - x1, y2 - y1)
    recipe = CropRecipe(INPUT_SIZE, MEAN, STD)
    box = (x1 + dx, y1 + dy, x2 + dx, y2 + dy)
    pixels = cut_crop(crop.image, box, rng.uniform(*FACTORS), recipe)
    return pixels.flip(-1) if rng.random() < 0.5 else pixels


def _normalise(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )


def _contrastive_step(
    model: open_clip.CLIP, pixels: Tensor, tokens: Tensor, truth: Tensor
) -> Tensor:
    """CLIP's symmetric loss, every true pair a positive: no true caption is pushed away."""
    images = model.encode_image(pixels, normalize=True)
    texts = F.normalize(encode_cut(model, tokens), dim=-1)
    logits = images @ texts.T * model.logit_scale.exp()
    positives = truth.float()
    by_image = -(logits.log_softmax(1) * positives).sum(1) / positives.sum(1)
    by_text = -(logits.log_softmax(0) * positives).sum(0) / positives.sum(0)
    loss: Tensor = (by_image.mean() + by_text.mean()) / 2
    return loss
