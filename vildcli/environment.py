"""What is installed on this machine and what of vildcli would work with it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vildcli import __version__
from vildcli.assets import cache_folder
from vildcli.errors import VildError

CORE = ("torch", "torchvision", "open_clip_torch", "pyarrow", "pycocotools", "hotcoco", "nltk")
# Package, what needs it, how to get it.
EXTRAS = (
    ("fiftyone", "review and export --to fiftyone", "pip install 'vildcli[review]'"),
    ("av", "frames of videos", "pip install 'vildcli[video]'"),
    ("ray", "detect --engine ray", "pip install 'vildcli[data]'"),
)
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        part: what was looked for.
        found: its version or place; None where it is missing.
        hint: how to get what is missing, and what it is for.
    """

    part: str
    found: str | None
    hint: str = ""


def examine() -> Iterator[Finding]:
    """Look at the machine, the packages, the weights and the dictionaries; changes nothing."""
    yield Finding("vildcli", __version__)
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("machine", f"{platform.platform(terse=True)}, {os.cpu_count()} cores")
    yield _gpu()
    for package in CORE:
        yield Finding(package, _version(package), f"pip install {package}")
    for package, use, command in EXTRAS:
        yield Finding(package, _version(package), f"for {use}: {command}")
    if _version("fiftyone"):
        yield _mongodb()
    yield from _weights()
    yield _wordnet()
    yield _emoji_font()
    yield _cache()


def hardware(device: str = "cpu") -> str:
    """The GPU's name, or how many cores of which processor this process may use."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return f"{cores if usable == cores else f'{usable} of {cores}'} cores, {_processor()}"


def _processor() -> str:
    """The CPU's name, which Python knows only on some systems."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", None, "everything runs on the CPU, training slowly")
    names = []
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        names.append(f"{of.name}, {of.total_memory / GIB:.0f} GiB, {bfloat16}")
    return Finding("GPU", "; ".join(names))


def _mongodb() -> Finding:
    from vildcli.review.mongo import URI_VARIABLE, WAYS, is_usable, packaged_mongod

    part = "MongoDB of FiftyOne"
    if os.environ.get(URI_VARIABLE):
        return Finding(part, f"the one of {URI_VARIABLE}")  # which may hold a password
    on_path = shutil.which("mongod")
    for mongod in (packaged_mongod(), on_path and Path(on_path)):
        if mongod and is_usable(mongod):
            return Finding(part, str(mongod))
    return Finding(part, None, f"for review: {WAYS}")


def _weights() -> Iterator[Finding]:
    """Those that `detect PHOTOS --classes "…"` needs."""
    from vildcli.weights import plan_fetch

    for file in plan_fetch(("ViT-B-32:openai", "torchvision")):
        hint = "for detect without a model of your own: vildcli fetch"
        yield Finding(
            f"weights {file.reference}", str(file.path) if file.is_present else None, hint
        )


def _wordnet() -> Finding:
    from vildcli.vocabulary.wordnet import load_wordnet

    try:
        return Finding("WordNet", load_wordnet().version)
    except VildError as error:
        return Finding("WordNet", None, f"for expand: {error.hint}")


def _emoji_font() -> Finding:
    from vildcli.world.emoji import find_font

    try:
        return Finding("emoji font", str(find_font()))
    except VildError as error:
        return Finding("emoji font", None, f"for world --sprites emoji: {error.hint}")


def _cache() -> Finding:
    folder = cache_folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return Finding("cache", f"{folder}, {shutil.disk_usage(there).free / GIB:.0f} GiB free")
