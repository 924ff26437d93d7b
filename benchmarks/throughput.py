"""Detecting against what people would use instead: images a second, and memory, by number of names.

    python -m benchmarks.throughput --images 5                       # a CPU
    python -m benchmarks.throughput --device cuda --precision bf16 --batch 8 --images 48
    # the same and --yardstick-precision fp32: beside torchvision's as people run it
    python -m benchmarks.throughput --regions 20 --names 80 --size 256 --rounds 1   # smoke

Every contender has its published architecture with random weights, and gets the same photographs,
`--batch` at a time (the peers one by one), in turns, so that whatever else the machine does falls
on all; every number is an image's:

- `vild`, `vild-ensemble`: ResNet-50, as `vildcli detect` runs them: names embedded before, scored,
  suppressed, and masks of the best regions at the size of the image;
- `maskrcnn_resnet50_fpn_v2` and `maskrcnn_resnet50_fpn` of torchvision with their 91 classes, on a
  canvas of the same size. Their score threshold is set for each image so that 50 candidates a mask
  pass it, as many as it takes for NMS to leave the masks that are asked for;
- `OWLv2-B/16` of transformers at 960 pixels, names embedded before; it has no masks;
- `Grounding DINO tiny` of transformers: its text goes through every layer beside the image, so that
  names cannot be embedded before; what BERT makes of them is. It reads 256 words' pieces at once,
  80 names: more of them are more passes, and no row here. It has no masks;
- `CLIP on crops`, ViT-B/32: the first regions of `vild`, each cropped twice, as the paper did.

YOLO-World and YOLOE are not there: they need the package ultralytics, under AGPL-3.0.

Each image goes through a network once for all numbers of names and of masks; what they cost is
timed by itself, and a row is the sum. Medians over images and rounds after a first turn that is not
counted; `ratio` is the median of the quotients, turn by turn, with torchvision's v2 at as many
regions and masks, and `CPU ratio` that of CPU times, which other jobs disturb less. Peak memory is
of one batch in a process of its own, with everything that was imported. Random weights change no
shape, but the number of boxes that survive NMS; how many masks were made is in the table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad

from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.data.images import read_image
from vildcli.detector.architecture import ARCHITECTURES
from vildcli.detector.detector import Detector
from vildcli.labelling.detectors import DTYPES, Precision, student_of, with_later_masks
from vildcli.labelling.labeller import LabelPolicy, VocabularyLabeller
from vildcli.labelling.masks import full_frame, object_mask
from vildcli.systems import SYSTEMS
from vildcli.teacher.crops import CropRecipe, ImageEncoder, embed_regions
from vildcli.text.context import ScoringBank
from vildcli.types import Regions, made

WIDTH = 512  # of CLIP's embeddings
TEMPERATURE = 0.01
CLASSES = 91  # of torchvision's detectors, the background among them
CANDIDATES_A_MASK = 50
PIECES, PIECES_A_NAME = 256, 3  # of words: what Grounding DINO reads at once; two and a full stop
MEAN, STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)
YARDSTICK = "maskrcnn_resnet50_fpn_v2"
OURS = ("vild", "vild-ensemble")
TORCHVISIONS = (YARDSTICK, "maskrcnn_resnet50_fpn")
OTHERS = ("OWLv2-B/16", "Grounding DINO tiny", "CLIP on crops")
STAGES = ("forward", "score", "masks")


@dataclass(frozen=True, slots=True)
class Asked:
    """One row: how many names and masks."""

    names: int
    masks: int


@dataclass(frozen=True, slots=True)
class Seconds:
    wall: float
    cpu: float


@dataclass(slots=True)
class Turn:
    """A batch of images through one contender; every number is an image's.

    Attributes:
        seconds: of each stage and the number of names or masks that it was for; None is for all.
        made: masks by how many were asked for.
    """

    device: torch.device
    images: int = 1
    seconds: dict[tuple[str, int | None], Seconds] = field(default_factory=dict)
    regions: int = 0
    made: dict[int, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, count: int | None = None) -> Iterator[None]:
        _wait(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        _wait(self.device)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        so_far = self.seconds.get((name, count), Seconds(0.0, 0.0))
        self.seconds[name, count] = Seconds(
            so_far.wall + wall / self.images, so_far.cpu + cpu / self.images
        )

    def of(self, stage: str, asked: Asked) -> Seconds | None:
        count = asked.names if stage == "score" else asked.masks
        return self.seconds.get((stage, count), self.seconds.get((stage, None)))

    def total(self, asked: Asked) -> Seconds:
        stages = [spent for stage in STAGES if (spent := self.of(stage, asked))]
        return Seconds(sum(s.wall for s in stages), sum(s.cpu for s in stages))


@dataclass(frozen=True, slots=True)
class Contender:
    """Attributes:
    names: how many its rows are for; of a closed set its classes.
    masks: how many; 0 where it makes none.
    """

    name: str
    regions: int
    names: tuple[int, ...]
    masks: tuple[int, ...]
    run: Callable[[Sequence[Tensor], Turn], None]
    precision: Precision

    def rows(self) -> Iterator[Asked]:
        for masks in self.masks:
            for names in self.names:
                yield Asked(names, masks)


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    device = _prepare(given)
    images, decode = _decoded(given)
    print_heading("benchmarks.throughput", device.type)
    print(f"canvas {given.size} pixels ({given.owl_size} for OWLv2), {given.precision}")
    contenders = [_contender(given, device, *which) for which in _chosen(given)]
    turns = _measure(contenders, images, given, device)
    peaks = [_alone(peak_mib, given, which) for which in _chosen(given)] if given.peaks else []
    rows = _rows(given, contenders, turns, decode, peaks)
    _show(rows)
    if given.out:
        record(rows, given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp32", help="of all")
    parser.add_argument(
        "--yardstick-precision", choices=tuple(DTYPES), help="of torchvision's  [default: as all]"
    )
    parser.add_argument("--batch", type=int, default=1, help="images at a time")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/images/photos75"))
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--names", type=int, nargs="+", default=[80, 1203, 20_000])
    parser.add_argument("--regions", type=int, nargs="+", default=[1000, 300])
    parser.add_argument("--masks", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--crops", type=int, default=20, help="regions of CLIP on crops")
    parser.add_argument("--size", type=int, default=1024, help="canvas of all but OWLv2")
    parser.add_argument("--owl-size", type=int, default=960, help="canvas of OWLv2")
    parser.add_argument("--only", nargs="+", default=[*OURS, *TORCHVISIONS, *OTHERS])
    parser.add_argument("--threads", type=int, help="of torch  [default: all]")
    parser.add_argument("--peaks", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def _prepare(given: argparse.Namespace) -> torch.device:
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    return torch.device(given.device)


def _paths(given: argparse.Namespace) -> list[Path]:
    paths = sorted(p for p in given.folder.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"{given.folder} holds no photograph")
    return paths[: given.images]


def _decoded(given: argparse.Namespace) -> tuple[list[Tensor], Seconds]:
    """Images [3, H, W] uint8, and the medians of the seconds that reading one takes."""
    spent: list[Seconds] = []
    images: list[Tensor] = []
    for _ in range(given.rounds):
        images = []
        for path in _paths(given):
            wall, cpu = time.perf_counter(), time.process_time()
            images.append(torch.from_numpy(read_image(path).pixels).permute(2, 0, 1))
            spent.append(Seconds(time.perf_counter() - wall, time.process_time() - cpu))
    return images, _medians(spent)


def one_by_one(run: Callable[[Tensor, Turn], None]) -> Callable[[Sequence[Tensor], Turn], None]:
    """What runs images of a batch one after the other."""

    def of_batch(images: Sequence[Tensor], turn: Turn) -> None:
        for image in images:
            run(image, turn)

    return of_batch


def _chosen(given: argparse.Namespace) -> list[tuple[str, int]]:
    """Contenders by name and regions, in the order of the table."""
    ours = [(name, count) for count in given.regions for name in (*OURS, *TORCHVISIONS)]
    return [which for which in (*ours, *((name, 0) for name in OTHERS)) if which[0] in given.only]


def _contender(
    given: argparse.Namespace, device: torch.device, name: str, regions: int
) -> Contender:
    make = {
        "OWLv2-B/16": _owl,
        "Grounding DINO tiny": _dino,
        "CLIP on crops": _crops,
        **dict.fromkeys(TORCHVISIONS, _torchvisions),
    }.get(name, _ours)
    return make(given, device, name, regions)


def _texts(given: argparse.Namespace) -> dict[int, Tensor]:
    return {names: normalize(torch.randn(names, WIDTH), dim=-1) for names in given.names}


def _detector(system: str, given: argparse.Namespace, device: torch.device) -> Detector:
    architecture = replace(ARCHITECTURES["resnet50"], image_size=given.size)
    return Detector(architecture, SYSTEMS[system], WIDTH).to(device).eval()


def _labeller(texts: Tensor, detector: Detector) -> VocabularyLabeller:
    count = len(texts)
    is_base = torch.arange(count) % 4 > 0
    bank = ScoringBank(texts, torch.arange(1, count + 1), is_base, TEMPERATURE)
    policy = LabelPolicy(floor=0.0)  # random scores are low
    return VocabularyLabeller(bank, detector.scoring_head(TEMPERATURE), policy)


def _ours(given: argparse.Namespace, device: torch.device, name: str, regions: int) -> Contender:
    detector = _detector(name, given, device)
    student = with_later_masks(student_of(detector, regions, given.precision))
    labellers = {names: _labeller(texts, detector) for names, texts in _texts(given).items()}

    def run(images: Sequence[Tensor], turn: Turn) -> None:
        with turn.stage("forward"):
            found = student.regions(images)
        for names, labeller in labellers.items():
            with turn.stage("score", names):
                labels = [labeller.label(regions) for regions in found]
        for masks in given.masks:
            with turn.stage("masks", masks):
                rows = [of_image.regions[:masks] for of_image in labels]
                pasted = sum(map(_paste, found, rows, images))
            turn.made[masks] = pasted / len(images)
        turn.regions = len(found[0])

    names, masks = tuple(given.names), tuple(given.masks)
    return Contender(name, regions, names, masks, run, given.precision)


def _paste(regions: Regions, rows: Tensor, image: Tensor) -> int:
    """Masks at the size of the image, as torchvision's are."""
    height, width = image.shape[1:]
    masks, boxes = made(regions.masks[rows]).numpy(), regions.boxes[rows].tolist()
    pasted = [
        full_frame(*object_mask(mask, box, height, width), height, width)
        for mask, box in zip(masks, boxes, strict=True)
    ]
    return len(pasted)


def _torchvisions(
    given: argparse.Namespace, device: torch.device, name: str, regions: int
) -> Contender:
    from torchvision.models import detection

    model: Any = getattr(detection, name)(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        min_size=given.size,
        max_size=given.size,
        rpn_pre_nms_top_n_test=max(1000, regions),
        rpn_post_nms_top_n_test=regions,
    )
    model = model.to(device).eval()
    logits: list[Tensor] = []
    model.roi_heads.box_predictor.register_forward_hook(lambda m, i, out: logits.append(out[0]))
    precision: Precision = given.yardstick_precision or given.precision
    thresholds = dict[tuple[int, int], float]()

    @torch.inference_mode()
    def find(images: Sequence[Tensor], masks: int, threshold: float) -> Any:
        logits.clear()
        model.roi_heads.score_thresh = threshold
        model.roi_heads.detections_per_img = masks
        with _autocast(device, precision):
            return model([image.to(device).float() / 255 for image in images])

    def run(images: Sequence[Tensor], turn: Turn) -> None:
        for masks in given.masks:
            batch = (id(images[0]), masks)
            if batch not in thresholds:  # once for each batch, and not timed
                find(images, masks, 1.0)
                scores = logits[0].float().softmax(-1)[:, 1:].flatten()
                count = min(CANDIDATES_A_MASK * masks * len(images), len(scores))
                thresholds[batch] = scores.topk(count).values[-1].item()
            with turn.stage("forward", masks):
                found = find(images, masks, thresholds[batch])
            turn.made[masks] = sum(len(of_image["masks"]) for of_image in found) / len(images)
        turn.regions = len(logits[0]) // len(images)

    return Contender(name, regions, (CLASSES,), tuple(given.masks), run, precision)


def _owl(given: argparse.Namespace, device: torch.device, name: str, regions: int) -> Contender:
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    size = given.owl_size
    config = Owlv2Config(vision_config={"image_size": size})
    model: Any = Owlv2ForObjectDetection(config)
    model = model.to(device).eval()
    queries = {names: texts.to(device)[None] for names, texts in _texts(given).items()}
    most = max(given.masks)

    @one_by_one
    @torch.inference_mode()
    def run(image: Tensor, turn: Turn) -> None:
        with turn.stage("forward"), _autocast(device, given.precision):
            height, width = image.shape[1:]
            side = max(height, width)
            square = pad(image.to(device).float() / 255, (0, side - width, 0, side - height))
            features, _ = model.image_embedder(_normalised(_resized(square, (size, size))))
            flat = features.flatten(1, 2)
            found = model.box_predictor(flat, features)
        for names, texts in queries.items():
            with turn.stage("score", names), _autocast(device, given.precision):
                logits, _ = model.class_predictor(flat, texts)
                _best_boxes(logits, found, most)
        turn.regions = flat.shape[1]

    return Contender(name, regions, tuple(given.names), (0,), run, given.precision)


def _dino(given: argparse.Namespace, device: torch.device, name: str, regions: int) -> Contender:
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    config = GroundingDinoConfig()
    model: Any = GroundingDinoForObjectDetection(config)
    model = model.to(device).eval()
    fitting = tuple(names for names in given.names if names * PIECES_A_NAME <= PIECES - 2)
    most = max(given.masks)
    # [CLS] (101), names that end in full stops (1012), [SEP] (102).
    pieces = [101, *[3899, 3899, 1012] * max(fitting, default=1), 102]
    words = torch.tensor([pieces], device=device)
    text = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    with torch.inference_mode():  # BERT, once for all images
        kept: list[Any] = []
        hook = model.model.text_backbone.register_forward_hook(lambda m, i, out: kept.append(out))
        model(pixel_values=torch.zeros(1, 3, 320, 320, device=device), **text)
    hook.remove()
    model.model.text_backbone.forward = lambda *given, **options: kept[0]

    @one_by_one
    @torch.inference_mode()
    def run(image: Tensor, turn: Turn) -> None:
        with turn.stage("forward"), _autocast(device, given.precision):
            height, width = image.shape[1:]
            scale = given.size / max(height, width)
            frame = (round(height * scale), round(width * scale))
            pixels = _normalised(_resized(image.to(device).float() / 255, frame))
            found = model(pixel_values=pixels, **text)
            _best_boxes(found.logits, found.pred_boxes, most)
        turn.regions = found.pred_boxes.shape[1]

    return Contender(name, regions, fitting, (0,), run, given.precision)


def _best_boxes(logits: Tensor, boxes: Tensor, count: int) -> Tensor:
    scores, _ = logits[0].float().sigmoid().max(-1)
    return boxes[0, scores.topk(min(count, len(scores))).indices].cpu()


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(pixels[None], size, mode="bilinear", antialias=True, align_corners=False)


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD)
    )
    return (pixels - mean) / std


def _crops(given: argparse.Namespace, device: torch.device, name: str, regions: int) -> Contender:
    import open_clip

    detector = _detector("vild", given, device)
    student = with_later_masks(student_of(detector, given.crops, given.precision))
    clip: Any = open_clip.create_model("ViT-B-32", pretrained=None).eval().to(device)
    settings = open_clip.get_model_preprocess_cfg(clip)
    side = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]
    recipe = CropRecipe(side, settings["mean"], settings["std"])
    encoder = ImageEncoder(clip.encode_image, recipe, TEMPERATURE, "random", device)
    masks = min(given.crops, *given.masks)

    @one_by_one
    @torch.inference_mode()
    def run(image: Tensor, turn: Turn) -> None:
        with turn.stage("forward"), _autocast(device, given.precision):
            (found,) = student.regions([image])
            embeddings = embed_regions(image, found.boxes, encoder)
        for names, texts in all_texts.items():
            with turn.stage("score", names):
                (embeddings @ texts.T / TEMPERATURE).softmax(-1).max(-1)
        with turn.stage("masks", masks):
            turn.made[masks] = _paste(found, torch.arange(masks), image)
        turn.regions = len(found)

    all_texts = _texts(given)
    return Contender(name, given.crops, tuple(given.names), (masks,), run, given.precision)


def _autocast(device: torch.device, precision: Precision) -> Any:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _measure(
    contenders: Sequence[Contender],
    images: Sequence[Tensor],
    given: argparse.Namespace,
    device: torch.device,
) -> list[list[Turn]]:
    """Turns of each contender, the first one of each left out."""
    turns: list[list[Turn]] = [[] for _ in contenders]
    batches = [images[i : i + given.batch] for i in range(0, len(images), given.batch)]
    for contender in contenders:
        contender.run(batches[0], Turn(device, len(batches[0])))
    for _ in range(given.rounds):
        for some in batches:
            for contender, own in zip(contenders, turns, strict=True):
                turn = Turn(device, len(some))
                contender.run(some, turn)
                own.append(turn)
    return turns


def _alone(work: Any, *arguments: Any) -> Any:
    """In a process of its own: its memory is that of the work."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_mib(given: argparse.Namespace, which: tuple[str, int]) -> float | None:
    """Peak of memory, of the GPU where that computes; None where the system does not say."""
    device = _prepare(given)
    paths = _paths(given)[: given.batch]
    images = [torch.from_numpy(read_image(path).pixels).permute(2, 0, 1) for path in paths]
    _contender(given, device, *which).run(images, Turn(device, len(images)))
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")  # `ru_maxrss` counts the parent's as well
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else None


def _rows(
    given: argparse.Namespace,
    contenders: Sequence[Contender],
    turns: Sequence[list[Turn]],
    decode: Seconds,
    peaks: Sequence[float | None],
) -> list[Row]:
    yardsticks = {
        contender.regions: own
        for contender, own in zip(contenders, turns, strict=True)
        if contender.name == YARDSTICK
    }
    rows = []
    for place, (contender, own) in enumerate(zip(contenders, turns, strict=True)):
        for asked in contender.rows():
            measured = _measured(own, asked, decode)
            if contender.regions in yardsticks:
                measured |= _ratios(own, yardsticks[contender.regions], asked, decode)
            if peaks and peaks[place]:
                measured["peak MiB"] = round(peaks[place] or 0)
            rows.append(_row(given, contender, own[0].regions, asked, measured))
    return rows


def _measured(turns: Sequence[Turn], asked: Asked, decode: Seconds) -> dict[str, float]:
    total = _medians([turn.total(asked) for turn in turns])
    stages = {
        stage: _medians(spent)
        for stage in STAGES
        if (spent := [s for turn in turns if (s := turn.of(stage, asked))])
    }
    return {
        "images/s": round(1 / (decode.wall + total.wall), 4),
        "decode ms": _ms(decode.wall),
        **{f"{stage} ms": _ms(spent.wall) for stage, spent in stages.items()},
        "CPU ms": _ms(decode.cpu + total.cpu),
        "masks made": statistics.median(turn.made.get(asked.masks, 0) for turn in turns),
    }


def _ratios(
    turns: Sequence[Turn], yardstick: Sequence[Turn], asked: Asked, decode: Seconds
) -> dict[str, float]:
    """Time of a turn over that of torchvision's v2 beside it, decoding on both sides."""
    closed = Asked(CLASSES, asked.masks)
    pairs = [(a.total(asked), b.total(closed)) for a, b in zip(turns, yardstick, strict=True)]
    wall = [(a.wall + decode.wall) / (b.wall + decode.wall) for a, b in pairs]
    cpu = [(a.cpu + decode.cpu) / (b.cpu + decode.cpu) for a, b in pairs]
    return {
        "ratio": round(statistics.median(wall), 3),
        "CPU ratio": round(statistics.median(cpu), 3),
    }


def _row(
    given: argparse.Namespace,
    contender: Contender,
    regions: int,
    asked: Asked,
    measured: dict[str, float],
) -> Row:
    return Row(
        item="detect",
        row=contender.name,
        parameters={
            "names": asked.names,
            "regions": regions,
            "masks": asked.masks,
            "precision": contender.precision,
            **({"batch": given.batch} if given.batch > 1 else {}),
            "canvas": given.owl_size if contender.name == "OWLv2-B/16" else given.size,
            "images": given.images,
            "threads": torch.get_num_threads(),
        },
        measured=measured,
        hardware=hardware(torch.device(given.device).type),
        command=command_line("benchmarks.throughput"),
        note=given.note,
    )


def _medians(spent: Sequence[Seconds]) -> Seconds:
    return Seconds(
        statistics.median(s.wall for s in spent), statistics.median(s.cpu for s in spent)
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


def _show(rows: Sequence[Row]) -> None:
    asked = ("names", "regions", "masks")
    found = (*(f"{stage} ms" for stage in STAGES), "CPU ms", "images/s", "ratio", "peak MiB")
    line = "{:<26}" + "{:>8}" * len(asked) + "{:>12}" * len(found)
    print(line.format("", *asked, *found))
    for row in rows:
        values = [row.measured.get(key, "-") for key in found]
        print(line.format(row.row, *(row.parameters[key] for key in asked), *map(str, values)))


if __name__ == "__main__":
    main()
