"""A vocabulary times an attribute set: factorised scores beside a flattened text bank, in one run.

    python -m benchmarks.attributes                        # 1,203 x 11, ViT-B/32's text tower
    python -m benchmarks.attributes --prompts vild-63 --device cuda
    python -m benchmarks.attributes --categories 80 --images 5

Factorised: p + q texts; every region is scored against p names, the labelled ones against q values.
Flattened: p x q texts ("red apple"), and every region is scored against all of them. The encoder
has random weights, the regions are random unit vectors; both sides label the same regions by the
same policy. On every image both have their turn; what is reported is the median after the warm-up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.labelling.labeller import AttributeSet, LabelPolicy, VocabularyLabeller
from vildcli.text.bank import embed_categories
from vildcli.text.context import combine_scoring_bank
from vildcli.text.encoder import OpenClipTextEncoder
from vildcli.text.open_clip_models import simple_tokenizer
from vildcli.text.templates import Prompts, load_prompts
from vildcli.types import Regions
from vildcli.vocabulary.attributes import flatten
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_attributes, load_vocabulary

WARM_UP = 2
Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    encoder, prompts = (
        _encoder(given.model, torch.device(given.device)),
        load_prompts(given.prompts),
    )
    lvis = load_vocabulary("lvis-v1").categories[: given.categories]
    values = load_attributes("colours")["colour"][: given.attributes]
    # Names alone, as prompts without synonyms take them.
    names = tuple(Category(category.id, category.name) for category in lvis)
    words = Vocabulary("words", names, attributes={"colour": values})
    joint = flatten(words)
    factorised, factorised_seconds = _timed(lambda: _labeller(words, encoder, prompts))
    flattened, flattened_seconds = _timed(lambda: _labeller(joint, encoder, prompts))
    labellers = {"factorised": factorised, "flattened": flattened}
    times: dict[str, list[float]] = {name: [] for name in labellers}
    for i in range(WARM_UP + given.images):
        regions = _regions(given.regions, encoder.width, seed=i)
        for name, labeller in labellers.items():
            labels, seconds = _timed(partial(labeller.label, regions))
            assert len(labels) > 0
            if i >= WARM_UP:
                times[name].append(seconds)
    counts = (len(names) + len(values), len(joint))
    sizes = [count * encoder.width * 4 / 2**20 for count in counts]
    image_ms = [statistics.median(seconds) * 1e3 for seconds in times.values()]
    rows: list[tuple[str, float, float]] = [
        ("texts encoded", counts[0], counts[1]),
        ("encoding, s", factorised_seconds, flattened_seconds),
        ("text embeddings, MiB", sizes[0], sizes[1]),
        ("an image, ms", image_ms[0], image_ms[1]),
    ]
    _show(rows, given, len(names), len(values))
    if given.out:
        record(_records(rows, given, len(names), len(values)), given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="of the text tower; scoring is on the CPU")
    parser.add_argument("--model", default="ViT-B-32", help="open_clip architecture")
    parser.add_argument("--prompts", default="single")
    parser.add_argument("--categories", type=int, default=1203, help="at most 1,203")
    parser.add_argument("--attributes", type=int, default=11, help="at most 11")
    parser.add_argument("--regions", type=int, default=300, help="regions an image")
    parser.add_argument("--images", type=int, default=50, help="images that are measured")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def _encoder(architecture: str, device: torch.device) -> OpenClipTextEncoder:
    torch.manual_seed(0)
    model: Any = open_clip.create_model(architecture, pretrained=None).eval().to(device)
    width = int(model.text_projection.shape[1])
    return OpenClipTextEncoder(model, simple_tokenizer(77), {"embed_dim": width}, "random", 0.01)


def _labeller(
    vocabulary: Vocabulary, encoder: OpenClipTextEncoder, prompts: Prompts
) -> VocabularyLabeller:
    def embedded(categories: tuple[Category, ...]) -> Tensor:
        return embed_categories(categories, encoder, prompts, cache=False)

    bank = combine_scoring_bank(
        vocabulary, embedded(vocabulary.categories), base=(), temperature=encoder.temperature
    )
    sets = tuple(
        AttributeSet(name, values, embedded(tuple(Category(0, value) for value in values)))
        for name, values in vocabulary.attributes.items()
    )
    head = ScoringHead(_units(1, encoder.width, 1)[0], 0.01, 0.01, Fusion("ensemble"))
    # Without a floor every region is labelled on both sides.
    return VocabularyLabeller(bank, head, LabelPolicy(floor=0.0), attributes=sets)


def _units(count: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator), dim=-1)


def _regions(count: int, width: int, seed: int) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 500
    boxes = torch.cat([corners, corners + 10 + torch.rand(count, 2, generator=generator) * 130], 1)
    return Regions(
        boxes=boxes,
        proposals=boxes,
        objectness=torch.linspace(1, 0, count),
        masks=torch.zeros(count, 28, 28, dtype=torch.uint8),
        text_side=_units(count, width, seed).half(),
        image_side=_units(count, width, seed + 1000).half(),
    )


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin


def _records(
    rows: Sequence[tuple[str, float, float]], given: argparse.Namespace, names: int, values: int
) -> list[Row]:
    """Keys end in their unit."""
    units = ("texts", "encoding s", "embeddings MiB", "image ms")
    return [
        Row(
            item="attributes",
            row=who,
            parameters={
                "names": names,
                "values": values,
                "prompts": given.prompts,
                "regions": given.regions,
                "images": given.images,
            },
            measured={unit: round(row[1:][side], 3) for unit, row in zip(units, rows, strict=True)},
            hardware=hardware(given.device),
            command=command_line("benchmarks.attributes"),
            note=given.note,
        )
        for side, who in enumerate(("factorised", "flattened"))
    ]


def _show(
    rows: Sequence[tuple[str, float, float]], given: argparse.Namespace, names: int, values: int
) -> None:
    print_heading("benchmarks.attributes", given.device)
    print(f"{names} names x {values} values, {given.prompts}, {given.regions} regions an image")
    print(f"{'':22} {'factorised':>12} {'flattened':>12} {'ratio':>8}")
    for what, ours, theirs in rows:
        print(f"{what:22} {ours:12.5g} {theirs:12.5g} {theirs / ours:8.2f}")


if __name__ == "__main__":
    main()
