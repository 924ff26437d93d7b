from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stub_model import draw_images
from tiny_detector import TINY, tiny_detector
from tiny_student import save_clip, save_student

from vildcli.data.images import read_image
from vildcli.detector.detector import Detector
from vildcli.detector.winograd import MapConvolution
from vildcli.errors import ModelError
from vildcli.labelling.detectors import (
    Precision,
    Student,
    in_precision,
    refuse_precision,
    student_of,
    with_later_masks,
)
from vildcli.labelling.label import LabellingJob, label_images
from vildcli.labelling.model import OpenedModel, open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import read_part
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.tiles import TiledDetector, Tiling
from vildcli.systems import SYSTEMS
from vildcli.types import LaterMasks
from vildcli.vocabulary.category import Category, Vocabulary

WORDS = Vocabulary("fruit", (Category(3, "apple"), Category(5, "pear")))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))


def opened(model: Path, **options: Any) -> OpenedModel:
    return open_labelling_model(
        WORDS, LabellingOptions(model=str(model), offline=True, device="cpu", **options)
    )


def picture(height: int = 50, width: int = 70) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [(50, 70), (64, 64), (1, 1), (700, 3), (33, 65)])
def test_student__canvas_is_the_frame_that_an_image_is_padded_to(size: tuple[int, int]) -> None:
    detector = tiny_detector().eval()
    canvas = detector.canvas(picture(*size))
    assert Student(detector, 10).canvas(*size) == tuple(canvas.pixels.shape[1:])


def test_student__in_bfloat16_finds_about_the_same() -> None:
    detector = tiny_detector().eval()
    (exact,) = Student(detector, 20).regions([picture()])
    (fast,) = Student(detector, 20, "bf16").regions([picture()])
    assert fast.boxes.dtype == fast.objectness.dtype == torch.float32
    assert fast.masks.dtype == torch.uint8
    assert fast.text_side is not None
    assert fast.text_side.dtype == torch.float16
    assert fast.text_side.float().norm(dim=1).sub(1).abs().max() < 2e-3
    assert not torch.equal(exact.objectness, fast.objectness)
    assert exact.objectness[:5].sub(fast.objectness[:5]).abs().max() < 0.02


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_student_of__transforms_would_round_too_much_in_bfloat16(precision: Precision) -> None:
    torch.manual_seed(0)
    detector = Detector(replace(TINY, channels=128), SYSTEMS["vild"], 16).eval()
    student = student_of(detector, 5, precision)
    transformed = any(isinstance(m, MapConvolution) for m in student.detector.modules())
    assert transformed == (precision == "fp32")
    (regions,) = student.regions([picture()])
    assert len(regions) == 5


def test_with_later_masks__not_of_tiles() -> None:
    student = Student(tiny_detector().eval(), 5)
    (regions,) = with_later_masks(student).regions([picture()])
    assert isinstance(regions.masks, LaterMasks)
    tiled = TiledDetector(student, Tiling(40))
    assert with_later_masks(tiled) is tiled


@pytest.mark.parametrize("keep", [False, True])
def test_a_run_makes_masks_of_what_it_stores_alone(tmp_path: Path, keep: bool) -> None:
    path = save_student(tmp_path / "student.safetensors", save_clip(tmp_path / "clip"))
    model, photos = opened(path, regions=12), draw_images(tmp_path / "photos", 2, size=(60, 40))
    policy = replace(model.labeller.policy, floor=0.0, nms_iou=0.1)
    model = replace(model, labeller=replace(model.labeller, policy=policy))
    detector = model.detector.detector
    seen: list[int] = []
    detector.mask_head.register_forward_hook(lambda m, i, logits: seen.append(len(logits)))
    run = open_labelling_run(tmp_path / "run", find_images([str(photos)]), {}, WORDS).folder
    label_images(run, model, LabellingJob(keep_regions=keep))
    stored = read_part(run, "regions", 0).to_pylist()
    assert sum(seen) == len(stored)
    assert (len(stored) == 24) == keep
    assert len(stored) > 2
    for place, image in enumerate(sorted(photos.iterdir())):
        pixels = torch.from_numpy(read_image(image).pixels).permute(2, 0, 1)
        (regions,) = model.detector.regions([pixels])
        for row in (row for row in stored if row["image_id"] == place + 1):
            mask = np.frombuffer(row["mask"], np.uint8).reshape(28, 28).astype(int)
            assert abs(mask - regions.masks[row["region"]].numpy()).max() <= 1


def test_in_precision__fp32_is_the_work_itself() -> None:
    assert in_precision(torch.mm, "fp32", torch.device("cpu")) is torch.mm
    one = torch.rand(4, 4)
    assert in_precision(torch.mm, "bf16", torch.device("cpu"))(one, one).dtype == torch.bfloat16


def test_refuse_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    refuse_precision("bf16", torch.device("cpu"))
    refuse_precision("fp32", torch.device("cuda"))
    with pytest.raises(ModelError, match=r"^This GPU does not compute in bfloat16\.$"):
        refuse_precision("bf16", torch.device("cuda"))


def test_open__what_changes_labels_is_in_the_settings_and_nothing_else(tmp_path: Path) -> None:
    student = save_student(tmp_path / "student.safetensors", save_clip(tmp_path / "clip"))
    plain = opened(student)
    assert plain.settings["precision"] == "float32"
    assert not {"tile", "region_dtype"} & plain.settings.keys()
    other = opened(student, tiling=Tiling(48, 0.25), precision="bf16", region_dtype="int8")
    changed = {k for k in other.settings if other.settings[k] != plain.settings.get(k)}
    assert changed == {"tile", "precision", "region_dtype"}
    assert other.settings["tile"] == [48, 0.25]
    assert other.settings["precision"] == "bfloat16"
    assert isinstance(other.detector, TiledDetector)
    (regions,) = other.detector.regions([picture()])
    assert len(other.labeller.label(regions)) > 0


def test_open__clip_on_crops_proposes_in_tiles_and_crops_the_whole(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    student = save_student(tmp_path / "student.safetensors", clip)
    model = open_labelling_model(
        WORDS,
        LabellingOptions(
            teacher=clip,
            proposals=str(student),
            context="none",
            regions=7,
            tiling=Tiling(40),
            offline=True,
            device="cpu",
        ),
    )
    (regions,) = model.detector.regions([picture()])
    assert len(regions) == 7
    assert model.settings["tile"] == [40, 0.2]


def test_open__int8_is_not_for_embeddings_that_have_lengths(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    student = save_student(tmp_path / "student.safetensors", clip, system="supervised")
    with pytest.raises(ModelError) as caught:
        opened(student, region_dtype="int8")
    assert str(caught.value) == (
        "The embeddings of a supervised model have lengths, which int8 does not keep."
    )
