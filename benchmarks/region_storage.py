"""Region embeddings stored as float16 and as int8: their size, and how many labels change.

    python benchmarks/region_storage.py --model MODEL --images photos --vocab lvis-v1
    python benchmarks/region_storage.py --embeddings clip_images.npy --texts clip_lvis.npy

The first runs a model once over photographs, rounds its regions both ways, labels both with the
same names and writes both. The second takes ready embeddings of one space, such as CLIP's of images
and of names [N, D]: each is named by the softmax over all names, at CLIP's temperature of 0.01, and
compared with what float32 gives.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.data.images import read_image
from vildcli.labelling.model import OpenedModel, open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import part_path, region_schema, write_batches
from vildcli.labelling.rows import region_batch
from vildcli.labelling.sources import find_images
from vildcli.labelling.stored import RegionType, as_stored, from_int8, to_int8
from vildcli.types import RegionLabels, Regions
from vildcli.vocabulary.files import load_vocabulary

KINDS: tuple[RegionType, ...] = ("float16", "int8")
CLIP_TEMPERATURE = 0.01


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    print(f"python {shlex.join(sys.argv)}")
    if given.embeddings:
        _compare_embeddings(given.embeddings, given.texts)
    else:
        _compare_model(given)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a model file or training run")
    parser.add_argument("--images", help="a folder of photographs")
    parser.add_argument("--vocab", default="lvis-v1")
    parser.add_argument("--context", help="as for detect")
    parser.add_argument("--regions", type=int, default=300)
    parser.add_argument("--limit", type=int, default=100, help="images")
    parser.add_argument("--conf", type=float, default=0.3, help="score from which a label is shown")
    parser.add_argument("--device")
    parser.add_argument("--embeddings", type=Path, help="[N, D] .npy, of images")
    parser.add_argument("--texts", type=Path, help="[C, D] .npy, of names")
    given = parser.parse_args(arguments)
    if bool(given.embeddings) != bool(given.texts) or bool(given.model) != bool(given.images):
        parser.error("--model goes with --images, --embeddings with --texts")
    if bool(given.model) == bool(given.embeddings):
        parser.error("give either a model or embeddings")
    return given


@dataclass(slots=True)
class _Changes:
    """Labels of both kinds, counted over images."""

    exact: int = 0
    int8: int = 0
    same: int = 0  # of one region, one name
    moved: list[float] = field(default_factory=list)  # by how much the score of such a label moved

    def add(self, exact: RegionLabels, int8: RegionLabels, floor: float) -> None:
        one, other = (_names(labels, floor) for labels in (exact, int8))
        both = one.keys() & other.keys()
        self.exact, self.int8 = self.exact + len(one), self.int8 + len(other)
        self.same += len(both)
        self.moved += [abs(one[key] - other[key]) for key in both]

    def show(self, what: str) -> None:
        every = self.exact + self.int8 - self.same
        changed = 1 - self.same / every if every else 0.0
        most, mean = (max(self.moved), float(np.mean(self.moved))) if self.moved else (0.0, 0.0)
        print(
            f"{what:24}{self.exact:8} float16 {self.int8:8} int8   {changed:8.3%} differ;"
            f" scores of the others by {mean:.5f}, at most {most:.5f}"
        )


def _names(labels: RegionLabels, floor: float) -> dict[tuple[int, int], float]:
    keys = zip(labels.regions.tolist(), labels.category_ids.tolist(), strict=True)
    scores = labels.scores.tolist()
    return {key: score for key, score in zip(keys, scores, strict=True) if score >= floor}


def _compare_model(given: argparse.Namespace) -> None:
    options = LabellingOptions(
        model=given.model, regions=given.regions, context=given.context, device=given.device
    )
    model = open_labelling_model(load_vocabulary(given.vocab), options)
    stored, shown, images, count = _Changes(), _Changes(), 0, 0
    sizes = dict.fromkeys(KINDS, 0)
    for regions in _regions(model, given.images, given.limit):
        images, count = images + 1, count + len(regions)
        labels = {kind: _labelled(model, regions, kind) for kind in KINDS}
        stored.add(labels["float16"], labels["int8"], 0.0)
        shown.add(labels["float16"], labels["int8"], given.conf)
        for kind in KINDS:
            sizes[kind] += _written(as_stored(regions, kind), labels[kind], kind)
    print(f"{images} images, {count} regions, {given.vocab}")
    for kind in KINDS:
        print(f"{kind:8}{sizes[kind] / max(1, count):10.1f} bytes a region, masks and boxes too")
    stored.show("labels stored")
    shown.show(f"labels from {given.conf}")


def _labelled(model: OpenedModel, regions: Regions, kind: RegionType) -> RegionLabels:
    return model.labeller.label(as_stored(regions, kind))


def _regions(model: OpenedModel, folder: str, limit: int) -> Iterator[Regions]:
    found = find_images([folder])
    for image in found.images[:limit]:
        pixels = read_image(found.roots[image.source] / image.path, image.path).pixels
        yield from model.detector.regions([torch.from_numpy(pixels).permute(2, 0, 1)])


def _written(regions: Regions, labels: RegionLabels, kind: RegionType) -> int:
    batch = region_batch(1, regions, labels, keep=True, kind=kind)
    with tempfile.TemporaryDirectory() as folder:
        write_batches(Path(folder), 0, region_schema(kind), [batch])
        return part_path(Path(folder), "regions", 0).stat().st_size


def _compare_embeddings(images: Path, texts: Path) -> None:
    rows, names = (normalize(torch.from_numpy(np.load(p)).float(), dim=1) for p in (images, texts))
    ways = {"float32": rows, "float16": rows.half().float(), "int8": from_int8(to_int8(rows))}
    scores = {kind: _scores(way, names) for kind, way in ways.items()}
    print(f"{len(rows)} embeddings of {rows.shape[1]} numbers, {len(names)} names")
    exact, best = scores["float32"].max(1)
    for kind in KINDS:
        found, name = scores[kind].max(1)
        differ = (name != best).float().mean().item()
        error = (exact - found).abs()
        cosine = (ways[kind] @ names.T - rows @ names.T).abs().max().item()
        print(
            f"{kind:8}{rows.shape[1] * (1 if kind == 'int8' else 2):6} bytes; {differ:8.3%} get"
            f" another name; best score off by {error.mean():.5f}, at most {error.max():.5f};"
            f" cosines by at most {cosine:.5f}"
        )


def _scores(rows: Tensor, names: Tensor) -> Tensor:
    return (rows @ names.T / CLIP_TEMPERATURE).softmax(1)


if __name__ == "__main__":
    main()
