"""One run, a process a device: what real models in real processes write."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_run import JOB, VOCABULARY, draw_noise, opened, parts, student_options

from vildcli.errors import ModelError, RunError
from vildcli.labelling import many_devices
from vildcli.labelling.label import Watch, label_images
from vildcli.labelling.many_devices import label_on_devices, refuse_mixed
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import done_units


@pytest.fixture
def options(tmp_path: Path) -> LabellingOptions:
    return student_options(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_noise(tmp_path / "photos", 40)  # three units


@pytest.mark.slow
def test_label_on_devices__writes_what_one_process_writes(
    tmp_path: Path, photos: Path, options: LabellingOptions
) -> None:
    torch.set_num_threads(1)
    alone = opened(tmp_path / "alone", photos)
    label_images(alone.folder, open_labelling_model(VOCABULARY, options), JOB)
    both, advanced = opened(tmp_path / "both", photos), []
    watch = Watch(advance=advanced.append)
    devices = ("cpu", "cpu")
    summary = label_on_devices(both.folder, VOCABULARY, options, JOB, devices, watch, skipped=3)
    assert parts(both.folder) == parts(alone.folder)
    assert (summary.images, summary.labelled, summary.failed) == (42, 41, 1)
    assert (summary.resumed, summary.skipped) == (0, 3)
    assert sum(advanced) == 42
    assert watch.seconds.forward > 0


@pytest.mark.slow
def test_label_on_devices__a_killed_process_is_an_error_and_the_others_go_on(
    tmp_path: Path, photos: Path, options: LabellingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(tmp_path / "run", photos)
    started: list[Any] = []
    wait = many_devices.wait

    def kill_the_first(pipes: Any) -> Any:
        if not started:
            started.append(True)
            child = next(iter(many_devices.multiprocessing.active_children()))
            os.kill(child.pid or 0, signal.SIGKILL)
        return wait(pipes)

    monkeypatch.setattr(many_devices, "wait", kill_the_first)
    with pytest.raises(RunError, match=r"^The process on cpu was killed by signal 9\.$") as caught:
        label_on_devices(run.folder, VOCABULARY, options, JOB, ("cpu", "cpu"))
    assert caught.value.hint == "What the others labelled is kept; the same command continues."
    done = done_units(run.folder)
    assert 0 < len(done) < len({image.unit for image in run.plan})


@pytest.mark.slow
def test_label_on_devices__says_why_a_process_failed(
    tmp_path: Path, photos: Path, options: LabellingOptions
) -> None:
    run, told = opened(tmp_path / "run", photos), []
    Path(options.model).unlink()
    with pytest.raises(RunError) as caught:
        label_on_devices(run.folder, VOCABULARY, options, JOB, ("cpu",), Watch(failed=told.append))
    assert str(caught.value).startswith("The process on cpu failed: ")
    assert options.model in str(caught.value)
    assert len(told) == 1
    assert told[0].startswith("cpu: ")


def test_refuse_mixed__kinds_of_devices() -> None:
    assert refuse_mixed(("cuda:0", "cuda:1")) == "cuda"
    with pytest.raises(ModelError, match=r"--devices are of several kinds \(cpu, cuda\)"):
        refuse_mixed(("cpu", "cuda:1"))
