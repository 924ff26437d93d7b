"""One run on a Ray cluster: what actors of real models on two nodes write, and what stops them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from shared_run import JOB, VOCABULARY, draw_noise, opened, parts, student_options

from vildcli import __version__, cli
from vildcli.errors import MissingDependencyError, RunError
from vildcli.labelling import ray_engine
from vildcli.labelling.label import Watch, label_images
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.plan import PlannedImage, read_plan
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
from vildcli.labelling.tries import Tries
from vildcli.runs import read_run
from vildcli.vocabulary.category import Vocabulary

IMAGES = 64


@pytest.fixture
def options(tmp_path: Path) -> LabellingOptions:
    return student_options(tmp_path)


def give_up(*_: object) -> None:
    raise TimeoutError


def started(make_cluster: Callable[[], Any], node: dict[str, Any]) -> Any:
    """Two equal nodes; on a busy machine one takes longer than the half minute that Ray waits."""
    for _ in range(3):
        cluster = make_cluster()
        with contextlib.suppress(Exception):  # is what it raises
            cluster.add_node(**node)
            cluster.add_node(**node)
            return cluster
        cluster.shutdown()
    pytest.fail("Ray's nodes did not start")


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a cluster of two nodes on this machine, that talks to nobody else."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(1800)  # what does not fit into a cluster waits for ever
    ray = pytest.importorskip("ray", reason="pip install 'vildcli[data]'")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    # Sockets have short names; what a node still writes when it is ended may stay behind.
    with TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine starves actors
        node: dict[str, Any] = {
            "num_cpus": 2,
            "num_gpus": 0,
            "node_ip_address": "127.0.0.2",  # Ray replaces the usual one by that of a network
            "object_store_memory": 128 << 20,
            "include_dashboard": False,
        }
        cluster = started(cluster_utils.Cluster, node)
        try:
            yield cluster.address
        finally:
            signal.alarm(0)
            ray.shutdown()
            cluster.shutdown()


@dataclass(frozen=True)
class Actor:
    process: int
    node: int
    is_busy: bool


def actors() -> list[Actor]:
    """Those of this test's cluster that label."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes().partition(b"\0")[0]
            if title.startswith(b"ray::MapWorker"):
                node = int((process / "stat").read_text().rpartition(") ")[2].split()[1])
                if os.environ["RAY_TMPDIR"] in Path(f"/proc/{node}/cmdline").read_text():
                    found.append(Actor(int(process.name), node, title.endswith(b".submit")))
        except OSError:  # it has ended
            continue
    return found


def kill_the_actor_at(image: Path, rest: Callable[[], bool]) -> Callable[[], list[Actor]]:
    """Have the actor that comes to an image wait there, and kill it once the rest is done.

    Returns:
        Waits for its end, and says which actors there were.
    """
    aside = image.with_suffix(".aside")
    image.rename(aside)
    os.mkfifo(image)  # nobody ever writes there: who opens it waits
    seen: list[Actor] = []

    def kill() -> None:
        while not rest() or sum(actor.is_busy for actor in actors()) != 1:
            time.sleep(0.05)
        seen.extend(actors())
        aside.replace(image)
        os.kill(next(actor.process for actor in seen if actor.is_busy), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()

    def killed() -> list[Actor]:
        killer.join()
        return seen

    return killed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")
@pytest.mark.skipif(sys.platform != "linux", reason="finds actors in /proc")
def test_label_on_ray__two_nodes_and_a_lost_actor_write_what_one_process_writes(
    tmp_path: Path, options: LabellingOptions, two_nodes: str, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = draw_noise(tmp_path / "photos", IMAGES)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as many as an actor has: last bits depend on it
    alone = opened(tmp_path / "alone", photos).folder
    whole = label_images(alone, open_labelling_model(VOCABULARY, options), JOB)
    torch.set_num_threads(threads)
    run = opened(tmp_path / "ray", photos).folder
    for table in SCHEMAS:  # an earlier call had come so far
        part_path(run, table, 0).parent.mkdir(exist_ok=True)
        shutil.copy(part_path(alone, table, 0), part_path(run, table, 0))
    own = {image.unit for image in read_plan(run) if image.copy_of is None}
    rest = len(own) - 1
    killed = kill_the_actor_at(photos / "020.png", lambda: len(done_units(run)) == rest)
    advanced: list[int] = []
    watch, choices = Watch(advance=advanced.append), RayChoices(two_nodes)
    capfd.readouterr()
    summary = label_on_ray(run, VOCABULARY, options, JOB, choices, watch, skipped=3)
    assert len({actor.node for actor in killed()}) == 2
    assert parts(run) == parts(alone)
    ids = [image.image_id for image in iter_images(run)]
    assert sorted(ids) == list(range(1, IMAGES + 3))
    assert (summary.labels, summary.failed, summary.skipped) == (whole.labels, 1, 3)
    assert (summary.images, summary.labelled, summary.resumed) == (IMAGES + 2, IMAGES + 1, 16)
    assert sum(advanced) == IMAGES + 2 - 16
    assert watch.seconds.forward > 0
    said = capfd.readouterr()
    assert said.out == ""
    assert not re.findall(r" INFO |Deprecat|\.cc:", said.err)

    # Ray Data starts lost actors again without end: vildcli counts for it.
    import ray

    tries = ray.remote(num_cpus=0)(Tries).remote()
    assert ray.get([tries.begin.remote(unit) for unit in (1, 1, 2, 1, 1)]) == [1, 2, 1, 3, 4]
    part_path(run, "images", 1).unlink()
    task = _Task(run, Path.cwd(), VOCABULARY, options, JOB, None, __version__)
    unit = [image for image in read_plan(run) if image.unit == 1]
    assert said_by(task, unit, tries) == (
        f"4 actors died at unit 1, whose first image is {unit[0].path}.",
        "Is memory short there? Give a smaller --batch, or take out what kills them.",
    )
    assert 1 not in done_units(run)


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
    with socket.socket() as held:  # nobody else gets the port, and it does not listen
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        message = rf"^There is no Ray cluster at 127\.0\.0\.1:{port}: Connection refused\.$"
        with pytest.raises(RunError, match=message):
            kind_of_device(RayChoices(f"127.0.0.1:{port}"), None)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(RunError, match=message):
            kind_of_device(RayChoices(), None)


def test_ray__that_does_not_start_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="pip install 'vildcli[data]'")

    def start(*args: Any, **kwargs: Any) -> None:  # a bare Exception, as Ray's own
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(RunError) as caught:
        kind_of_device(RayChoices(), None)
    assert str(caught.value) == (
        "There is no Ray cluster at this machine: The current node timed out during startup."
    )


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


def said_by(task: _Task, unit: Sequence[PlannedImage], tries: Any = None) -> tuple[str, str]:
    """What an actor that runs in this process says of a unit."""
    table = pa.table({"images": [[asdict(image) for image in unit]]})
    rows = UnitLabeller(task, tries)(table)
    return rows["error"][0].partition(" failed: ")[2], rows["hint"][0]


def test_actor__on_a_machine_that_is_set_up_otherwise_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an actor moves to the folder of the call
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "0.png")
    run = opened(tmp_path / "run", photos)
    unit = run.plan
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


def test_label_on_ray__an_actor_that_cannot_go_on_ends_the_run(
    tmp_path: Path, options: LabellingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(tmp_path / "run", draw_noise(tmp_path / "photos", 20)).folder
    (run / "labels").write_text("in the way")

    def in_this_process(
        ray: Any, task: _Task, pool: _Pool, units: Sequence[Sequence[PlannedImage]]
    ) -> Iterator[dict[str, Any]]:
        for unit in units:
            table = pa.table({"images": [[asdict(image) for image in unit]]})
            yield {name: rows[0] for name, rows in UnitLabeller(task, None)(table).items()}

    cluster = SimpleNamespace(nodes=lambda: [machine(2)])
    monkeypatch.setattr(ray_engine, "_connected", lambda choices: cluster)
    monkeypatch.setattr(ray_engine, "_results", in_this_process)
    monkeypatch.setattr(UnitLabeller, "_refuse_deadly", lambda *_: None)
    with pytest.raises(RunError) as caught:
        label_on_ray(run, VOCABULARY, options, JOB, RayChoices())
    said = f"The actor on {socket.gethostname()} failed: {run} cannot be written: File exists."
    assert str(caught.value) == said
    assert caught.value.hint is not None


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
