"""A labelling run loses nothing: killed, out of room, beside another process, moved, changed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image
from stub_detect import stub_module
from stub_model import draw_images
from tiny_student import save_clip, save_student
from tiny_video import draw_video

from vildcli.cli import run
from vildcli.labelling.records import done_units, iter_images, read_part

TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vildcli.labelling.model", stub_module())
    monkeypatch.setattr(sys, "argv", ["vildcli"])


def detect(*arguments: object) -> int:
    return run(["detect", *map(str, arguments), "--classes", "apple, pear"])


def exported(run_folder: Path, *options: object) -> bytes:
    """Every label of a run as COCO."""
    out = run_folder.parent / f"{run_folder.name}.json"
    arguments = (str(run_folder), "--out", str(out), "--conf", "0", "--force")
    assert run(["export", *arguments, *map(str, options)]) == 0
    return out.read_bytes()


def parts(run_folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run_folder)): path.read_bytes()
        for path in run_folder.glob("*/[0-9]*.parquet")
    }


def in_another_process(script: str, *arguments: object, timeout: float = 300) -> str:
    return subprocess.run(
        [sys.executable, "-c", script, TESTS, *map(str, arguments)],
        check=True,
        timeout=timeout,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


KILLER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
import torch
import vildcli.commands.detect, vildcli.labelling.label, vildcli.review.sheet
from stub_detect import detect
torch.set_num_threads(1)
random = random.Random(int(sys.argv[2]))
for kill in range(10):
    child = os.fork()
    if child == 0:
        os._exit(detect(sys.argv[3:], seconds=0.05))
    time.sleep(random.uniform(0, 0.5))
    os.kill(child, signal.SIGKILL)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        sys.exit("done before it was killed")
"""


@pytest.mark.slow
def test_killed_ten_times_at_random__the_export_is_that_of_an_unbroken_run(
    tmp_path: Path, stub: None
) -> None:
    seed = int(os.environ.get("VILDCLI_TEST_SEED") or secrets.randbelow(10**6))
    sys.stdout.write(f"VILDCLI_TEST_SEED={seed}\n")
    photos = draw_images(tmp_path / "photos", 960)
    (photos / "0100.png").write_bytes(b"")
    assert detect(photos, "--out", tmp_path / "whole", "--keep-regions") == 3
    killed = tmp_path / "killed"
    in_another_process(KILLER, seed, photos, "--out", killed, "--keep-regions")
    assert len(done_units(killed)) < 60
    assert detect(photos, "--out", killed, "--keep-regions") == 3
    assert parts(killed) == parts(tmp_path / "whole")
    assert exported(killed) == exported(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_disk_full_at_any_point__says_so_and_goes_on_after_room_is_made(
    tmp_path: Path, small_disk: Path, stub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = draw_images(tmp_path / "photos", 40)
    (photos / "bad.jpg").touch()
    arguments = (photos, "--out", small_disk / "run", "--keep-regions")
    assert detect(*arguments) == 3
    whole = exported(small_disk / "run")
    shutil.rmtree(small_disk / "run")
    (small_disk / "run.json").unlink()
    stopped = set()
    for free_kib in (*range(0, 64, 8), *range(64, 1024, 48)):
        (small_disk / "ballast").write_bytes(bytes((1024 - free_kib) << 10))
        capsys.readouterr()
        if detect(*arguments) == 3:
            break
        said = capsys.readouterr().err
        assert "cannot be written: No space left on device.\nHint: " in said, f"{free_kib} KiB free"
        stopped.add(len(done_units(small_disk / "run")))
        (small_disk / "ballast").unlink()
        assert detect(*arguments) in (0, 3)  # 0 where all that had not been written was a summary
        assert exported(small_disk / "run") == whole
        shutil.rmtree(small_disk / "run")
        (small_disk / "run.json").unlink()
    assert stopped >= {0, 1, 2}  # full before the first unit, and after each


TWO = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
import vildcli.commands.detect, vildcli.labelling.label, vildcli.review.sheet
from stub_detect import detect
torch.set_num_threads(1)
children = [os.fork() or os._exit(detect(sys.argv[2:], seconds=0.01)) for _ in range(2)]
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.slow
def test_two_processes_at_once__start_and_finish_one_run(tmp_path: Path, stub: None) -> None:
    photos = draw_images(tmp_path / "photos", 80)
    assert detect(photos, "--out", tmp_path / "whole", "--keep-regions") == 0
    in_another_process(TWO, photos, "--out", tmp_path / "shared", "--keep-regions")
    assert parts(tmp_path / "shared") == parts(tmp_path / "whole")
    assert exported(tmp_path / "shared") == exported(tmp_path / "whole")


def test_changed_in_between__is_refused_saying_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    clip = save_clip(tmp_path / "clip")
    photos = draw_images(tmp_path / "photos", 1)
    models = [
        save_student(tmp_path / f"{system}.safetensors", clip, system)
        for system in ("vild", "vild-ensemble")
    ]
    fixed = ["detect", str(photos), "--out", str(tmp_path / "run"), "--device", "cpu"]

    def refusal(model: Path, names: str, *options: str) -> str:
        code = run([*fixed, "--model", str(model), "--classes", names, *options])
        shown = capsys.readouterr().err
        assert code == 1, shown
        (line,) = (line for line in shown.splitlines() if line.startswith("Error: "))
        return line.partition("other settings (")[2].removesuffix(").")

    assert run([*fixed, "--model", str(models[0]), "--classes", "apple, pear"]) == 0
    capsys.readouterr()
    assert refusal(models[0], "apple, pear", "--floor", "0.2") == "floor: 0.01 there, 0.2 now"
    other_words = refusal(models[0], "apple, plum")
    assert [word.partition(":")[0] for word in other_words.split("; ")] == ["vocabulary"]
    other_model = refusal(models[1], "apple, pear")
    assert "system: 'vild' there, 'vild-ensemble' now" in other_model
    differing = [word.partition(":")[0] for word in other_model.split("; ")]
    assert differing == ["fusion", "model", "system"]


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """In memory, where there is such a disk: every part of a run is flushed."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_one_corrupt_image_in_ten_thousand__costs_one_record(quick_disk: Path, stub: None) -> None:
    photos = draw_images(quick_disk / "photos", 10_000, size=(4, 3))
    damaged = photos / "4321.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    run_folder = quick_disk / "run"
    assert detect(photos, "--out", run_folder) == 3
    images = list(iter_images(run_folder))
    assert [image.image_id for image in images] == list(range(1, 10_001))
    (failed,) = (image for image in images if image.status != "ok")
    assert failed.path == "4321.png"
    assert failed.reason == "4321.png: not a readable JPEG, PNG, GIF, BMP, TIFF or WebP image."
    ids: set[int] = set()
    for unit in done_units(run_folder):
        ids.update(read_part(run_folder, "labels", unit, ["image_id"])["image_id"].to_pylist())
    assert ids == set(range(1, 10_001)) - {failed.image_id}


@pytest.mark.slow
def test_memory__is_that_of_a_run_of_a_tenth(quick_disk: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 240, 320, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(quick_disk / f"{i}.jpg", quality=50)

    def peak(count: int) -> float:
        photos = quick_disk / f"photos{count}"
        photos.mkdir()
        for i in range(count):
            os.link(quick_disk / f"{i % 4}.jpg", photos / f"{i:04d}.jpg")
        out = str(quick_disk / f"run{count}")
        script = [sys.executable, f"{TESTS}/stub_detect.py", str(photos), "--out", out]
        done = subprocess.run(
            [*script, "--keep-regions", "--json"],
            check=True,
            timeout=300,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        summary = json.loads(done.stdout)
        assert summary["labelled"] == count
        return float(summary["peak_rss_mib"])

    assert peak(5000) < 1.05 * peak(500)


def test_a_moved_run__still_exports(tmp_path: Path, stub: None) -> None:
    photos = draw_images(tmp_path / "photos", 3)
    assert detect(photos, "--out", tmp_path / "run") == 0
    before = exported(tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    shutil.move(photos, tmp_path / "album")
    assert exported(tmp_path / "elsewhere") == before
    out = tmp_path / "yolo"
    options = ("--to", "yolo", "--conf", "0", "--images", str(tmp_path / "album"))
    assert run(["export", str(tmp_path / "elsewhere"), "--out", str(out), *options]) == 0
    assert len(list(out.rglob("*.txt"))) >= 3


def test_every_kind_of_source__makes_one_run(
    tmp_path: Path, stub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av", reason="pip install 'vildcli[video]'")
    folder = draw_images(tmp_path / "folder" / "deep", 2).parent
    (folder / "again").symlink_to(folder, target_is_directory=True)
    draw_images(tmp_path / "globbed", 3)
    draw_images(tmp_path / "listed", 3)
    (tmp_path / "some.txt").write_text("listed/0001.png\n")
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(draw_images(tmp_path / "packed", 2), ".")
    draw_video(tmp_path / "clip.mp4", frames=20, rate=10)
    named = ("folder", "globbed/*1.png", "some.txt", "shard.tar", "clip.mp4")
    sources = [tmp_path / name for name in named]
    assert detect(*sources, "--every", "1", "--out", tmp_path / "run") == 0
    assert {Path(image.path).name for image in iter_images(tmp_path / "run")} == {
        "0000.png", "0001.png", "shard.tar#0000.png", "shard.tar#0001.png",
        "clip.mp4#t=0", "clip.mp4#t=1",
    }  # fmt: skip
    said = capsys.readouterr().err
    assert f"8 images found (1 link to folders that are listed already: {folder}/again" in said
