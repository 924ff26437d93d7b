"""Images a second at 80, 1,203 and 20,000 names: ours beside what people would use, in one run.

    python benchmarks/throughput.py --folder ../shared/data/images/photos75       # all of it
    python benchmarks/throughput.py --device cuda --precision bf16 --images 50 --rounds 5
    python benchmarks/throughput.py --names 80 --masks 20 --images 1 --rounds 1 --size 256   # smoke

Every contender has its published architecture with random weights, and gets the same photographs,
one by one:

- `vild`, `vild-ensemble`: ResNet-50, text of the names embedded before, as many regions as masks;
- `maskrcnn_resnet50_fpn_v2` of torchvision, with a class a name, on a canvas of the same size. Its
  score threshold is set for each image so that 50 candidates a mask pass it, as many as it takes
  for NMS to leave the masks that are asked for; the table says how many were made;
- `OWLv2-B/16` of transformers at 960 pixels, text embedded before; it has no masks;
- `CLIP on crops`, ViT-B/32: the regions of `vild`, each cropped twice, as the paper did.

Where one cannot have so many names (a class costs torchvision a channel of its mask head), its row
is left out: --closed-names. Turns alternate, so that whatever else the machine does falls on all.
Medians over images and rounds after a first turn that is not counted. Random weights change no
shape, but the number of boxes that survive NMS; what was found is in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad

from vildcli.data.images import read_image
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.detector import Detector
from vildcli.labelling.detectors import DTYPES, Precision, Student
from vildcli.labelling.labeller import LabelPolicy, VocabularyLabeller
from vildcli.labelling.masks import full_frame, object_mask
from vildcli.systems import SYSTEMS
from vildcli.teacher.crops import CropRecipe, ImageEncoder, embed_regions
from vildcli.text.context import ScoringBank
from vildcli.types import Regions

WIDTH = 512  # of CLIP's embeddings
TEMPERATURE = 0.01
CANDIDATES_A_MASK = 50
STAGES = ("forward", "score", "masks")


@dataclass(slots=True)
class Turn:
    """One image through one contender: seconds of each stage, and what came out."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    regions: int = 0
    masks: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        _wait(self.device)
        begin = time.perf_counter()
        yield
        _wait(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


Contender = Callable[[Tensor, Turn], None]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; seconds are medians an image, decoding included in the rate."""

    contender: str
    names: int
    masks_asked: int
    regions: float
    masks: float
    seconds: dict[str, float]
    images_per_second: float


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = torch.device(given.device)
    paths = sorted(p for p in given.folder.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"{given.folder} holds no photograph")
    images, decode = _decoded(paths[: given.images], given.rounds)
    about = _about(given, device, arguments, len(images), decode)
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    head = ("", "names", "regions", "masks", *(f"{s} ms" for s in STAGES), "images/s")
    print("{:<26}{:>7}{:>9}{:>7}{:>12}{:>10}{:>10}{:>10}".format(*head))
    rows = []
    for names in given.names:
        for masks in given.masks:
            contenders = _contenders(given, device, names, masks)
            for row in _measure(contenders, images, decode, given, (names, masks), device):
                rows.append(row)
                _show(row)
    if given.out:
        content = {**about, "rows": [asdict(row) for row in rows]}
        given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp32", help="of all")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/images/photos75"))
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--names", type=int, nargs="+", default=[80, 1203, 20_000])
    parser.add_argument("--masks", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--size", type=int, default=1024, help="canvas of ours and torchvision's")
    parser.add_argument("--owl-size", type=int, default=960, help="canvas of OWLv2")
    parser.add_argument(
        "--closed-names", type=int, default=1203, help="most classes that torchvision is given"
    )
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out")
    parser.add_argument("--threads", type=int, help="of torch  [default: all]")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args(arguments)


def _decoded(paths: Sequence[Path], rounds: int) -> tuple[list[Tensor], float]:
    """Images [3, H, W] uint8, and the median of the seconds that reading one takes."""
    seconds, images = [], []
    for turn in range(rounds):
        for path in paths:
            begin = time.perf_counter()
            pixels = read_image(path).pixels
            seconds.append(time.perf_counter() - begin)
            if turn == 0:
                images.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return images, statistics.median(seconds)


def _contenders(
    given: argparse.Namespace, device: torch.device, names: int, masks: int
) -> dict[str, Contender]:
    """Those that can have so many names, in the order of the table."""
    texts = normalize(torch.randn(names, WIDTH), dim=-1)
    precision: Precision = given.precision
    made: dict[str, Callable[[], Contender]] = {
        "vild": lambda: _ours("vild", given.size, texts, masks, device, precision),
        "vild-ensemble": lambda: _ours(
            "vild-ensemble", given.size, texts, masks, device, precision
        ),
        "maskrcnn_resnet50_fpn_v2": lambda: _torchvisions(
            given.size, names, masks, device, precision
        ),
        "OWLv2-B/16": lambda: _owl(given.owl_size, texts, masks, device, precision),
        "CLIP on crops": lambda: _crops(given.size, texts, masks, device, precision),
    }
    if names > given.closed_names:
        del made["maskrcnn_resnet50_fpn_v2"]
    return {name: make() for name, make in made.items() if name not in given.without}


def _detector(system: str, size: int, device: torch.device) -> Detector:
    architecture = replace(ARCHITECTURES["resnet50"], image_size=size)
    return Detector(architecture, SYSTEMS[system], WIDTH).to(device).eval()


def _labeller(texts: Tensor, detector: Detector) -> VocabularyLabeller:
    count = len(texts)
    is_base = torch.arange(count) % 4 > 0
    bank = ScoringBank(texts, torch.arange(1, count + 1), is_base, TEMPERATURE)
    policy = LabelPolicy(floor=0.0, nms="none")  # every region a label: a mask is pasted for each
    return VocabularyLabeller(bank, detector.scoring_head(TEMPERATURE), policy)


def _ours(
    system: str, size: int, texts: Tensor, masks: int, device: torch.device, precision: Precision
) -> Contender:
    detector = _detector(system, size, device)
    student, labeller = Student(detector, masks, precision), _labeller(texts, detector)

    def run(image: Tensor, turn: Turn) -> None:
        with turn.stage("forward"):
            (regions,) = student.regions([image])
        with turn.stage("score"):
            labels = labeller.label(regions)
        with turn.stage("masks"):
            turn.masks = _paste(regions, labels.regions, image)
        turn.regions = len(regions)

    return run


def _paste(regions: Regions, rows: Tensor, image: Tensor) -> int:
    """Masks at the size of the image, as torchvision's are."""
    height, width = image.shape[1:]
    pasted = [
        full_frame(*object_mask(mask, box, height, width), height, width)
        for mask, box in zip(
            regions.masks[rows].numpy(), map(tuple, regions.boxes[rows].tolist()), strict=True
        )
    ]
    return len(pasted)


def _torchvisions(
    size: int, names: int, masks: int, device: torch.device, precision: Precision
) -> Contender:
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    model: Any = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        num_classes=names + 1,
        min_size=size,
        max_size=size,
        box_detections_per_img=masks,
    )
    model = model.to(device).eval()
    logits: list[Tensor] = []
    model.roi_heads.box_predictor.register_forward_hook(lambda m, i, out: logits.append(out[0]))
    paste, thresholds = model.transform.postprocess, dict[int, float]()
    turns: list[Turn] = []

    def pasted(*arguments: Any) -> Any:
        with turns[-1].stage("masks"):
            return paste(*arguments)

    model.transform.postprocess = pasted

    @torch.inference_mode()
    def find(image: Tensor, turn: Turn, threshold: float) -> Any:
        turns.append(turn)
        logits.clear()
        model.roi_heads.score_thresh = threshold
        with turn.stage("forward"), _autocast(device, precision):
            (found,) = model([image.to(device).float() / 255])
        turn.seconds["forward"] -= turn.seconds["masks"]
        return found

    def run(image: Tensor, turn: Turn) -> None:
        if id(image) not in thresholds:  # once for each image, and not timed
            find(image, Turn(device), 1.0)
            scores = logits[0].float().softmax(-1)[:, 1:].flatten()
            count = min(CANDIDATES_A_MASK * masks, len(scores))
            thresholds[id(image)] = scores.topk(count).values[-1].item()
        found = find(image, turn, thresholds[id(image)])
        turn.regions, turn.masks = len(logits[0]), len(found["masks"])

    return run


def _owl(
    size: int, texts: Tensor, boxes: int, device: torch.device, precision: Precision
) -> Contender:
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    config = Owlv2Config(vision_config={"image_size": size})
    model: Any = Owlv2ForObjectDetection(config).to(device).eval()
    queries = texts.to(device)[None]
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in ([0.481, 0.458, 0.408], [0.269, 0.261, 0.276])
    )

    @torch.inference_mode()
    def run(image: Tensor, turn: Turn) -> None:
        with turn.stage("forward"), _autocast(device, precision):
            height, width = image.shape[1:]
            side = max(height, width)
            square = pad(image.to(device).float() / 255, (0, side - width, 0, side - height))
            square = interpolate(
                square[None], (size, size), mode="bilinear", antialias=True, align_corners=False
            )
            features, _ = model.image_embedder((square - mean) / std)
            flat = features.flatten(1, 2)
            found = model.box_predictor(flat, features)
        with turn.stage("score"), _autocast(device, precision):
            logits, _ = model.class_predictor(flat, queries)
            scores, _ = logits[0].float().sigmoid().max(-1)
            best = scores.topk(min(boxes, len(scores))).indices
            found[0, best].cpu()
        turn.regions = flat.shape[1]

    return run


def _crops(
    size: int, texts: Tensor, regions: int, device: torch.device, precision: Precision
) -> Contender:
    import open_clip

    detector = _detector("vild", size, device)
    student = Student(detector, regions, precision)
    clip: Any = open_clip.create_model("ViT-B-32", pretrained=None).eval().to(device)
    settings = open_clip.get_model_preprocess_cfg(clip)
    side = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]
    recipe = CropRecipe(side, settings["mean"], settings["std"])
    encoder = ImageEncoder(clip.encode_image, recipe, TEMPERATURE, "random", device)

    @torch.inference_mode()
    def run(image: Tensor, turn: Turn) -> None:
        with turn.stage("forward"):
            (found,) = student.regions([image])
        with turn.stage("forward"), _autocast(device, precision):
            embeddings = embed_regions(image, found.boxes, encoder)
        with turn.stage("score"):
            (embeddings @ texts.T / TEMPERATURE).softmax(-1).max(-1)
        with turn.stage("masks"):
            turn.masks = _paste(found, torch.arange(len(found)), image)
        turn.regions = len(found)

    return run


def _autocast(device: torch.device, precision: Precision) -> Any:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _measure(
    contenders: dict[str, Contender],
    images: Sequence[Tensor],
    decode: float,
    given: argparse.Namespace,
    asked: tuple[int, int],
    device: torch.device,
) -> list[Row]:
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for contender in contenders.values():  # not counted
        contender(images[0], Turn(device))
    for _ in range(given.rounds):
        for image in images:
            for name, contender in contenders.items():
                turn = Turn(device)
                contender(image, turn)
                turns[name].append(turn)
    return [_row(name, asked, of_one, decode) for name, of_one in turns.items()]


def _row(name: str, asked: tuple[int, int], turns: Sequence[Turn], decode: float) -> Row:
    stages = [stage for stage in STAGES if stage in turns[0].seconds]
    total = statistics.median(sum(turn.seconds.values()) for turn in turns)
    return Row(
        contender=name,
        names=asked[0],
        masks_asked=asked[1],
        regions=statistics.median(turn.regions for turn in turns),
        masks=statistics.median(turn.masks for turn in turns),
        seconds={
            "decode": decode,
            **{stage: statistics.median(turn.seconds[stage] for turn in turns) for stage in stages},
            "total": total,
        },
        images_per_second=1 / (decode + total),
    )


def _show(row: Row) -> None:
    stages = [f"{row.seconds[s] * 1e3:.1f}" if s in row.seconds else "-" for s in STAGES]
    values = (row.contender, row.names, f"{row.regions:.0f}", f"{row.masks:.0f}", *stages)
    print("{:<26}{:>7}{:>9}{:>7}{:>12}{:>10}{:>10}".format(*values), end="")
    print(f"{row.images_per_second:>10.3f}", flush=True)


def _about(
    given: argparse.Namespace,
    device: torch.device,
    arguments: Sequence[str] | None,
    images: int,
    decode: float,
) -> dict[str, Any]:
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else _processor()
    words = sys.argv[1:] if arguments is None else arguments
    return {
        "date": str(date.today()),
        "hardware": f"{hardware}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "command": "python benchmarks/throughput.py " + shlex.join(words),
        "canvas": f"{given.size} pixels ({given.owl_size} for OWLv2), {given.precision}",
        "measured": f"medians of {given.rounds} rounds of {images} images, one at a time",
        "decode_ms": round(decode * 1e3, 2),
    }


def _processor() -> str:
    """The CPU's name, which Python knows only on some systems."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
