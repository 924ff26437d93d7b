"""How many times faster we are than what people do otherwise, held against what was recorded.

    python -m benchmarks.ratios                     # exit code 1 where more than 25% were lost
    python -m benchmarks.ratios --record            # write benchmarks/ratios.json anew
    python -m benchmarks.ratios --cases crops evaluation

Small cases of one core and under a minute, so that every change can be measured: they are for
seeing losses, not for saying how fast we are (docs/performance.md does). A ratio is the least CPU
time of five turns each, taken in turn, so that whatever else the machine does falls on both. What
looks like a loss is measured again, up to three times: only a loss that is seen every time fails.
A record is the least of three measurements. Machines of another kind have other ratios: there they
are shown and not judged.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.recording import command_line, hardware
from vildcli.runs import write_json

RECORD = Path(__file__).with_name("ratios.json")
ALLOWED = 0.75  # of the recorded ratio
TURNS, AGAIN, RECORDED = 5, 3, 3
WIDTH = 512  # of embeddings
Work = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Case:
    """Two ways to the same end.

    Attributes:
        prepare: theirs and ours, ready to be timed.
        clock: CPU seconds so far.
    """

    name: str
    theirs: str
    prepare: Callable[[], tuple[Work, Work]]
    clock: Clock = time.process_time


@dataclass(frozen=True, slots=True)
class Found:
    """A line of the table."""

    case: Case
    recorded: float | None
    ratio: float
    measurements: int

    @property
    def lost(self) -> bool:
        return self.recorded is None or self.ratio < ALLOWED * self.recorded


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    _stay_on_one_core()
    cases = [case for case in CASES if given.cases is None or case.name in given.cases]
    record = json.loads(given.file.read_text()) if given.file.exists() else {}
    recorded = record.get("ratios", {})
    if given.record:
        least = {case.name: _least(case) for case in cases}
        write_json(given.file, _about() | {"ratios": recorded | least})
        print(f"{given.file}: {least}")
        return
    found = [_held_against(case, recorded.get(case.name)) for case in cases]
    print("\n".join(table(found)))
    if record and record["hardware"] != hardware():
        print(f"Recorded on {record['hardware']}, this is {hardware()}: shown, not judged.")
    elif lost := [line.case.name for line in found if line.lost]:
        print(f"Lost more than {1 - ALLOWED:.0%}, or never recorded: {', '.join(lost)}.")
        print("Mend it; where it is meant: make ratios ARGS=--record")
        sys.exit(1)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write what is measured")
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--file", type=Path, default=RECORD)
    return parser.parse_args(arguments)


def _stay_on_one_core() -> None:
    """So that a ratio does not depend on how many there are, and who uses them."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _about() -> dict[str, Any]:
    said = {"hardware": hardware(), "date": date.today().isoformat(), "torch": torch.__version__}
    return said | {"command": command_line("benchmarks.ratios")}


def table(found: Sequence[Found]) -> list[str]:
    """The lines that are printed."""
    lines = [f"{'':14}{'beside':34}{'recorded':>10}{'now':>8}{'change':>9}"]
    for line in found:
        known = line.recorded is not None
        before = f"{line.recorded:.2f}" if known else "-"
        change = f"{line.ratio / line.recorded - 1:+.0%}" if line.recorded else "-"
        mark = f"  LOST, seen {line.measurements} times" if line.lost else ""
        name, theirs = line.case.name, line.case.theirs
        lines.append(f"{name:14}{theirs:34}{before:>10}{line.ratio:>8.2f}{change:>9}{mark}")
    return lines


def _held_against(case: Case, recorded: float | None) -> Found:
    """The best of as many measurements as it takes to reach the record, four at most."""
    works = case.prepare()
    found = Found(case, recorded, measure(works, case.clock), 1)
    while found.lost and recorded is not None and found.measurements <= AGAIN:
        ratio = max(found.ratio, measure(works, case.clock))
        found = Found(case, recorded, ratio, found.measurements + 1)
    return found


def _least(case: Case) -> float:
    works = case.prepare()
    return round(min(measure(works, case.clock) for _ in range(RECORDED)), 2)


def measure(works: tuple[Work, Work], clock: Clock) -> float:
    """Their least time over ours; the first turn is not counted."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + TURNS):
        for work, seconds in zip(works, taken, strict=True):
            begin = clock()
            work()
            seconds.append(clock() - begin)
    theirs, ours = (min(seconds[1:]) for seconds in taken)
    return theirs / ours


def _children() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start_up() -> tuple[Work, Work]:
    """A bare click over our help: how little of the time is ours."""

    def starter(code: str) -> Work:
        command = [sys.executable, "-c", code]
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return starter("import click"), starter("from vildcli.cli import run; run(['--help'])")


def _evaluation() -> tuple[Work, Work]:
    from benchmarks.evaluation import Task, _official_work, _our_work, make_case, results_of

    task = Task("coco", "bbox", images=100, detections=30, ours=True)
    content, predictions = make_case(task)
    theirs = _official_work(task, content, results_of(predictions))
    ours = _our_work(task, *make_case(task))

    def silent(work: Work) -> Work:
        def run() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                work()

        return run

    return silent(theirs), silent(ours)


def _units(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, WIDTH, generator=generator), dim=-1)


def _regions(count: int) -> Any:
    from vildcli.types import Regions

    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 500
    boxes = torch.cat([corners, corners + 80], 1)
    return Regions(
        boxes=boxes,
        proposals=boxes,
        objectness=torch.linspace(1, 0, count),
        masks=torch.zeros(count, 28, 28, dtype=torch.uint8),
        text_side=_units(count, 1).half(),
        image_side=_units(count, 2).half(),
    )


def _labeller(names: int, attributes: int = 0) -> Any:
    from vildcli.detector.scoring import Fusion, ScoringHead
    from vildcli.labelling.labeller import AttributeSet, LabelPolicy, VocabularyLabeller
    from vildcli.text.context import ScoringBank

    ids = torch.arange(1, names + 1)
    values = tuple(f"value {i}" for i in range(attributes))
    sets = (AttributeSet("values", values, _units(attributes, 3)),) if attributes else ()
    head = ScoringHead(_units(1, 4)[0], 0.01, 0.01, Fusion("ensemble"))
    bank = ScoringBank(_units(names, 5), ids, ids % 4 > 0, 0.01)
    # Without a floor every region is labelled on both sides.
    return VocabularyLabeller(bank, head, LabelPolicy(floor=0.0), attributes=sets)


def _attributes() -> tuple[Work, Work]:
    regions = _regions(300)
    flattened, factorised = _labeller(1203 * 11), _labeller(1203, 11)
    return lambda: flattened.label(regions), lambda: factorised.label(regions)


def _scoring() -> tuple[Work, Work]:
    """Both sides of regions scored and fused, the best name of each."""
    regions, labeller = _regions(300), _labeller(1203)
    names = labeller.bank.text_embeddings.numpy()
    with_background = np.concatenate([labeller.head.background.numpy()[None], names])
    weight = np.where(labeller.bank.is_base.numpy(), 2 / 3, 1 / 3)
    sides = regions.text_side.float().numpy(), regions.image_side.float().numpy()

    def softmax(logits: Any) -> Any:
        shares = np.exp(logits - logits.max())
        return shares / shares.sum()

    def loop() -> list[int]:
        best = []
        for text, image in zip(*sides, strict=True):
            of_text = softmax(with_background @ text / 0.01)[1:]
            of_image = softmax(names @ image / 0.01)
            best.append(int((of_text**weight * of_image ** (1 - weight)).argmax()))
        return best

    return loop, lambda: labeller.label(regions)


def _crops() -> tuple[Work, Work]:
    """Both crops of proposals, as an encoder of 224 pixels takes them."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from benchmarks.teacher_crops import _proposals
    from vildcli.teacher.crops import CropRecipe, cut_crops, normalise, scale_box

    settings = PreprocessCfg(size=224)
    preprocess = image_transform_v2(settings, is_train=False)
    recipe = CropRecipe(224, tuple(settings.mean), tuple(settings.std))
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8, generator=noise)
    image, photograph = pixels.permute(2, 0, 1), Image.fromarray(pixels.numpy())
    boxes = _proposals(image, 40, seed=0)
    factors = recipe.factors

    def loop() -> Tensor:
        windows = [scale_box(box, factor, 480, 640) for factor in factors for box in boxes.tolist()]
        return torch.stack([preprocess(photograph.crop(window)) for window in windows])

    def ours() -> Tensor:
        return torch.cat([normalise(cut_crops(image, boxes, f, recipe), recipe) for f in factors])

    return loop, ours


def _detector() -> tuple[Work, Work]:
    """ResNet-50 on a canvas of 256 pixels, 100 regions, 20 masks: 91 classes, and 1,203 names."""
    from dataclasses import replace

    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    from vildcli.detector.architecture import ARCHITECTURES
    from vildcli.detector.detector import Detector
    from vildcli.labelling.detectors import student_of, with_later_masks
    from vildcli.systems import SYSTEMS
    from vildcli.types import made

    torch.manual_seed(0)
    theirs: Any = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        min_size=256,
        max_size=256,
        rpn_post_nms_top_n_test=100,
        box_score_thresh=0.0,
        box_detections_per_img=20,
    ).eval()
    architecture = replace(ARCHITECTURES["resnet50"], image_size=256)
    detector = Detector(architecture, SYSTEMS["vild"], WIDTH).eval()
    student, labeller = with_later_masks(student_of(detector, 100)), _labeller(1203)
    image = torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8)

    @torch.inference_mode()
    def their_turn() -> None:
        theirs([image.float() / 255])

    def our_turn() -> None:
        (regions,) = student.regions([image])
        labels = labeller.label(regions)
        made(regions.masks[labels.regions[:20]])

    return their_turn, our_turn


def _text_bank() -> tuple[Work, Work]:
    """Sentences of names through a small text tower: 77 positions of each, and no padding."""
    import open_clip

    from benchmarks.text_bank import _plain
    from vildcli.text.bank import embed_categories
    from vildcli.text.encoder import OpenClipTextEncoder
    from vildcli.text.templates import load_prompts
    from vildcli.vocabulary.category import Category

    torch.manual_seed(0)
    config = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "width": 128, "heads": 2, "layers": 4},
    }
    model = open_clip.CLIP(**config).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=77)
    encoder = OpenClipTextEncoder(model, tokenizer, config, "random", 0.01)
    words = ("apple", "fire engine", "hot air balloon", "dog")
    names, prompts = (
        [Category(i + 1, word) for i, word in enumerate(words)],
        load_prompts("vild-63"),
    )

    def ours() -> Tensor:
        return embed_categories(tuple(names), encoder, prompts, cache=False)

    return lambda: _plain(encoder, names, prompts), ours


CASES = (
    Case("start-up", "import click", _start_up, _children),
    Case("evaluation", "pycocotools", _evaluation),
    Case("attributes", "names times attributes", _attributes),
    Case("scoring", "a softmax a region in numpy", _scoring),
    Case("crops", "PIL and open_clip's preprocessing", _crops),
    Case("detector", "torchvision's Mask R-CNN v2", _detector),
    Case("text bank", "open_clip plainly", _text_bank),
)


if __name__ == "__main__":
    main()
