"""The regions that a teacher chooses: the cheap way beside a crop of every anchor, in one run.

    python -m benchmarks.chosen_regions --among runs/vild-text              # the demo's world
    python -m benchmarks.chosen_regions --among runs/vild-text --images 3   # small
    python -m benchmarks.chosen_regions --teacher ViT-B-32:openai --data train.json --photos DIR \
        --among runs/vild-text

On every image each way has its turn, so that whatever else the machine does falls on all. Reported
are, of the first regions of each that are apart from base ground truth:

    agreement   share of the exact way's regions that one of these meets with IoU 0.7
    recall      share of all novel objects that one of these meets with IoU 0.5
    crops       that the encoder is asked about, an image
    seconds     an image, the mean; share: of the exact way's, whose crops are cut in batches

The cheap way crops what a class-agnostic detector proposes, and its seconds are the detector's too.
Beside them stand that detector's proposals without a teacher, as many anchors at random, and the
exact way on anchors at twice the stride, a quarter of them. What a loop over crops in PIL would
cost, as the authors' is, is timed on some of the anchors. On a CPU seconds are the processor's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.recording import command_line, hardware
from vildcli import console
from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage, load_annotations
from vildcli.devices import choose_device
from vildcli.runs import write_json
from vildcli.teacher.anchors import STRIDE, make_anchors
from vildcli.teacher.chosen_regions import SURPLUS, RegionChoice, apart_from
from vildcli.teacher.crops import scale_box
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.ground_truth import base_truth, solid_objects
from vildcli.teacher.known_names import known_names
from vildcli.teacher.proposals import Proposals, open_proposals
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import text_encoder_of
from vildcli.text.open_clip_models import CONFIG_FILE, load_open_clip
from vildcli.text.templates import load_prompts
from vildcli.world.teacher import train_teacher
from vildcli.world.world import draw_world

AGREEMENT_IOU, RECALL_IOU = 0.7, 0.5
COARSE = 2  # times the stride, of the baseline
LOOPED, LOOP_BATCH = 30, 100  # one of so many anchors is cropped in PIL; crops a forward
EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to choose.

    Attributes:
        choose: an image and its pixels to candidates [R, 4], best first.
    """

    name: str
    choose: Callable[[AnnotatedImage, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured on.

    Attributes:
        novel: boxes [N, 4] by image id.
    """

    images: Sequence[AnnotatedImage]
    folder: Path
    exact: RegionChoice
    proposals: Proposals
    novel: Mapping[int, Tensor]
    crops: list[int]  # one, counted up by the encoder


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    subject = _open(given)
    found: dict[str, list[tuple[float, int, float, int, int]]] = defaultdict(list)
    looped: list[float] = []
    device = subject.exact.encoder.device
    for i, image in enumerate(subject.images):
        pixels = _pixels(subject, image)
        truth = subject.exact.truth.boxes(image.id)
        exact: Tensor | None = None
        for way in _ways(subject, given, i):
            subject.crops[0] = 0
            begin = _seconds(device)
            boxes = way.choose(image, pixels)
            seconds = _seconds(device) - begin
            boxes = apart_from(boxes, truth)[: given.regions]
            exact = boxes if exact is None else exact
            novel = subject.novel[image.id]
            found[way.name].append(
                (
                    _met(exact, boxes, AGREEMENT_IOU) / max(1, len(exact)),
                    _met(novel, boxes, RECALL_IOU),
                    seconds,
                    subject.crops[0],
                    len(boxes),
                )
            )
        looped.append(_loop(subject, pixels))
        console.say(f"{i + 1} of {len(subject.images)} images")
    _report(found, statistics.fmean(looped), subject, given)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/chosen-regions"), help="world, teacher"
    )
    parser.add_argument("--results", type=Path, help="JSON that the numbers are written to")
    parser.add_argument("--tower", choices=["resnet", "transformer"], default="resnet")
    parser.add_argument("--teacher", help="open_clip reference, instead of the world's own")
    parser.add_argument("--data", type=Path, help="COCO or LVIS JSON, instead of the world's")
    parser.add_argument("--photos", type=Path, help="folder of its images")
    parser.add_argument("--base", help="its base categories, where LVIS does not say")
    parser.add_argument(
        "--among", required=True, help="whose proposals the cheap way crops: a model, a JSON"
    )
    parser.add_argument("--names", default="all")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--regions", type=int, default=300)
    parser.add_argument("--stride", type=int, default=STRIDE, help="of the anchors; more: a trial")
    parser.add_argument("--device")
    return parser.parse_args(arguments)


def _open(given: argparse.Namespace) -> Subject:
    data, folder, reference = _world(given)
    annotations = load_annotations(data)
    truth = base_truth(annotations, given.base)
    names = known_names(given.names, annotations.categories, truth.is_base)
    clip = load_open_clip(reference)
    encoder = image_encoder_of(clip, choose_device(given.device))
    crops = [0]

    def encode(batch: Tensor) -> Tensor:
        crops[0] += len(batch)
        embeddings: Tensor = encoder.encode(batch)
        return embeddings

    counting = replace(encoder, encode=encode)
    texts = embed_categories(names.categories, text_encoder_of(clip), load_prompts("ezsd"))
    exact = RegionChoice(counting, names, texts, truth, given.regions, "best", stride=given.stride)
    count = SURPLUS * given.regions
    proposals = open_proposals(given.among, annotations, encoder.device, count=count)
    pairs = zip(annotations.categories, truth.is_base, strict=True)
    novel_ids = {category.id for category, is_base in pairs if not is_base}
    images = annotations.images[: given.images]
    novel = {
        image.id: torch.tensor(
            [a.box for a in solid_objects(annotations.annotations.get(image.id, ()), novel_ids)]
        ).reshape(-1, 4)
        for image in images
    }
    return Subject(images, folder, exact, proposals, novel, crops)


def _world(given: argparse.Namespace) -> tuple[Path, Path, str]:
    """Annotations, their images and a teacher; of the small world unless others were named."""
    if given.data:
        return given.data, given.photos or given.data.parent, given.teacher or "ViT-B-32:openai"
    world = draw_world(given.out / "world")
    teacher = given.out / f"teacher-{given.tower}"
    if not given.teacher and not (teacher / CONFIG_FILE).is_file():  # written last
        with console.progress("Training the teacher", None) as advance:
            train_teacher(
                world.captions_json,
                world.caption_images,
                teacher,
                tower=given.tower,
                advance=advance,
            )
    return world.val_json, world.val_images, given.teacher or f"local-dir:{teacher}"


def _ways(subject: Subject, given: argparse.Namespace, seed: int) -> list[Way]:
    """The exact way first, which the others are held against."""
    exact, proposals = subject.exact, subject.proposals
    step = COARSE * given.stride
    return [
        Way(EXACT, exact.candidates),
        Way("cheap", replace(exact, among=proposals).candidates),
        Way(f"stride {step}", replace(exact, stride=step).candidates),
        Way("proposals alone", proposals.propose),
        Way("random", lambda image, pixels: _random(pixels, given, seed)),
    ]


def _random(pixels: Tensor, given: argparse.Namespace, seed: int) -> Tensor:
    boxes = make_anchors(pixels.shape[-2], pixels.shape[-1], given.stride)
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(seed))
    # More than are needed, for some are base ground truth.
    return boxes[order[: 2 * given.regions]]


def _pixels(subject: Subject, image: AnnotatedImage) -> Tensor:
    decoded = read_image(subject.folder / image.file_name)
    return torch.from_numpy(decoded.pixels).permute(2, 0, 1)


@torch.inference_mode()
def _loop(subject: Subject, pixels: Tensor) -> float:
    """Seconds that cropping every anchor of an image in PIL would take, by some of them."""
    encoder = subject.exact.encoder
    recipe = encoder.recipe
    settings = PreprocessCfg(recipe.size, mean=recipe.mean, std=recipe.std, resize_mode="longest")
    preprocess = image_transform_v2(settings, is_train=False)
    boxes = make_anchors(pixels.shape[-2], pixels.shape[-1], subject.exact.stride)[::LOOPED]
    begin = _seconds(encoder.device)
    photograph = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for some in torch.split(boxes, LOOP_BATCH):
        windows = [scale_box(box, 1.0, *pixels.shape[-2:]) for box in some.tolist()]
        crops = [preprocess(photograph.crop((x1, y1, x2, y2))) for x1, y1, x2, y2 in windows]
        encoder.encode(torch.stack(crops).to(encoder.device))
    return LOOPED * (_seconds(encoder.device) - begin)


def _seconds(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _met(wanted: Tensor, boxes: Tensor, least: float) -> int:
    """How many boxes [W, 4] one of the boxes [R, 4] meets."""
    if not len(wanted) or not len(boxes):
        return 0
    return int((box_iou(wanted, boxes).amax(1) >= least).sum())


def _report(
    found: Mapping[str, Sequence[tuple[float, int, float, int, int]]],
    loop: float,
    subject: Subject,
    given: argparse.Namespace,
) -> None:
    novel = sum(len(boxes) for boxes in subject.novel.values())
    count = len(subject.images)
    exact = sum(row[2] for row in found[EXACT])
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "agreement": round(sum(row[0] for row in measured) / count, 4),
            "recall": round(sum(row[1] for row in measured) / max(1, novel), 4),
            "crops": round(sum(row[3] for row in measured) / count, 1),
            "seconds": round(sum(row[2] for row in measured) / count, 3),
            "share": round(sum(row[2] for row in measured) / exact, 4),
            "regions": round(sum(row[4] for row in measured) / count, 1),
        }
        for name, measured in found.items()
    ]
    title = f"{count} images, {novel} novel objects, {given.regions} regions an image"
    console.show_table(title, tuple(rows[0]), [tuple(row.values()) for row in rows])
    about = {
        "images": count,
        "novel_objects": novel,
        "anchors": round(
            sum(len(make_anchors(i.height, i.width, given.stride)) for i in subject.images) / count
        ),
        "among": given.among,
        "loop_seconds": round(loop, 1),
        "teacher": given.teacher or f"the small world's, {given.tower}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "hardware": hardware(str(subject.exact.encoder.device)),
        "date": date.today().isoformat(),
        "command": command_line("benchmarks.chosen_regions"),
    }
    for name, value in about.items():
        console.say(f"{name}: {value}")
    if given.results:
        write_json(given.results, {"rows": rows, **about})


if __name__ == "__main__":
    main()
