"""One run on several devices of a machine: a process each, with its own share of the units.

    parent ──plan, units left──▶ process 1 (cuda:0): units a, c, e … opens the model by itself
           ◀─progress, errors─── process 2 (cuda:1): units b, d, f …

A unit is a function of its images and the settings, so that it does not matter who labels it. A
process that fails costs the unit it was at: the others go on to their end, then the run fails.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from vildcli.errors import ModelError, RunError, VildError
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
from vildcli.labelling.plan import WHOLE, Shard, read_plan, units_of
from vildcli.labelling.summary import LabellingSummary, summarise
from vildcli.vocabulary.category import Vocabulary

_GOODBYE = 10.0  # seconds that a process may take to end once nobody listens


@dataclass(frozen=True, slots=True)
class _Share:
    """What one process is for."""

    run: Path
    vocabulary: Vocabulary
    options: LabellingOptions
    job: LabellingJob
    units: tuple[int, ...]
    threads: int | None


@dataclass(frozen=True, slots=True)
class _Done:
    images: int
    seconds: tuple[float, ...]  # of all stages so far


@dataclass(frozen=True, slots=True)
class _Shrunk:
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class _Failed:
    message: str
    hint: str | None


_Message = _Done | _Shrunk | _Failed


def refuse_mixed(devices: Sequence[str]) -> str:
    """The one kind of device that they are, such as "cuda".

    Raises:
        ModelError: they are of several kinds, whose scores differ in their last bits.
    """
    kinds = sorted({torch.device(name).type for name in devices})
    if len(kinds) > 1:
        raise ModelError(
            f"--devices are of several kinds ({', '.join(kinds)}), whose scores differ a little.",
            hint="Name devices of one kind: a run that is continued stays on it as well.",
        )
    return kinds[0]


def label_on_devices(
    run: Path,
    vocabulary: Vocabulary,
    options: LabellingOptions,
    job: LabellingJob,
    devices: Sequence[str],
    watch: Watch | None = None,
    *,
    shard: Shard = WHOLE,
    skipped: int = 0,
) -> LabellingSummary:
    """Label what is left of a run, a process a device; else as `label_images`.

    Args:
        options: what each process opens the model with, `device` left aside.
        job: of each process; all together decode in no more threads than there are cores.
        devices: of one kind. One that is named twice gets two processes; those on the CPU share
            its threads.
        watch: told by this process, of all of them.

    Raises:
        RunError: a process has failed; what the others labelled is kept.
    """
    begin = time.perf_counter()
    watch, plan = watch or Watch(), read_plan(run)
    units, left = units_to_do(run, plan, shard)
    numbers = [unit for unit, images in left.items() if not is_copies(images)]
    threads = _threads_each(devices)
    workers = max(1, min(job.workers, (os.cpu_count() or 1) // len(devices)))
    shares = [
        _Share(
            run,
            vocabulary,
            replace(options, device=device),
            replace(job, workers=workers),
            tuple(numbers[place :: len(devices)]),
            threads,
        )
        for place, device in enumerate(devices)
    ]
    _label_shares([share for share in shares if share.units], watch)
    copy_left(run, plan, left, watch)
    resumed = sum(map(len, units.values())) - sum(map(len, left.values()))
    return summarise(run, units, resumed, time.perf_counter() - begin, skipped)


def _threads_each(devices: Sequence[str]) -> int | None:
    """Threads of torch for each process on the CPU; None leaves them alone."""
    on_cpu = sum(torch.device(name).type == "cpu" for name in devices)
    return max(1, torch.get_num_threads() // on_cpu) if on_cpu else None


def _label_shares(shares: Sequence[_Share], watch: Watch) -> None:
    started: dict[Connection, tuple[_Share, BaseProcess]] = {}
    failed: dict[Connection, _Failed] = {}
    seconds: dict[Connection, tuple[float, ...]] = {}
    spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    try:
        for share in shares:
            ours, theirs = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_work, args=(share, theirs), daemon=True)
            process.start()
            theirs.close()  # else its end would not be seen
            started[ours] = share, process
        talking = set(started)
        while talking:
            for pipe in wait(list(talking)):
                assert isinstance(pipe, Connection)
                try:
                    message: _Message = pipe.recv()
                except EOFError:
                    talking.remove(pipe)
                    continue
                if isinstance(message, _Failed):
                    failed[pipe] = message
                    watch.failed(f"{started[pipe][0].options.device}: {message.message}")
                elif isinstance(message, _Shrunk):
                    watch.shrunk(message.before, message.after)
                else:
                    seconds[pipe] = message.seconds
                    _add_up(watch.seconds, list(seconds.values()))
                    watch.advance(message.images)
        for pipe, (share, ended) in started.items():
            ended.join()
            _refuse_failed(share, ended, failed.get(pipe))
    finally:
        _end([process for _, process in started.values()])


def _add_up(seconds: StageSeconds, parts: Sequence[tuple[float, ...]]) -> None:
    for place, field in enumerate(fields(seconds)):
        setattr(seconds, field.name, sum(part[place] for part in parts))


def _refuse_failed(share: _Share, process: BaseProcess, said: _Failed | None) -> None:
    device, code = share.options.device, process.exitcode
    if said is not None:
        raise RunError(
            f"The process on {device} failed: {said.message}",
            hint=said.hint or "What the others labelled is kept; the same command continues.",
        )
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise RunError(
            f"The process on {device} {how}.",
            hint="What the others labelled is kept; the same command continues.",
        )


def _end(processes: Sequence[BaseProcess]) -> None:
    """Let none outlive this call: interrupted ones keep what they have found."""
    until = time.monotonic() + _GOODBYE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        process.terminate()
        process.join()


def _work(share: _Share, pipe: Connection) -> None:
    """What a process does; where it ends early it says why, and it ends with its parent."""
    seconds = StageSeconds()

    def advance(images: int) -> None:
        pipe.send(_Done(images, astuple(seconds)))

    def shrunk(before: int, after: int) -> None:
        pipe.send(_Shrunk(before, after))

    try:
        if share.threads is not None:
            torch.set_num_threads(share.threads)
        from vildcli.labelling.model import open_labelling_model

        model = open_labelling_model(share.vocabulary, share.options)
        advance(0)  # from here on its rate means something
        units = units_of(read_plan(share.run))
        own = [units[unit] for unit in share.units]
        label_units(share.run, model, own, share.job, Watch(advance, shrunk, seconds=seconds))
        advance(0)  # what the last unit took to be written
    except VildError as error:
        pipe.send(_Failed(str(error), error.hint))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the parent was killed
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
