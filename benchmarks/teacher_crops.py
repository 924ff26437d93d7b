"""The teacher on the crops of an image's proposals: the usual PIL loop beside ours, in one run.

    python benchmarks/teacher_crops.py                     # a GPU, 300 proposals an image
    python benchmarks/teacher_crops.py --device cpu --regions 100 --images 8
    python benchmarks/teacher_crops.py --folder photos     # photographs instead of noise

Both start from the decoded image, take the 1x and the 1.5x crop of every proposal and use the same
encoder (random weights) and batches. The loop crops with PIL, preprocesses as open_clip does,
stacks and moves. On every image both have their turn, so that whatever else the machine does falls
on both. What is reported is the median over the images after the warm-up, and how far the results
differ.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from vildcli.data.images import read_image
from vildcli.teacher.crops import (
    BATCH,
    CropRecipe,
    ImageEncoder,
    cut_crops,
    embed_regions,
    scale_box,
)

WARM_UP = 2
FITS: Any = {"shortest": "crop", "squash": "squash", "longest": "pad"}
Preprocess = Callable[[Image.Image], Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    device = torch.device(given.device)
    encoder, preprocess = _encoder(given.model, device)
    times: dict[str, list[float]] = {}
    worst = 1.0
    for i, image in enumerate(_images(given)):
        boxes = _proposals(image, given.regions, seed=i)
        found: list[Tensor] = []
        for name, work in _works(image, boxes, encoder, preprocess).items():
            seconds, result = _timed(work, device)
            if i >= WARM_UP:
                times.setdefault(name, []).append(seconds)
            found.append(result)
        worst = min(worst, cosine_similarity(found[2], found[3]).min().item())
    _show({name: statistics.median(values) for name, values in times.items()}, worst, given, device)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="ViT-B-32", help="open_clip architecture")
    parser.add_argument("--regions", type=int, default=300, help="proposals an image")
    parser.add_argument("--images", type=int, default=32, help="images that are measured")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--folder", type=Path, help="JPEG photographs, of their own sizes")
    return parser.parse_args(arguments)


def _encoder(architecture: str, device: torch.device) -> tuple[ImageEncoder, Preprocess]:
    torch.manual_seed(0)
    model: Any = open_clip.create_model(architecture, pretrained=None).eval().to(device)
    settings = open_clip.get_model_preprocess_cfg(model)
    side = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]
    recipe = CropRecipe(side, settings["mean"], settings["std"], fit=FITS[settings["resize_mode"]])
    preprocess = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    return ImageEncoder(model.encode_image, recipe, 0.01, "random", device), preprocess


def _images(given: argparse.Namespace) -> list[Tensor]:
    """[3, H, W] uint8 as they come from decoding: three values a pixel side by side."""
    count = WARM_UP + given.images
    if given.folder is None:
        generator = torch.Generator().manual_seed(0)
        shape = (given.height, given.width, 3)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return [noise.permute(2, 0, 1)] * count
    paths = sorted(given.folder.rglob("*.jpg"))
    if not paths:
        raise SystemExit(f"{given.folder} holds no .jpg")
    chosen = [paths[i % len(paths)] for i in range(count)]
    return [torch.from_numpy(read_image(path).pixels).permute(2, 0, 1) for path in chosen]


def _proposals(image: Tensor, count: int, seed: int) -> Tensor:
    """Boxes of all sizes from 16 pixels to the image, log-uniform as anchors are."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([image.shape[-1], image.shape[-2]], dtype=torch.float32)
    sides = 16 * (extent / 16) ** torch.rand(count, 2, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * (extent - sides)
    return torch.cat([corners, corners + sides], 1)


def _works(
    image: Tensor, boxes: Tensor, encoder: ImageEncoder, preprocess: Preprocess
) -> dict[str, Callable[[], Tensor]]:
    photograph = Image.fromarray(image.permute(1, 2, 0).numpy())
    factors = encoder.recipe.factors

    def pil_crops() -> Tensor:
        return torch.cat([_pil_crops(photograph, boxes, f, preprocess, encoder) for f in factors])

    def our_crops() -> Tensor:
        moved = image.to(encoder.device)
        return torch.cat([cut_crops(moved, boxes, f, encoder.recipe) for f in factors])

    return {
        "crops, PIL loop": pil_crops,
        "crops, ours": our_crops,
        "crops and embeddings, PIL loop": lambda: _embed_pil_crops(pil_crops(), encoder),
        "crops and embeddings, ours": lambda: embed_regions(image, boxes, encoder),
    }


def _pil_crops(
    image: Image.Image, boxes: Tensor, factor: float, preprocess: Preprocess, encoder: ImageEncoder
) -> Tensor:
    windows = [scale_box(box, factor, image.height, image.width) for box in boxes.tolist()]
    crops = [preprocess(image.crop((x1, y1, x2, y2))) for x1, y1, x2, y2 in windows]
    return torch.stack(crops).to(encoder.device)


@torch.inference_mode()
def _embed_pil_crops(crops: Tensor, encoder: ImageEncoder) -> Tensor:
    parts = [
        torch.cat([encoder.encode(b) for b in torch.split(part, BATCH)]) for part in crops.chunk(2)
    ]
    return normalize(parts[0] + parts[1], dim=-1).cpu()


def _timed(work: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def _show(
    medians: dict[str, float], worst: float, given: argparse.Namespace, device: torch.device
) -> None:
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else _processor()
    threads = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    print(f"{date.today()}, {hardware}, {threads}, torch {torch.__version__}")
    print(f"python {shlex.join(sys.argv)}")
    size = given.folder or f"{given.width}x{given.height}"
    print(f"{given.model}, {given.regions} proposals an image, {given.images} images ({size})")
    print(f"{'milliseconds an image':24} {'PIL loop':>10} {'ours':>10} {'ratio':>8}")
    for stage in ("crops", "crops and embeddings"):
        loop, ours = medians[f"{stage}, PIL loop"], medians[f"{stage}, ours"]
        print(f"{stage:24} {loop * 1e3:10.1f} {ours * 1e3:10.1f} {loop / ours:8.2f}")
    print(f"smallest cosine between the two embeddings of a proposal: {worst:.5f}")


def _processor() -> str:
    """The CPU's name, which Python knows only on some systems."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
