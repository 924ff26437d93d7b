"""One run on the machines of a Ray cluster, which share the disk of its folder.

    driver ──units left, a row each──▶ actor on machine 1: opens the model once, labels units ┐
           ◀─counts, errors─────────── actor on machine 2: …                                  ├▶ run
                                                                                              ┘
Rows go to whoever is free. An actor that is lost is started again and given its rows again, of
which it passes over the units that have their commit mark. A unit is a function of its images and
the settings, so that it does not matter who labels it, nor how often.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vildcli import __version__
from vildcli.errors import MissingDependencyError, RunError, VildError
from vildcli.labelling.copies import is_copies
from vildcli.labelling.label import (
    LabellingJob,
    StageSeconds,
    Watch,
    copy_left,
    label_units,
    units_to_do,
)
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.plan import WHOLE, PlannedImage, Shard, read_plan
from vildcli.labelling.records import is_done
from vildcli.labelling.summary import LabellingSummary, summarise
from vildcli.labelling.tries import Tries
from vildcli.runs import RUN_FILE
from vildcli.vocabulary.category import Vocabulary

if TYPE_CHECKING:
    import pyarrow as pa

ADDRESS = "RAY_ADDRESS"
_TASKS_AN_ACTOR = 64  # enough for even shares and a bar that moves, few enough for the driver
_TRIES = 4  # of a unit whose actor died: an image that kills actors must not be tried for ever
_CONNECT_SECONDS = 10.0
_START = "Start one (ray start --head), and name its HOST:PORT as --ray-address."
_STORE_BYTES = 256 << 20  # object store of a cluster started here: only rows pass through it


@dataclass(frozen=True, slots=True)
class RayChoices:
    """Which cluster, and how much of it.

    Attributes:
        address: of a running cluster; None is `RAY_ADDRESS`, else one is started on this machine.
        actors: models opened at once; None is one a GPU, or one a machine without.
    """

    address: str | None = None
    actors: int | None = None


@dataclass(frozen=True, slots=True)
class _Pool:
    """Actors, and what of a machine each of them takes."""

    actors: int
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class _Task:
    """What every actor is told."""

    run: Path
    folder: Path  # that relative paths of options and sources start from
    vocabulary: Vocabulary
    options: LabellingOptions
    job: LabellingJob
    threads: int | None
    version: str


def kind_of_device(choices: RayChoices, device: str | None) -> str:
    """The one kind of device that a run on a cluster is labelled on: cuda where it has GPUs.

    Args:
        device: what the user asked for, which counts; its number is Ray's affair.

    Raises:
        MissingDependencyError: Ray is not installed.
        RunError: there is no such cluster.
    """
    ray = _connected(choices)
    if device is not None:
        return device.partition(":")[0]
    return "cuda" if ray.cluster_resources().get("GPU") else "cpu"


def label_on_ray(
    run: Path,
    vocabulary: Vocabulary,
    options: LabellingOptions,
    job: LabellingJob,
    choices: RayChoices,
    watch: Watch | None = None,
    *,
    shard: Shard = WHOLE,
    skipped: int = 0,
) -> LabellingSummary:
    """Label what is left of a run on a Ray cluster; else as `label_images`.

    Args:
        run: a folder that every machine sees at the same path, as well as sources and model.
        options: what each actor opens the model with; `device` is a kind.
        watch: told by this process, of all of them.

    Raises:
        MissingDependencyError: Ray is not installed.
        RunError: there is no such cluster, or an actor has failed; what was labelled is kept.
    """
    begin = time.perf_counter()
    watch, plan = watch or Watch(), read_plan(run)
    units, left = units_to_do(run, plan, shard)
    own = [images for images in left.values() if not is_copies(images)]
    if own:
        _label(run, vocabulary, options, job, choices, own, watch)
    copy_left(run, plan, left, watch)
    resumed = sum(map(len, units.values())) - sum(map(len, left.values()))
    return summarise(run, units, resumed, time.perf_counter() - begin, skipped)


def _label(
    run: Path,
    vocabulary: Vocabulary,
    options: LabellingOptions,
    job: LabellingJob,
    choices: RayChoices,
    units: Sequence[Sequence[PlannedImage]],
    watch: Watch,
) -> None:
    ray = _connected(choices)
    kind = kind_of_device(choices, options.device)
    pool = _pool(ray.nodes(), kind, choices.actors)
    threads = pool.cpus if kind == "cpu" else None
    told = replace(options, device=kind)
    task = _Task(run.resolve(), Path.cwd(), vocabulary, told, job, threads, __version__)
    with contextlib.redirect_stdout(sys.stderr):  # where Ray tells of a lost actor
        for row in _results(ray, task, pool, units):
            if row["error"] is not None:
                raise RunError(row["error"], hint=row["hint"])
            for field, seconds in zip(fields(watch.seconds), row["seconds"], strict=True):
                setattr(watch.seconds, field.name, getattr(watch.seconds, field.name) + seconds)
            for before, after in row["shrunk"]:
                watch.shrunk(before, after)
            watch.advance(row["images"])
    missing = sum(not is_done(run, images[0].unit) for images in units)
    if missing:
        raise RunError(
            f"{missing} units have no commit mark in {run}, though actors wrote them.",
            hint="Does every machine see the same disk there? The same command continues.",
        )


def _results(
    ray: Any, task: _Task, pool: _Pool, units: Sequence[Sequence[PlannedImage]]
) -> Iterator[dict[str, Any]]:
    """What actors say of each unit, as it ends."""
    rows = [{"images": [asdict(image) for image in images]} for images in units]
    tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tries).remote()
    blocks = min(len(rows), pool.actors * _TASKS_AN_ACTOR)
    labelled = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        UnitLabeller,
        fn_constructor_args=(task, tries),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    try:
        yield from labelled.iter_rows()
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours, whose traceback is inside
    except ray.exceptions.RayError as error:
        raise RunError(
            f"The Ray cluster gave up: {str(error).strip().splitlines()[0]}",
            hint="What was labelled is kept; the same command continues.",
        ) from error


class UnitLabeller:
    """An actor: opens the model once, and labels one unit after the other.

    Ray Data starts lost actors again, and their tasks, without end: how often is counted here.

    Args:
        tries: handle of the actor that counts.
    """

    def __init__(self, task: _Task, tries: Any) -> None:
        self._task, self._tries = task, tries
        self._refused: VildError | None = None
        try:
            _refuse_elsewhere(task)
            self._model = _open(task)
        except VildError as error:  # raised here it would be lost in Ray's own retries
            self._refused = error

    def __call__(self, row: pa.Table) -> dict[str, list[Any]]:
        """Label a unit, if it is not done by now, and say what came of it."""
        seconds, shrunk = StageSeconds(), list[tuple[int, int]]()
        images = [PlannedImage(**image) for image in row["images"][0].as_py()]
        watch = Watch(shrunk=lambda *sizes: shrunk.append(sizes), seconds=seconds)
        error = self._refused
        try:
            if error is None and not is_done(self._task.run, images[0].unit):
                self._refuse_deadly(images[0])
                label_units(self._task.run, self._model, [images], self._task.job, watch)
        except VildError as raised:
            error = raised
        return {
            "images": [len(images)],
            "seconds": [list(astuple(seconds))],
            "shrunk": [[list(sizes) for sizes in shrunk]],
            "error": [error and f"The actor on {socket.gethostname()} failed: {error}"],
            "hint": [error and error.hint],
        }

    def _refuse_deadly(self, first: PlannedImage) -> None:
        """Count a try of the unit that begins with an image, and refuse one too many."""
        import ray

        if ray.get(self._tries.begin.remote(first.unit)) > _TRIES:
            raise RunError(
                f"{_TRIES} actors died at unit {first.unit}, whose first image is {first.path}.",
                hint="Is memory short there? Give a smaller --batch, or take out what kills them.",
            )


def _refuse_elsewhere(task: _Task) -> None:
    """Refuse a machine that is not set up as the driver's is."""
    if task.version != __version__:
        raise RunError(
            f"it has vildcli {__version__}, the driver {task.version}.",
            hint="Install the same vildcli on every machine.",
        )
    if not (task.folder.is_dir() and (task.run / RUN_FILE).is_file()):
        raise RunError(
            f"it does not see {task.run}, or the folder of the call, {task.folder}.",
            hint="Put run, images and model on a disk that all machines see at the same path.",
        )


def _open(task: _Task) -> Any:
    import torch

    from vildcli.labelling.model import open_labelling_model

    os.chdir(task.folder)
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    return open_labelling_model(task.vocabulary, task.options)


def _pool(nodes: Sequence[Mapping[str, Any]], kind: str, actors: int | None) -> _Pool:
    """As many actors as asked for, each with an equal part of the smallest machine.

    Raises:
        RunError: no machine has what an actor needs.
    """
    needs = "GPU" if kind == "cuda" else "CPU"
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    machines = [has for has in machines if has.get(needs, 0) >= 1 and has.get("CPU", 0) >= 1]
    room = int(sum(has[needs] for has in machines))
    if not machines or (actors or 0) > room:
        raise RunError(
            f"The Ray cluster has room for {room} actors that need a {needs} each"
            + (f", not {actors}." if actors else "."),
            hint="Give fewer --actors, add machines, or name another --device.",
        )
    count = actors or (room if needs == "GPU" else len(machines))
    on_one = -(-count // len(machines)) if needs == "CPU" else max(int(m["GPU"]) for m in machines)
    cpus = max(1, int(min(has["CPU"] for has in machines)) // on_one)
    return _Pool(count, cpus, int(needs == "GPU"))


def _connected(choices: RayChoices) -> Any:
    """Ray, connected to the cluster; a second call finds it so."""
    ray = _load_ray()
    if ray.is_initialized():
        return ray
    address = choices.address or os.environ.get(ADDRESS)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    own = {
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    if address:
        _refuse_silent(address)
    try:
        with _without_stderr():  # C++ says that its level was set
            ray.init(address=address or "local", **quiet, **({} if address else own))
    except Exception as error:  # a bare one where its own node does not start in time
        raise RunError(
            f"There is no Ray cluster at {address or 'this machine'}: "
            f"{str(error).strip().splitlines()[0]}",
            hint=_START,
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its log file still has all
            handler.setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Send nowhere what this process writes to the file descriptor, past `sys.stderr`."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _refuse_silent(address: str) -> None:
    """Refuse an address where nothing listens, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "//" in host or not port.isdecimal():  # of another kind, such as auto
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(
            f"There is no Ray cluster at {address}: {error.strerror or error}.", hint=_START
        ) from error


def _load_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of its C++, which writes to stderr
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            "--engine ray needs the package ray.", hint="pip install 'vildcli[data]'"
        ) from error
    return ray
