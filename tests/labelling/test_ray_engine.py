"""One run on a Ray cluster: what actors of real models on two nodes write, and what stops them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from tiny_student import save_clip, save_student

from vildcli import __version__, cli
from vildcli.errors import MissingDependencyError, RunError
from vildcli.labelling import ray_engine
from vildcli.labelling.label import LabellingJob, Watch, label_images
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.ray_engine import (
    RayChoices,
    UnitLabeller,
    _Pool,
    _pool,
    _Task,
    kind_of_device,
    label_on_ray,
)
from vildcli.labelling.records import SCHEMAS, done_units, iter_images, part_path
from vildcli.labelling.run import LabellingRun, open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.runs import read_run
from vildcli.vocabulary.category import Category, Vocabulary

VOCABULARY = Vocabulary("fruit", (Category(1, "apple"), Category(2, "plum")))
JOB = LabellingJob(keep_regions=True, batch_size=4, workers=1)
IMAGES = 160  # ten units


@pytest.fixture
def options(tmp_path: Path) -> LabellingOptions:
    clip = save_clip(tmp_path / "clip")
    model = save_student(tmp_path / "model.safetensors", clip)
    return LabellingOptions(model=str(model), regions=8, context="none", offline=True, device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(IMAGES):
        pixels = torch.randint(0, 256, (40, 30, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:03d}.png")
    (folder / "bad.png").write_text("hello")
    (folder / "copy.png").write_bytes((folder / "007.png").read_bytes())
    return folder


def give_up(*_: object) -> None:
    raise TimeoutError


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a cluster of two nodes on this machine, that talks to nobody else."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(900)  # what does not fit into a cluster waits for ever
    ray = pytest.importorskip("ray", reason="pip install 'vildcli[data]'")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with TemporaryDirectory(prefix="r", dir="/tmp") as folder:  # sockets have short names
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine starves actors
        node: dict[str, Any] = {
            "num_cpus": 2,
            "num_gpus": 0,
            "node_ip_address": "127.0.0.2",  # Ray replaces the usual one by that of a network
            "object_store_memory": 128 << 20,
            "include_dashboard": False,
        }
        cluster = cluster_utils.Cluster(True, head_node_args=node)
        try:
            cluster.add_node(**node)
            yield cluster.address
        finally:
            signal.alarm(0)
            ray.shutdown()
            cluster.shutdown()


def opened(folder: Path, photos: Path) -> LabellingRun:
    return open_labelling_run(folder, find_images([str(photos)]), {}, VOCABULARY, dedupe=True)


def parts(run: Path) -> dict[str, bytes]:
    return {
        f"{table}/{unit}": part_path(run, table, unit).read_bytes()
        for table in SCHEMAS
        for unit in done_units(run)
    }


def actors() -> dict[int, int]:
    """Process ids of the actors that label, each with that of its node."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                status = (process / "stat").read_text().rpartition(") ")[2].split()
                found[int(process.name)] = int(status[1])
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray, and of what it imports
@pytest.mark.skipif(sys.platform != "linux", reason="finds actors in /proc")
def test_label_on_ray__two_nodes_and_a_lost_actor_write_what_one_process_writes(
    tmp_path: Path, photos: Path, options: LabellingOptions, two_nodes: str
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as many as an actor has: last bits depend on it
    alone = opened(tmp_path / "alone", photos)
    whole = label_images(alone.folder, open_labelling_model(VOCABULARY, options), JOB)
    torch.set_num_threads(threads)
    run, killed = opened(tmp_path / "ray", photos), []

    def kill_one_on_the_way() -> None:
        while len(done_units(run.folder)) < 2:
            time.sleep(0.01)
        killed.append((len(done_units(run.folder)), actors()))
        os.kill(next(iter(killed[0][1])), signal.SIGKILL)

    killer = threading.Thread(target=kill_one_on_the_way, daemon=True)
    killer.start()
    advanced: list[int] = []
    watch = Watch(advance=advanced.append)
    choices = RayChoices(two_nodes)
    summary = label_on_ray(run.folder, VOCABULARY, options, JOB, choices, watch, skipped=3)
    killer.join()
    ((done, processes),) = killed
    assert done < 10
    assert len(set(processes.values())) == 2, "actors on both nodes"
    assert parts(run.folder) == parts(alone.folder)
    ids = [image.image_id for image in iter_images(run.folder)]
    assert sorted(ids) == list(range(1, IMAGES + 3))
    assert (summary.labels, summary.failed, summary.skipped) == (whole.labels, 1, 3)
    assert (summary.images, summary.labelled, summary.resumed) == (IMAGES + 2, IMAGES + 1, 0)
    assert sum(advanced) == IMAGES + 2
    assert watch.seconds.forward > 0

    choices = RayChoices(two_nodes, actors=1)
    part_path(run.folder, "images", 5).unlink()
    resumed = label_on_ray(run.folder, VOCABULARY, options, JOB, choices)
    assert resumed.resumed == IMAGES + 2 - 16
    assert parts(run.folder) == parts(alone.folder)

    part_path(run.folder, "images", 5).unlink()
    (run.folder / "regions" / "000005.parquet").unlink()
    (run.folder / "regions" / "000005.parquet").mkdir()
    with pytest.raises(RunError, match=r"^The actor on .* failed: .* cannot be written: Is a dir"):
        label_on_ray(run.folder, VOCABULARY, options, JOB, choices)


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingDependencyError, match=r"^--engine ray needs the package ray\.$"
    ) as e:
        kind_of_device(RayChoices(), None)
    assert e.value.hint == "pip install 'vildcli[data]'"


@pytest.mark.filterwarnings("ignore")
def test_address__where_nothing_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="pip install 'vildcli[data]'")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    message = rf"^There is no Ray cluster at 127\.0\.0\.1:{port}: Connection refused\.$"
    with pytest.raises(RunError, match=message):
        kind_of_device(RayChoices(f"127.0.0.1:{port}"), None)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(RunError, match=message):
        kind_of_device(RayChoices(), None)


def machine(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


def test_pool__one_actor_a_machine_or_a_gpu_unless_told() -> None:
    machines = [machine(16), machine(8), machine(64, alive=False)]
    assert _pool(machines, "cpu", None) == _Pool(2, cpus=8, gpus=0)
    assert _pool(machines, "cpu", 4) == _Pool(4, cpus=4, gpus=0)
    with_gpus = [machine(64, 8), machine(16, 2), machine(128)]
    assert _pool(with_gpus, "cuda", None) == _Pool(10, cpus=2, gpus=1)
    assert _pool(with_gpus, "cuda", 3) == _Pool(3, cpus=2, gpus=1)


def test_pool__more_than_there_is_room_for_is_refused() -> None:
    with pytest.raises(RunError) as caught:
        _pool([machine(4)], "cuda", None)
    assert str(caught.value) == "The Ray cluster has room for 0 actors that need a GPU each."
    with pytest.raises(RunError) as caught:
        _pool([machine(2), machine(1)], "cpu", 5)
    assert str(caught.value) == "The Ray cluster has room for 3 actors that need a CPU each, not 5."


def said_by(task: _Task, unit: list[dict[str, Any]]) -> tuple[str, str]:
    rows = UnitLabeller(task)(pa.table({"images": [unit]}))
    return rows["error"][0].partition(" failed: ")[2], rows["hint"][0]


def test_actor__on_a_machine_that_is_set_up_otherwise_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an actor moves to the folder of the call
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "0.png")
    run = opened(tmp_path / "run", photos)
    unit = [asdict(image) for image in run.plan]
    task = _Task(run.folder, tmp_path, VOCABULARY, LabellingOptions(), JOB, 1, __version__)
    assert said_by(replace(task, version="9.9"), unit) == (
        f"it has vildcli {__version__}, the driver 9.9.",
        "Install the same vildcli on every machine.",
    )
    assert said_by(replace(task, run=tmp_path / "elsewhere"), unit) == (
        f"it does not see {tmp_path}/elsewhere, or the folder of the call, {tmp_path}.",
        "Put run, images and model on a disk that all machines see at the same path.",
    )
    options = LabellingOptions(model=str(tmp_path / "gone.safetensors"), device="cpu")
    assert said_by(replace(task, options=options), unit)[0] == (
        f"There is no model at {tmp_path}/gone.safetensors."
    )
    assert done_units(run.folder) == []


FRUIT = ("--classes", "apple")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--actors", "2"), "--actors is for --engine ray."),
        (("--ray-address", "a:1"), "--ray-address is for --engine ray."),
        (("--engine", "ray", "--devices", "0,1"), "Give either --devices D,D or --engine ray."),
    ],
)
def test_detect__options_that_contradict(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert cli.run(["detect", "photos", *FRUIT, *options]) == 2
    assert said in capsys.readouterr().err


def test_detect__hands_the_run_to_the_cluster(
    tmp_path: Path, options: LabellingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (30, 40), "red").save(tmp_path / "photos" / "0.png")
    asked: list[tuple[Any, ...]] = []

    def labelled(
        run: Path,
        vocabulary: Vocabulary,
        options: Any,
        job: Any,
        choices: Any,
        *watch: Any,
        **more: Any,
    ) -> Any:
        asked.append((options.model, options.device, choices))
        return label_images(run, open_labelling_model(vocabulary, options), job, *watch, **more)

    monkeypatch.setattr(ray_engine, "kind_of_device", lambda choices, device: "cpu")
    monkeypatch.setattr(ray_engine, "label_on_ray", labelled)
    arguments = ("detect", tmp_path / "photos", *FRUIT, "--out", tmp_path / "run", "--offline")
    here = ("--model", options.model, "--engine", "ray", "--ray-address", "a:1", "--actors", "2")
    assert cli.run([str(argument) for argument in (*arguments, *here)]) == 0
    assert asked == [(options.model, None, RayChoices("a:1", 2))]
    assert read_run(tmp_path / "run", "labelling")["settings"]["device"] == "cpu"
    assert cli.run([str(a) for a in (*arguments, "--model", options.model, "--device", "cpu")]) == 0
