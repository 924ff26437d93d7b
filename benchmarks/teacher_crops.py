"""The teacher on the crops of an image's proposals: the usual PIL loop beside ours, in one run.

    python -m benchmarks.teacher_crops                     # a GPU, 300 proposals an image
    python -m benchmarks.teacher_crops --device cpu --regions 100 --images 8
    python -m benchmarks.teacher_crops --folder photos     # photographs instead of noise
    python -m benchmarks.teacher_crops --device cpu --crops-only

Both start from the decoded image, take the 1x and the 1.5x crop of every proposal and use the same
encoder (random weights) and batches. The loop crops with PIL, preprocesses as open_clip does,
stacks and moves; both stages end with what the encoder takes. On every image both have their turn,
so that whatever else the machine does falls on both. What is reported is the median over the images
after the warm-up, by the clock and (on a CPU) of all threads, and how far the results differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.data.images import read_image
from vildcli.teacher.crops import (
    BATCH,
    CropRecipe,
    ImageEncoder,
    cut_crops,
    embed_regions,
    normalise,
    scale_box,
)

WARM_UP = 2
FITS: Any = {"shortest": "crop", "squash": "squash", "longest": "pad"}
LOOP, OURS = "the PIL loop", "vildcli"
Preprocess = Callable[[Image.Image], Tensor]
Work = Callable[[], Tensor]
Seconds = tuple[float, float]  # by the clock, and of all threads


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    device = torch.device(given.device)
    encoder, preprocess = _encoder(given.model, device)
    times: dict[tuple[str, str], list[Seconds]] = {}
    worst: dict[str, float] = {}
    for i, image in enumerate(_images(given)):
        boxes = _proposals(image, given.regions, seed=i)
        for stage, (loop, ours) in _works(image, boxes, encoder, preprocess).items():
            if given.crops_only and stage != "crops":
                continue
            (by_loop, theirs), (by_us, mine) = _timed(loop, device), _timed(ours, device)
            if i >= WARM_UP:
                times.setdefault((stage, LOOP), []).append(by_loop)
                times.setdefault((stage, OURS), []).append(by_us)
            alike = cosine_similarity(theirs.flatten(1), mine.flatten(1)).min().item()
            worst[stage] = min(worst.get(stage, 1.0), alike)
    rows = _rows(times, given)
    _show(rows, worst, given)
    if given.out:
        record(rows, given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="ViT-B-32", help="open_clip architecture")
    parser.add_argument("--regions", type=int, default=300, help="proposals an image")
    parser.add_argument("--images", type=int, default=32, help="images that are measured")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--folder", type=Path, help="JPEG photographs, of their own sizes")
    parser.add_argument("--crops-only", action="store_true", help="leave the encoder out")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
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
) -> dict[str, tuple[Work, Work]]:
    """Of each stage the loop's work and ours."""
    photograph = Image.fromarray(image.permute(1, 2, 0).numpy())
    factors = encoder.recipe.factors

    def pil_crops() -> Tensor:
        return torch.cat([_pil_crops(photograph, boxes, f, preprocess, encoder) for f in factors])

    def our_crops() -> Tensor:
        moved, recipe = image.to(encoder.device), encoder.recipe
        return torch.cat([normalise(cut_crops(moved, boxes, f, recipe), recipe) for f in factors])

    return {
        "crops": (pil_crops, our_crops),
        "crops and embeddings": (
            lambda: _embed_pil_crops(pil_crops(), encoder),
            lambda: embed_regions(image, boxes, encoder),
        ),
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


def _timed(work: Work, device: torch.device) -> tuple[Seconds, Tensor]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin, busy = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin, time.process_time() - busy), result


def _rows(times: dict[tuple[str, str], list[Seconds]], given: argparse.Namespace) -> list[Row]:
    def median(stage: str, who: str, kind: int) -> float:
        return statistics.median(seconds[kind] for seconds in times[stage, who])

    def measured(stage: str, who: str) -> dict[str, float]:
        found = {
            "image ms": round(median(stage, who, 0) * 1e3, 2),
            "ratio": round(median(stage, LOOP, 0) / median(stage, who, 0), 2),
        }
        if given.device == "cpu":
            found["CPU ms"] = round(median(stage, who, 1) * 1e3, 2)
            found["CPU ratio"] = round(median(stage, LOOP, 1) / median(stage, who, 1), 2)
        return found

    return [
        Row(
            item="teacher_crops",
            row=who,
            parameters={
                "stage": stage,
                "model": given.model,
                "regions": given.regions,
                "pictures": str(given.folder or f"noise {given.width}x{given.height}"),
                "images": given.images,
            },
            measured=measured(stage, who),
            hardware=hardware(given.device),
            command=command_line("benchmarks.teacher_crops"),
            note=given.note,
        )
        for stage, who in times
    ]


def _show(rows: Sequence[Row], worst: dict[str, float], given: argparse.Namespace) -> None:
    print_heading("benchmarks.teacher_crops", given.device)
    size = given.folder or f"{given.width}x{given.height}"
    print(f"{given.model}, {given.regions} proposals an image, {given.images} images ({size})")
    for row in rows:
        values = ", ".join(f"{value} {key}" for key, value in row.measured.items())
        print(f"{row.parameters['stage']:22}{row.row:14}{values}")
    for stage, cosine in worst.items():
        print(f"{stage}: smallest cosine between the two of a proposal {cosine:.5f}")


if __name__ == "__main__":
    main()
