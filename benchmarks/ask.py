"""One question after the other on the same image, by `vildcli ask`: what each takes.

    python -m benchmarks.ask                                       # R50 at 1,024, ViT-B/32's text
    python -m benchmarks.ask --prompts single --threads 2
    python -m benchmarks.ask --size 128 --width 16 --texts 2 --questions 3

The image is detected once. Then every question has texts that were never asked before (they are
encoded through every template), and is asked again in other words' company (nothing is encoded).
Weights are random and so is the image. Medians; the picture is what `vildcli ask` writes each time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import open_clip
import torch
from torch import Tensor

from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.detector import Detector
from vildcli.labelling.ask import AskingModel, TextReader, answer, find_regions
from vildcli.review.question_sheet import draw_image_answer, write_answer
from vildcli.systems import SYSTEMS
from vildcli.text.encoder import OpenClipTextEncoder
from vildcli.text.open_clip_models import simple_tokenizer
from vildcli.text.templates import load_prompts
from vildcli.types import Regions
from vildcli.vocabulary.files import load_vocabulary

REGIONS = 300
Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    model = _model(given)
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    # The objectness of random weights is a half everywhere.
    found, detection = _timed(lambda: find_regions(model, pixels, objectness=0.0))
    names = [category.name for category in load_vocabulary("lvis-v1").categories]
    times: dict[str, list[float]] = {}

    def ask(kind: str, texts: tuple[str, ...]) -> None:
        embeddings, encoding = _timed(lambda: model.reader.embed(texts))
        regions, scoring = _timed(lambda: answer(found, embeddings))
        _, picture = _timed(
            lambda: write_answer(draw_image_answer("a", pixels, texts, regions), out)
        )
        for what, seconds in (("encode", encoding), ("score", scoring), ("picture", picture)):
            times.setdefault(f"{kind}, {what}", []).append(seconds)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "answer.png")
        for i in range(given.questions):
            texts = tuple(names[i * given.texts : (i + 1) * given.texts])
            ask("new texts", texts)
            ask("known texts", texts[::-1])
    # The first question of each kind warms up.
    medians = {what: statistics.median(seconds[1:]) for what, seconds in times.items()}
    _show(detection, medians, len(found), given)
    if given.out:
        record([_record(detection, medians, len(found), given)], given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="of the detector; texts are on the CPU")
    parser.add_argument("--model", default="ViT-B-32", help="open_clip architecture")
    parser.add_argument("--prompts", default="vild-63")
    parser.add_argument("--texts", type=int, default=3, help="texts a question")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--size", type=int, default=1024, help="pixels of the detector's canvas")
    parser.add_argument("--width", type=int, default=256, help="channels of its pyramid")
    parser.add_argument("--threads", type=int, help="of torch  [default: all]")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


@dataclass(frozen=True, slots=True)
class _RegionsOf:
    detector: Detector

    def regions(self, images: Sequence[Tensor]) -> list[Regions]:
        return self.detector.regions(images, count=REGIONS)


def _model(given: argparse.Namespace) -> AskingModel:
    torch.manual_seed(0)
    clip: Any = open_clip.create_model(given.model, pretrained=None).eval()
    width = int(clip.text_projection.shape[1])
    encoder = OpenClipTextEncoder(clip, simple_tokenizer(77), {"embed_dim": width}, "random", 0.01)
    architecture = ARCHITECTURES["resnet50"]
    architecture = replace(architecture, image_size=given.size, channels=given.width)
    detector = Detector(architecture, SYSTEMS["vild-ensemble"], width).eval().to(given.device)
    reader = TextReader(encoder, load_prompts(given.prompts))
    return AskingModel(_RegionsOf(detector), reader, detector.scoring_head(0.01))


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin


def _record(
    detection: float, medians: dict[str, float], regions: int, given: argparse.Namespace
) -> Row:
    seconds = {"detection": detection, **medians}
    return Row(
        item="ask",
        row="vildcli ask",
        parameters={
            "regions": regions,
            "texts": given.texts,
            "prompts": given.prompts,
            "pixels": given.size,
            "questions": given.questions,
        },
        measured={f"{what} ms": round(value * 1e3, 2) for what, value in seconds.items()},
        hardware=hardware(given.device),
        command=command_line("benchmarks.ask"),
        note=given.note,
    )


def _show(
    detection: float, medians: dict[str, float], regions: int, given: argparse.Namespace
) -> None:
    print_heading("benchmarks.ask", given.device)
    print(f"{regions} regions, {given.texts} texts a question, {given.prompts}")
    print(f"detection, once         {detection * 1e3:10.1f} ms")
    for what, seconds in medians.items():
        print(f"{what:24}{seconds * 1e3:10.1f} ms")
    for kind in ("new texts", "known texts"):
        total = medians[f"{kind}, encode"] + medians[f"{kind}, score"]
        print(f"{kind}, answer{'':{24 - len(kind) - 8}}{total * 1e3:10.1f} ms")


if __name__ == "__main__":
    main()
