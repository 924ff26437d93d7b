"""Checks of a FiftyOneDataset folder. Nothing here imports fiftyone."""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vildcli.export.checks.problem import (
    Problem,
    Unique,
    numbers,
    score_problem,
)
from vildcli.export.checks.reading import read_json

METADATA, SAMPLES = "metadata.json", "samples.json"
_TOLERANCE = 1e-3  # of an image's side that a box may reach beyond it


def check_fiftyone(path: Path) -> Iterator[Problem]:
    """What FiftyOne cannot import, or shows where nothing is."""
    path = path if path.is_dir() else path.parent
    metadata, content = (read_json(path / name) for name in (METADATA, SAMPLES))
    if not isinstance(metadata, dict) or not {"version", "sample_fields"} <= metadata.keys():
        yield Problem(METADATA, "has no version or no sample_fields")
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list):
        yield Problem(SAMPLES, "has no list of samples")
        return
    paths = Unique()
    for number, sample in enumerate(samples):
        where = f"samples[{number}]"
        if not isinstance(sample, dict):
            yield Problem(where, "is no object")
            continue
        yield from (Problem(where, what) for what in _path_problems(sample, where, path, paths))
        for field, value in sample.items():
            if isinstance(value, dict) and value.get("_cls") == "Detections":
                yield from _check_detections(value.get("detections"), f"{where}.{field}")


def _check_detections(detections: Any, where: str) -> Iterator[Problem]:
    if not isinstance(detections, list):
        yield Problem(where, "has no list of detections")
        return
    for index, detection in enumerate(detections):
        place = f"{where}[{index}]"
        yield from (Problem(place, what) for what in _detection_problems(detection))


def _path_problems(
    sample: dict[str, Any], where: str, folder: Path, paths: Unique
) -> Iterator[str]:
    filepath = sample.get("filepath")
    if not isinstance(filepath, str) or not filepath:
        yield "has no filepath"
        return
    yield from paths.problem(filepath, "filepath", where)
    if not (folder / filepath).exists():  # an absolute one stays what it is
        yield f"has no image {filepath}"


def _detection_problems(detection: Any) -> Iterator[str]:
    if not isinstance(detection, dict):
        yield "is no object"
        return
    if not isinstance(detection.get("label"), str) or not detection["label"]:
        yield "has no label"
    box = numbers(detection.get("bounding_box"), 4)
    if box is None:
        yield f"has the bounding_box {detection.get('bounding_box')!r}, not x y width height"
    else:
        yield from _box_problems(box)
    yield from score_problem(detection, "confidence")
    if detection.get("mask") is not None and not _is_mask(detection["mask"]):
        yield "has a mask that is empty or cannot be read"


def _box_problems(box: list[float]) -> Iterator[str]:
    x, y, width, height = box
    if width <= 0 or height <= 0:
        yield f"has the bounding_box {box!r} without area"
    elif min(x, y) < -_TOLERANCE or max(x + width, y + height) > 1 + _TOLERANCE:
        yield f"has the bounding_box {box!r}, which leaves its image"


def _is_mask(value: Any) -> bool:
    try:
        packed = base64.b64decode(value["$binary"]["base64"], validate=True)
        mask = np.load(io.BytesIO(zlib.decompress(packed)), allow_pickle=False)
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error, OSError):
        return False
    return mask.ndim == 2 and bool(mask.any())
