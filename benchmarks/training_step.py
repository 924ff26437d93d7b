"""One training step of vild-ensemble beside torchvision's Mask R-CNN, in one run.

    python -m benchmarks.training_step                                # a GPU, the published size
    python -m benchmarks.training_step --device cpu --size 256 --batch 1 --steps 5 --warm-up 1

Both see the same images and objects, R50-FPN, SGD, the same precision, as many classes; ours has a
second head and 300 distilled regions an image on top. Steps alternate, so that whatever else the
machine does falls on both. What is reported is the median of the steps after the warm-up, by the
clock and (on a CPU) of all threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.data.training_set import Example
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.detector import Detector, TrainingContext
from vildcli.systems import SYSTEMS
from vildcli.training.processes import Processes
from vildcli.training.recipe import RECIPES
from vildcli.training.train import make_optimiser, training_step
from vildcli.types import Distillation, Target

Precision = Literal["float32", "bfloat16"]
OBJECTS, DISTILLED, EMBEDDING = 12, 300, 512
OURS, THEIRS = "vild-ensemble", "torchvision v2"


@dataclass(frozen=True, slots=True)
class Size:
    """What is trained: pixels a side, images a step, classes, and the width of the heads."""

    pixels: int
    batch: int
    classes: int
    width: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one took: seconds by the clock and of all threads, and GPU memory at its peak, GiB."""

    seconds: float
    cpu_seconds: float
    peak: float


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    device = torch.device(given.device)
    size = Size(given.size, given.batch, given.classes, given.width)
    examples = [make_example(size, seed) for seed in range(size.batch)]
    works = {
        OURS: make_our_step(size, examples, device, given.precision),
        THEIRS: _torchvisions(size, examples, device, given.precision),
    }
    steps: dict[str, list[Step]] = {name: [] for name in works}
    for i in range(given.warm_up + given.steps):
        for name, work in works.items():
            step = _timed(work, device)
            if i >= given.warm_up:
                steps[name].append(step)
    rows = [_row(name, steps, given) for name in works]
    print_heading("benchmarks.training_step", given.device)
    for row in rows:
        values = ", ".join(f"{value} {key}" for key, value in row.measured.items())
        print(f"{row.row:16}{values}")
    if given.out:
        record(rows, given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=1024, help="pixels a side")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--width", type=int, default=256, help="channels of our pyramid")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=3, help="steps that are not counted")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def make_example(size: Size, seed: int) -> Example:
    """Noise with rectangles for objects, and a teacher's regions."""
    generator = torch.Generator().manual_seed(seed)
    side = size.pixels
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
    boxes = _boxes(OBJECTS, side, generator)
    masks = torch.zeros(OBJECTS, side, side, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    labels = torch.randint(0, size.classes, (OBJECTS,), generator=generator)
    distilled = Distillation(
        _boxes(DISTILLED, side, generator),
        torch.randn(DISTILLED, EMBEDDING, generator=generator),
        torch.ones(DISTILLED, dtype=torch.bool),
    )
    return Example(seed, image, Target(boxes, labels, masks), distilled)


def _boxes(count: int, side: int, generator: torch.Generator) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * side * 0.7
    extent = side * (0.05 + 0.25 * torch.rand(count, 2, generator=generator))
    return torch.cat([corner, corner + extent], 1)


def make_our_step(
    size: Size, examples: list[Example], device: torch.device, precision: Precision
) -> Callable[[], object]:
    architecture = replace(ARCHITECTURES["resnet50"], image_size=size.pixels, channels=size.width)
    detector = Detector(architecture, SYSTEMS["vild-ensemble"], EMBEDDING).to(device).train()
    recipe = replace(RECIPES["paper"], batch=size.batch, learning_rate=1e-4, precision=precision)
    texts = normalize(torch.randn(size.classes, EMBEDDING), dim=-1).to(device)
    is_base = torch.arange(size.classes, device=device) % 4 > 0
    context = TrainingContext(texts, is_base, 0.01)
    optimiser, processes = make_optimiser(detector, recipe), Processes(device)

    def step() -> object:
        return training_step(detector, examples, context, recipe, optimiser, (0, 0), processes)

    return step


def _torchvisions(
    size: Size, examples: list[Example], device: torch.device, precision: Precision
) -> Callable[[], object]:
    model: Any = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        num_classes=size.classes + 1,
        min_size=size.pixels,
        max_size=size.pixels,
    )
    model = model.to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> object:
        images = [example.image.to(device).float() / 255 for example in examples]
        targets = [
            {"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks.to(torch.uint8)}
            for t in (example.target.to(device) for example in examples)
        ]
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            losses = model(images, targets)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        optimiser.step()
        return total.item()

    return step


def _timed(step: Callable[[], object], device: torch.device) -> Step:
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin, busy = time.perf_counter(), time.process_time()
    step()
    if is_cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if is_cuda else 0.0
    return Step(time.perf_counter() - begin, time.process_time() - busy, peak)


def _row(name: str, steps: dict[str, list[Step]], given: argparse.Namespace) -> Row:
    def median(who: str, kind: str) -> float:
        return float(statistics.median(getattr(step, kind) for step in steps[who]))

    measured = {
        "step s": round(median(name, "seconds"), 3),
        "images/s": round(given.batch / median(name, "seconds"), 3),
        "ratio": round(median(name, "seconds") / median(THEIRS, "seconds"), 3),
    }
    if given.device == "cpu":
        measured["CPU s"] = round(median(name, "cpu_seconds"), 3)
        measured["CPU ratio"] = round(
            median(name, "cpu_seconds") / median(THEIRS, "cpu_seconds"), 3
        )
    else:
        measured["peak GiB"] = round(max(step.peak for step in steps[name]), 2)
    return Row(
        item="training_step",
        row=name,
        parameters={
            "pixels": given.size,
            "batch": given.batch,
            "classes": given.classes,
            "precision": given.precision,
            "steps": given.steps,
        },
        measured=measured,
        hardware=hardware(given.device),
        command=command_line("benchmarks.training_step"),
        note=given.note,
    )


if __name__ == "__main__":
    main()
