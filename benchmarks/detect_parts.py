"""Where an image's time goes, and the multiplications: ours beside torchvision's Mask R-CNN.

    python -m benchmarks.detect_parts --threads 1
    python -m benchmarks.detect_parts --regions 9 --size 128 --rounds 1      # smoke

One photograph, ResNet-50, random weights, so many regions and no masks but torchvision's 20; CPU
time, which other jobs disturb least, as medians of rounds in turns. `trained` is `vild` as it was
trained; `vild` as it labels, with norms folded and Winograd's convolutions, whose multiplications
are counted as those of the convolutions that they stand for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.data.images import read_image
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.detector import Detector
from vildcli.detector.inference import for_inference
from vildcli.systems import SYSTEMS

MASKS = 20
OURS = {
    "body": "backbone.body",
    "body and pyramid": "backbone",
    "proposals": "proposal_head",
    "pooling": "box_pool",
    "head": "head",
}
TORCHVISIONS = {
    "body": "backbone.body",
    "body and pyramid": "backbone",
    "proposals": "rpn",
    "pooling": "roi_heads.box_roi_pool",
    "head": "roi_heads.box_head",
}


class Parts:
    """CPU seconds of a model's parts by name, and where a counter runs their operations."""

    def __init__(self, model: nn.Module, names: Mapping[str, str]) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.operations: dict[str, int] = {}
        self.counter = FlopCounterMode(display=False)
        for name, path in names.items():
            self._watch(model.get_submodule(path), name)

    def _watch(self, module: nn.Module, name: str) -> None:
        begun: list[tuple[float, int]] = []

        def begin(*_: Any) -> None:
            begun.append((time.process_time(), self.counter.get_total_flops()))

        def end(*_: Any) -> None:
            seconds, operations = begun.pop()
            self.seconds[name].append(time.process_time() - seconds)
            self.operations[name] = self.counter.get_total_flops() - operations

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    paths = sorted(p for p in given.folder.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png"))
    image = torch.from_numpy(read_image(paths[0]).pixels).permute(2, 0, 1)
    print_heading("benchmarks.detect_parts")
    models = _models(given, image)
    multiplications = {name: _multiplications(*models[name]) for name in ("trained", "torchvision")}
    multiplications["vild"] = multiplications["trained"]
    for parts, _ in models.values():
        parts.seconds.clear()
    for _ in range(given.rounds):
        for parts, run in models.values():
            begin = time.process_time()
            run()
            parts.seconds["whole"].append(time.process_time() - begin)
    rows = [
        _row(given, name, part, multiplications[name][part], parts.seconds[part])
        for name, (parts, _) in models.items()
        for part in (*OURS, "whole")
    ]
    for row in rows:
        values = (row.row, row.parameters["part"], *row.measured.values())
        print("{:<14}{:<18}{:>8} GMAC{:>10} CPU ms".format(*values))
    if given.out:
        record(rows, given.out)


def _row(
    given: argparse.Namespace, name: str, part: str, gmac: float, seconds: Sequence[float]
) -> Row:
    return Row(
        item="detect_parts",
        row=name,
        parameters={
            "part": part,
            "regions": given.regions,
            "canvas": given.size,
            "threads": torch.get_num_threads(),
        },
        measured={
            "GMAC": round(gmac, 1),
            "CPU ms": round(statistics.median(seconds) * 1e3),
        },
        hardware=hardware(),
        command=command_line("benchmarks.detect_parts"),
        note=given.note,
    )


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/images/photos75"))
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--threads", type=int, help="of torch  [default: all]")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def _models(
    given: argparse.Namespace, image: Tensor
) -> dict[str, tuple[Parts, Callable[[], object]]]:
    architecture = replace(ARCHITECTURES["resnet50"], image_size=given.size)
    trained = Detector(architecture, SYSTEMS["vild"], 512).eval()
    quick = for_inference(trained)
    theirs: Any = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        min_size=given.size,
        max_size=given.size,
        rpn_post_nms_top_n_test=given.regions,
        box_detections_per_img=MASKS,
        box_score_thresh=0.0,
    ).eval()

    def regions(detector: Detector) -> Callable[[], object]:
        return lambda: detector.regions([image], count=given.regions, later_masks=True)

    @torch.inference_mode()
    def find() -> object:
        return theirs([image.float() / 255])

    return {
        "trained": (Parts(trained, OURS), regions(trained)),
        "vild": (Parts(quick, OURS), regions(quick)),
        "torchvision": (Parts(theirs, TORCHVISIONS), find),
    }


def _multiplications(parts: Parts, run: Callable[[], object]) -> dict[str, float]:
    """In billions, of each part and of all."""
    with parts.counter:
        run()
        operations = {**parts.operations, "whole": parts.counter.get_total_flops()}
    return {part: count / 2e9 for part, count in operations.items()}


if __name__ == "__main__":
    main()
