from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stub_model import StubDetector
from tiny_detector import TINY

from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.labelling.operations import Operations, Rates
from vildcli.labelling.stage_times import (
    StageTimes,
    Subject,
    draw_photograph,
    measure_stages,
    random_labeller,
    random_subject,
)

RATES = {"forward": Rates(flops=1e9, bytes=1e8), "rest": Rates(flops=1e7, bytes=1e6)}
FORWARD = ("canvas", "backbone", "proposals", "region heads", "masks")
CPU = torch.device("cpu")


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    draw_photograph(tmp_path / "drawn.jpg")
    return tmp_path / "drawn.jpg"


def measured(photograph: Path, subject: Subject | None = None) -> StageTimes:
    subject = subject or random_subject(TINY, 20, "fp32", CPU)
    return measure_stages(subject, [photograph, photograph], (3, 50), RATES, turns=2)


def test_stages__are_those_of_detect_in_order(photograph: Path) -> None:
    times = measured(photograph)
    found = [(stage.stage, stage.names) for stage in times.stages]
    forward = [(name, None) for name in FORWARD]
    assert found == [
        ("decode", None),
        *forward,
        ("score", 3),
        ("score", 50),
        ("write", None),
    ]
    assert all(stage.seconds > 0 for stage in times.stages)
    assert times.turns == 2
    assert 0 < times.regions <= 20
    assert list(times.labels) == [3, 50]


def test_seconds__of_an_image_are_those_of_its_stages_and_one_scoring(photograph: Path) -> None:
    times = measured(photograph)
    by_stage = {(stage.stage, stage.names): stage.seconds for stage in times.stages}
    rest = sum(seconds for (name, _), seconds in by_stage.items() if name != "score")
    for names in (3, 50):
        assert times.seconds(names) == pytest.approx(rest + by_stage["score", names])


def test_operations__of_the_parts_are_those_of_the_whole(photograph: Path) -> None:
    subject = random_subject(TINY, 20, "fp32", CPU)
    stages = {(s.stage, s.names): s for s in measured(photograph, subject).stages}
    (regions,) = subject.detector.regions([torch.zeros(3, 480, 640, dtype=torch.uint8)])
    with Operations() as asked:
        subject.detector.regions([torch.zeros(3, 480, 640, dtype=torch.uint8)])
    parts = sum(stages[name, None].flops for name in FORWARD)
    assert parts == pytest.approx(asked.flops, rel=0.1)  # another image has other regions
    assert stages["canvas", None].flops == 0
    heads = stages["score", 50].flops - stages["score", 3].flops
    assert heads == 2 * 2 * 47 * 512 * measured(photograph, subject).regions  # two sides
    assert len(regions) <= 20


def test_limit__of_the_forward_pass_is_that_of_its_device(photograph: Path) -> None:
    for stage in measured(photograph).stages:
        rates = RATES["forward" if stage.stage in FORWARD else "rest"]
        longest = max(stage.flops / rates.flops, stage.bytes / rates.bytes)
        assert stage.limit.seconds == pytest.approx(longest)
        assert stage.limit.times == pytest.approx(stage.seconds / longest)


def test_bytes__of_decoding_and_writing_are_files_and_pixels(photograph: Path) -> None:
    stages = {s.stage: s for s in measured(photograph).stages}
    assert stages["decode"].bytes == photograph.stat().st_size + 3 * 640 * 480
    assert stages["write"].bytes > 20 * 2 * 512  # embeddings of two sides, compressed


def test_another_detector__is_one_stage(photograph: Path) -> None:
    head = ScoringHead(torch.zeros(8), 0.1, 0.1, Fusion("text"))
    stages = measured(photograph, Subject(StubDetector(), head, {}, CPU)).stages
    assert [s.stage for s in stages] == ["decode", "forward", "score", "score", "write"]


def test_hooks__do_not_stay(photograph: Path) -> None:
    subject = random_subject(TINY, 20, "fp32", CPU)
    measured(photograph, subject)
    modules = subject.detector.detector.modules()  # type: ignore[attr-defined]
    assert not any(module._forward_pre_hooks for module in modules)


def test_real_names__stand_beside_random_ones(photograph: Path) -> None:
    subject = random_subject(TINY, 20, "fp32", CPU)
    real = random_labeller(subject.head, 7, 512)
    named = Subject(subject.detector, subject.head, {7: real}, CPU)
    assert list(measured(photograph, named).labels) == [3, 7, 50]


def test_random_labeller__knows_its_names(photograph: Path) -> None:
    subject = random_subject(TINY, 20, "fp32", CPU)
    labeller = random_labeller(subject.head, 8, 512)
    assert labeller.bank.text_embeddings.shape == (8, 512)
    assert labeller.bank.category_ids.tolist() == list(range(1, 9))
    assert labeller.bank.is_base.sum() == 6
