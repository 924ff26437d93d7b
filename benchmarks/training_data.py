"""Training examples with large-scale jitter: how fast they are made, and who waits for whom.

    python -m benchmarks.training_data --folder photos                 # one process: ms an example
    python -m benchmarks.training_data --folder photos --workers 16 --steps 50 --device cuda

An example is what `vildcli train` loads: a photograph decoded, jittered (0.1 to 2) onto the canvas,
a mask of each of its objects drawn from polygons. Polygons are made up, photographs are not: their
size decides. The first line makes examples in this process, by the clock and in CPU time; that
times the batch over the seconds of a step is how many cores loading takes. The second trains
vild-ensemble on them with so many workers, and says what share of the time steps wait for data.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.recording import Row, command_line, hardware, record
from benchmarks.training_step import Size, make_example, make_our_step
from vildcli.data.batches import BatchPlan
from vildcli.data.lvis import annotation_set
from vildcli.data.training_set import Augmentation, Example, TrainingSet

CATEGORIES = 1203
CORNERS = 24
GREY = (124.0, 116.0, 104.0)
WARM_UP = 3  # steps, or examples


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    data = _training_set(given)
    measured = _waiting(data, given) if given.steps else _alone(data, given)
    row = Row(
        item="training_data",
        row="vildcli train",
        parameters={
            "pictures": str(given.folder),
            "pixels": given.size,
            "objects": given.objects,
            "workers": given.workers,
            "batch": given.batch if given.steps else 1,
        },
        measured=measured,
        hardware=hardware(given.device),
        command=command_line("benchmarks.training_data"),
        note=given.note,
    )
    print(f"{date.today()}, {row.hardware}, torch {torch.__version__}\n{row.command}")
    print(", ".join(f"{value} {key}" for key, value in measured.items()))
    if given.out:
        record([row], given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="JPEG photographs")
    parser.add_argument("--size", type=int, default=1024, help="pixels of the canvas")
    parser.add_argument("--objects", type=int, default=12, help="an image, as LVIS has")
    parser.add_argument("--images", type=int, default=40, help="examples made alone")
    parser.add_argument("--steps", type=int, default=0, help="of training, while workers load")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=256, help="channels of the pyramid")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def _training_set(given: argparse.Namespace) -> TrainingSet:
    paths = sorted(given.folder.rglob("*.jpg"))
    if not paths:
        raise SystemExit(f"{given.folder} holds no .jpg")
    images = [_image(number, path, given.folder) for number, path in enumerate(paths, start=1)]
    content = {
        "images": images,
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, CATEGORIES + 1)],
        "annotations": [
            _object(image, place, 1 + len(images) * place + image["id"])
            for image in images
            for place in range(given.objects)
        ],
    }
    annotations = annotation_set(content, given.folder / "made-up.json")
    columns = {i: i - 1 for i in range(1, CATEGORIES + 1)}
    augmentation = Augmentation(given.size, (0.1, 2.0), GREY)
    return TrainingSet(annotations, given.folder, columns, augmentation, seed=0, teacher=None)


def _image(number: int, path: Path, folder: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        width, height = image.size
    name = str(path.relative_to(folder))
    return {"id": number, "file_name": name, "width": width, "height": height}


def _object(image: dict[str, Any], place: int, number: int) -> dict[str, Any]:
    """An ellipse, a third to a twentieth of the image's sides."""
    generator = torch.Generator().manual_seed(number)
    share, x, y = torch.rand(3, generator=generator).tolist()
    side = 0.05 + 0.28 * share
    w, h = side * image["width"], side * image["height"]
    left, top = x * (image["width"] - w), y * (image["height"] - h)
    angles = [2 * math.pi * i / CORNERS for i in range(CORNERS)]
    outline = [
        value
        for angle in angles
        for value in (
            left + w / 2 * (1 + math.cos(angle)),
            top + h / 2 * (1 + math.sin(angle)),
        )
    ]
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": 1 + (number * 7 + place) % CATEGORIES,
        "bbox": [left, top, w, h],
        "area": w * h,
        "segmentation": [outline],
        "iscrowd": 0,
    }


def _alone(data: TrainingSet, given: argparse.Namespace) -> dict[str, float]:
    seconds, busy = [], []
    for i in range(WARM_UP + given.images):
        begin, cpu = time.perf_counter(), time.process_time()
        data[(i // len(data), i % len(data))]
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - begin)
            busy.append(time.process_time() - cpu)
    return {
        "examples/s": round(1 / statistics.mean(seconds), 2),
        "image ms": round(statistics.mean(seconds) * 1e3, 2),
        "CPU ms": round(statistics.mean(busy) * 1e3, 2),
    }


def _waiting(data: TrainingSet, given: argparse.Namespace) -> dict[str, float]:
    device = torch.device(given.device)
    size = Size(given.size, given.batch, CATEGORIES, given.width)
    distilled = make_example(size, 0).distillation
    batch: list[Example] = []
    step = make_our_step(size, batch, device, given.precision)
    plan = BatchPlan(len(data), given.batch, 0, 0, WARM_UP + given.steps)
    loader = DataLoader(data, batch_sampler=plan, num_workers=given.workers, collate_fn=list)
    waited, begin, asked = 0.0, 0.0, time.perf_counter()
    for i, loaded in enumerate(loader):
        if i < WARM_UP:
            waited, begin = 0.0, time.perf_counter()
        else:
            waited += time.perf_counter() - asked
        batch[:] = [replace(example, distillation=distilled) for example in loaded]
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        asked = time.perf_counter()
    whole = asked - begin
    return {
        "images/s": round((given.steps + 1) * given.batch / whole, 2),
        "waiting %": round(100 * waited / whole, 2),
    }


if __name__ == "__main__":
    main()
