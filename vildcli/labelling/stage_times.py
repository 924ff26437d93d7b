"""How long an image takes on this machine, stage by stage, and what bounds each stage.

    decode ─▶ canvas ─▶ backbone ─▶ proposals ─▶ region heads ─▶ masks ─▶ score ─▶ write

The stages are those of `detect`, here one after the other, where `detect` decodes, scores and
writes beside the model. The forward pass is split where the detector first calls the parts in
`PARTS`; a detector of another kind is one stage. Scoring is measured for any numbers of names.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import normalize

from vildcli.data.images import read_image
from vildcli.detector.architecture import Architecture
from vildcli.detector.detector import Detector
from vildcli.detector.scoring import ScoringHead
from vildcli.errors import ModelError
from vildcli.labelling.batches import RegionDetector
from vildcli.labelling.detectors import DTYPES, Precision, Student, refuse_precision, student_of
from vildcli.labelling.labeller import LabelPolicy, VocabularyLabeller
from vildcli.labelling.model import load_labelling_model
from vildcli.labelling.operations import (
    TURNS,
    Limit,
    Operations,
    Rates,
    clock,
    limit_of,
    measure_rates,
)
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.plan import PlannedImage
from vildcli.labelling.records import part_path, region_schema, write_batches, write_part
from vildcli.labelling.rows import image_embedding, image_row, label_rows, region_batch
from vildcli.labelling.words import ClosedSet
from vildcli.systems import SYSTEMS
from vildcli.text.context import ScoringBank
from vildcli.vocabulary.category import Vocabulary

# A stage of the forward pass lasts from the first call of one of these parts to that of the next.
PARTS = {
    "backbone": "backbone",
    "proposal_head": "proposals",
    "box_pool": "region heads",
    "mask_pool": "masks",
}
BEFORE, WHOLE = "canvas", "forward"  # what comes before the first part; all, where there is none
RANDOM_WIDTH = 512  # D of CLIP ViT-B/32
RANDOM_TEMPERATURE = 0.01  # of CLIP
_SEED = 0
_TABLES = ("regions", "labels", "images")
_Stage = tuple[str, int | None]  # its name, and how many names were scored
_Laps = dict[_Stage, NDArray[np.float64]]  # by how much a reading grew in each stage


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        head: scores regions against random names.
        labellers: of real names, by their number.
        device: that the detector works on; the other stages are the CPU's.
    """

    detector: RegionDetector
    head: ScoringHead
    labellers: Mapping[int, VocabularyLabeller]
    device: torch.device


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage of one image.

    Attributes:
        names: that were scored; None of a stage that knows none.
        seconds: median over images and turns.
        flops: of products and convolutions, mean over images.
        bytes: of every operation's arguments and results, mean over images. Decoding reads a file
            and gives pixels; writing reads records and gives files.
    """

    stage: str
    names: int | None
    seconds: float
    flops: float
    bytes: float
    limit: Limit


@dataclass(frozen=True, slots=True)
class StageTimes:
    """What an image took.

    Attributes:
        stages: in order; `score` once for each number of names.
        labels: an image, mean, by number of names.
        regions: an image, mean.
        turns: of every image.
    """

    stages: tuple[StageTime, ...]
    labels: Mapping[int, float]
    regions: float
    turns: int

    def seconds(self, names: int) -> float:
        """A whole image, scored against so many names."""
        return sum(stage.seconds for stage in self.stages if stage.names in (None, names))


def random_subject(
    architecture: Architecture, regions: int, precision: Precision, device: torch.device
) -> Subject:
    """A `vild-ensemble` of random weights: takes the time of a trained one, and finds nothing.

    Raises:
        ModelError: the device does not compute in that precision.
    """
    refuse_precision(precision, device)
    torch.manual_seed(_SEED)
    detector = Detector(architecture, SYSTEMS["vild-ensemble"], RANDOM_WIDTH).to(device).eval()
    head = detector.scoring_head(RANDOM_TEMPERATURE)
    return Subject(student_of(detector, regions, precision), head, {}, device)


def labelling_subject(
    vocabulary: Vocabulary | None, names: Sequence[int], options: LabellingOptions
) -> Subject:
    """A model, and its labeller for a vocabulary.

    Raises:
        ModelError: it cannot be loaded, or has no text space for the random names asked for.
        VocabularyError: the vocabulary cannot be embedded.
    """
    loaded = load_labelling_model(options)
    if names and isinstance(loaded.parts.words, ClosedSet):
        raise ModelError(
            f"{options.model} knows only the names that it was trained on.",
            hint="Give some of them as --vocab V, and no --names.",
        )
    labellers = {}
    if vocabulary is not None:
        labellers[len(vocabulary.categories)] = loaded.open(vocabulary).labeller
    return Subject(loaded.parts.detector, loaded.parts.head, labellers, loaded.device)


def draw_photograph(path: Path) -> None:
    """Smooth noise with grain as a JPEG of 640x480: decodes as slowly as a photograph does."""
    noise = np.random.default_rng(_SEED)
    coarse = Image.fromarray(noise.integers(0, 256, (12, 16, 3), np.uint8))
    pixels = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
    pixels = pixels + noise.integers(-8, 9, pixels.shape, np.int16)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def random_labeller(head: ScoringHead, names: int, width: int) -> VocabularyLabeller:
    """Scores names whose embeddings [C, D] are random; a quarter of them is novel."""
    generator = torch.Generator().manual_seed(_SEED)
    embeddings = normalize(torch.randn(names, width, generator=generator), dim=-1)
    ids = torch.arange(1, names + 1)
    return VocabularyLabeller(
        ScoringBank(embeddings, ids, ids % 4 > 0, head.temperature), head, LabelPolicy()
    )


def machine_rates(device: torch.device, precision: Precision) -> dict[str, Rates]:
    """What can be done at best in the `forward` pass, and in the `rest`, which is the CPU's."""
    rest = measure_rates(torch.device("cpu"), torch.float32)
    if device.type == "cpu" and precision == "fp32":
        return {"forward": rest, "rest": rest}
    return {"forward": measure_rates(device, DTYPES[precision]), "rest": rest}


def measure_stages(
    subject: Subject,
    images: Sequence[Path],
    names: Sequence[int],
    rates: Mapping[str, Rates],
    *,
    turns: int = TURNS,
    advance: Callable[[int], None] = lambda turns: None,
) -> StageTimes:
    """Take images through all stages, one by one, turn by turn.

    Args:
        images: files.
        names: numbers of random names, beside those of the subject's labellers.
        rates: as `machine_rates` measured them.
        turns: after one that warms up and one in which operations are counted.
        advance: told of each of these.

    Raises:
        DataError: an image cannot be read.
    """
    labellers = _labellers(subject, images[0], names)
    with tempfile.TemporaryDirectory(prefix="vildcli-bench-") as folder:
        bench = _Bench(subject, labellers, Path(folder), rates)
        warm = [bench.time(path) for path in images]
        advance(1)
        asked = [bench.count(path) for path in images]
        advance(1)
        taken = []
        for _ in range(turns):
            taken += [bench.time(path) for path in images]
            advance(1)
    return StageTimes(
        stages=tuple(bench.stage(stage, taken, asked) for stage in warm[0]),
        labels={count: statistics.fmean(found) for count, found in bench.labels.items()},
        regions=statistics.fmean(bench.regions),
        turns=turns,
    )


def _labellers(
    subject: Subject, image: Path, names: Sequence[int]
) -> dict[int, VocabularyLabeller]:
    """By number of names, in order."""
    pixels = torch.from_numpy(read_image(image).pixels).permute(2, 0, 1)
    (regions,) = subject.detector.regions([pixels])
    side = regions.text_side if regions.text_side is not None else regions.image_side
    assert side is not None, "regions have embeddings"
    made = {count: random_labeller(subject.head, count, side.shape[1]) for count in names}
    return dict(sorted({**made, **subject.labellers}.items()))


class _Bench:
    """Takes one image after the other through the stages, with a clock or a counter in hand."""

    def __init__(
        self,
        subject: Subject,
        labellers: Mapping[int, VocabularyLabeller],
        folder: Path,
        rates: Mapping[str, Rates],
    ) -> None:
        self._subject, self._labellers = subject, labellers
        self._folder, self._rates = folder, rates
        self.labels: dict[int, list[int]] = {count: [] for count in labellers}
        self.regions: list[int] = []

    def time(self, path: Path) -> _Laps:
        """Seconds [1] of each stage."""
        return self._turn(path, lambda: np.array([clock(self._subject.device)]))

    def count(self, path: Path) -> _Laps:
        """FLOPs and bytes [2] of each stage."""
        with Operations() as operations:
            laps = self._turn(path, lambda: np.array([operations.flops, operations.bytes], float))
        written = [part_path(self._folder, table, 0).stat().st_size for table in _TABLES]
        laps["decode", None] += [0, path.stat().st_size + read_image(path).pixels.nbytes]
        laps["write", None] += [0, sum(written)]
        return laps

    def stage(self, stage: _Stage, taken: Sequence[_Laps], asked: Sequence[_Laps]) -> StageTime:
        """One stage of all images and turns, held against what the machine can do."""
        seconds = statistics.median(laps[stage].item() for laps in taken)
        flops, size = (float(x) for x in np.mean([laps[stage] for laps in asked], 0))
        is_forward = stage[0] in (BEFORE, WHOLE, *PARTS.values())
        rates = self._rates["forward" if is_forward else "rest"]
        return StageTime(*stage, seconds, flops, size, limit_of(seconds, flops, size, rates))

    def _turn(self, path: Path, read: Callable[[], NDArray[np.float64]]) -> _Laps:
        laps: _Laps = {}

        @contextmanager
        def lap(stage: str, names: int | None = None) -> Iterator[None]:
            begin = read()
            yield
            laps[stage, names] = read() - begin

        with lap("decode"):
            image = read_image(path)
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
        with _splitting(self._subject.detector, read) as marks:
            (regions,) = self._subject.detector.regions([pixels])
        for (stage, begin), (_, end) in itertools.pairwise(marks):
            laps[stage, None] = end - begin
        self.regions.append(len(regions))
        for count, labeller in self._labellers.items():
            with lap("score", count):
                labels = labeller.label(regions)
            self.labels[count].append(len(labels))
        with lap("write"):
            planned = PlannedImage(1, "bench", path.name, image.bytes, image.mtime_ns, 0)
            row = {**image_row(planned, image), "embedding": image_embedding(regions)}
            batch = region_batch(1, regions, labels, True, "float16")
            write_batches(self._folder, 0, region_schema("float16"), [batch])
            write_part(self._folder, "labels", 0, list(label_rows(1, labels)))
            write_part(self._folder, "images", 0, [row])
        return laps


@contextmanager
def _splitting(
    detector: RegionDetector, read: Callable[[], NDArray[np.float64]]
) -> Iterator[list[tuple[str, NDArray[np.float64]]]]:
    """Stages of the forward pass, each with the reading at its begin; and one at the end."""
    marks = [(WHOLE, read())]

    def begin(stage: str) -> None:
        if stage not in dict(marks):  # masks are made image by image
            marks.append((stage, read()))

    hooks = []
    if isinstance(detector, Student):
        for part, stage in PARTS.items():
            module = detector.detector.get_submodule(part)
            hooks.append(module.register_forward_pre_hook(lambda *_, stage=stage: begin(stage)))
    try:
        yield marks
    finally:
        for hook in hooks:
            hook.remove()
    if len(marks) > 1:
        marks[0] = (BEFORE, marks[0][1])
    marks.append(("end", read()))
