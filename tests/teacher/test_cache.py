from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage
from vildcli.errors import DataError
from vildcli.teacher import cache
from vildcli.teacher.cache import TaughtRegions, TeacherCache, embed_proposals, fill_cache
from vildcli.teacher.crops import CropRecipe, ImageEncoder, embed_regions

IDS = [3, 1, 4, 15, 9]
BOXES = torch.tensor([[1.0, 1, 10, 12], [3, 2, 20, 18]])
ENCODER = ImageEncoder(
    lambda pixels: pixels.mean((2, 3)) + pixels.std((2, 3)) + 2,
    CropRecipe(8, (0.5,) * 3, (0.5,) * 3),
    0.01,
    "stub",
    torch.device("cpu"),
)


def images_of(ids: list[int] = IDS) -> list[AnnotatedImage]:
    return [AnnotatedImage(i, f"{i}.png", 24, 20) for i in ids]


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def pixels_of(path: Path) -> Tensor:
    return torch.from_numpy(read_image(path).pixels).permute(2, 0, 1)


def propose(image: AnnotatedImage, pixels: Tensor) -> Tensor:
    return BOXES[: image.id % 3]  # none, one or two


def fill(folder: Path, photos: Path, ids: list[int] = IDS, propose=propose) -> list[int]:  # type: ignore[no-untyped-def]
    """Ids of the images that were embedded."""
    seen: list[int] = []

    def noting(image: AnnotatedImage, pixels: Tensor) -> Tensor:
        seen.append(image.id)
        boxes: Tensor = propose(image, pixels)
        return boxes

    done: list[int] = []
    embedded = fill_cache(
        folder,
        images_of(ids),
        photos,
        regions_of=embed_proposals(noting, ENCODER),
        advance=lambda steps=1, note=None: done.append(steps),
    )
    assert (embedded, sum(done)) == (len(seen), len(ids))
    return seen


def parts(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "parts").iterdir())}


def refusal(folder: Path, photos: Path, ids: list[int] = IDS) -> DataError:
    with pytest.raises(DataError) as error:
        TeacherCache(folder, images_of(ids), photos)
    return error.value


@pytest.fixture(autouse=True)
def two_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PART_IMAGES", 2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in IDS:
        draw(folder / f"{i}.png", i)
    return folder


def test_what_was_embedded_is_read_back(tmp_path: Path, photos: Path) -> None:
    assert fill(tmp_path, photos) == IDS
    assert list(parts(tmp_path)) == [f"00000{i}.safetensors" for i in range(3)]
    filled = TeacherCache(tmp_path, images_of(), photos)
    for image in images_of():
        pixels = pixels_of(photos / image.file_name)
        boxes, embeddings = filled[image.id]
        assert torch.equal(boxes, propose(image, pixels))
        expected = embed_regions(pixels, boxes, ENCODER)
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings, expected, atol=1e-3, rtol=0)
    assert {len(filled[i][0]) for i in IDS} == {0, 1}


def test_weights_are_read_back_where_there_are_any(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path / "plain", photos)
    plain = TeacherCache(tmp_path / "plain", images_of(), photos)
    assert all(plain.weights(i) is None and plain.is_true(i) is None for i in IDS)

    def chosen(image: AnnotatedImage, pixels: Tensor) -> TaughtRegions:
        boxes = propose(image, pixels)
        weights = torch.linspace(1, 0.5, len(boxes), dtype=torch.float64)
        return TaughtRegions(
            boxes, embed_regions(pixels, boxes, ENCODER), weights, is_true=weights == 1
        )

    fill_cache(
        tmp_path / "chosen",
        images_of(),
        photos,
        regions_of=chosen,
        advance=lambda steps=1, note=None: None,
    )
    cache = TeacherCache(tmp_path / "chosen", images_of(), photos)
    for i in IDS:
        weights, is_true = cache.weights(i), cache.is_true(i)
        assert weights is not None
        assert is_true is not None
        assert (weights.dtype, is_true.dtype) == (torch.float32, torch.bool)
        assert len(weights) == len(is_true) == len(cache[i][0]) == i % 3
        assert all(torch.equal(a, b) for a, b in zip(cache[i], plain[i], strict=True))
    found = cache.weights(IDS[-1]), cache.weights(4), cache.is_true(4)
    assert [t.tolist() for t in found if t is not None] == [[], [1.0], [True]]


def test_a_part_can_be_read_by_others(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path, photos)
    path = tmp_path / "parts" / "000000.safetensors"
    sha256 = hashlib.sha256((photos / "1.png").read_bytes()).hexdigest()
    tensors = load_file(path)
    assert tensors[f"boxes/{sha256}"].dtype == torch.float32
    assert tensors[f"embeddings/{sha256}"].dtype == torch.float16
    with safe_open(path, framework="pt") as file:
        status = (photos / "1.png").stat()
        about = json.loads(file.metadata()["vildcli-teacher-part"])
    assert about["format"] == 1
    assert about["files"][1] == ["1.png", sha256, status.st_size, status.st_mtime_ns]


def test_an_interrupted_cache_is_continued(tmp_path: Path, photos: Path) -> None:
    def failing(image: AnnotatedImage, pixels: Tensor) -> Tensor:
        if image.id == 15:
            raise KeyboardInterrupt
        return propose(image, pixels)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, photos, propose=failing)
    before = parts(tmp_path)
    assert len(before) == 1
    (tmp_path / "parts" / ".000001.77.safetensors").write_bytes(b"half")  # as kill -9 leaves it
    assert fill(tmp_path, photos) == [4, 15, 9]  # the unfinished part is made whole again
    fill(tmp_path / "whole", photos)
    assert {k: v for k, v in parts(tmp_path).items() if k[0] != "."} == parts(tmp_path / "whole")
    assert fill(tmp_path, photos) == []


_KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_cache
test_cache.cache.PART_IMAGES = 2

def killed(image, pixels):
    if image.id == 15:
        os.kill(os.getpid(), 9)
    return test_cache.propose(image, pixels)

test_cache.fill(Path({folder!r}), Path({photos!r}), propose=killed)
"""


@pytest.mark.slow
def test_a_killed_process_loses_one_part(tmp_path: Path, photos: Path) -> None:
    code = _KILLED.format(
        path=[str(Path(__file__).parent)], folder=str(tmp_path), photos=str(photos)
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert fill(tmp_path, photos) == [4, 15, 9]
    fill(tmp_path / "whole", photos)
    assert parts(tmp_path) == parts(tmp_path / "whole")


def test_another_annotation_file_over_the_same_images(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path, photos)
    images = [AnnotatedImage(70, "15.png", 24, 20), AnnotatedImage(3, "4.png", 24, 20)]
    subset = TeacherCache(tmp_path, images, photos)
    whole = TeacherCache(tmp_path, images_of(), photos)
    for own, theirs in ((70, 15), (3, 4)):
        for a, b in zip(subset[own], whole[theirs], strict=True):
            assert torch.equal(a, b)


def test_renamed_copied_and_touched_files_are_the_same_images(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path, photos)
    moved = tmp_path / "moved" / "train2017"
    shutil.copytree(photos, moved, copy_function=shutil.copyfile)
    os.utime(moved / "4.png", (1, 1))
    images = [AnnotatedImage(i, f"train2017/{i}.png", 24, 20) for i in IDS]
    again = TeacherCache(tmp_path, images, moved.parent)
    whole = TeacherCache(tmp_path, images_of(), photos)
    assert all(torch.equal(again[i][1], whole[i][1]) for i in IDS)


def test_unchanged_files_are_not_read(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, photos)
    hashed: list[Path] = []
    monkeypatch.setattr(cache, "file_sha256", lambda path: hashed.append(path) or "none")
    TeacherCache(tmp_path, images_of(), photos)
    assert hashed == []
    os.utime(photos / "4.png", (1, 1))
    refusal(tmp_path, photos)
    assert hashed == [photos / "4.png"]


def test_only_files_of_a_known_size_are_hashed(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a fill of a million images would read them all before it goes on."""
    fill(tmp_path, photos, [3, 1])
    (photos / "4.png").write_bytes((photos / "4.png").read_bytes() + b"longer than any other")
    hashed: list[Path] = []
    monkeypatch.setattr(cache, "file_sha256", lambda path: hashed.append(path) or "none")
    fill(tmp_path, photos, [3, 1, 4])
    assert hashed == []


def test_proposals_may_share_memory(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path, photos, propose=lambda image, pixels: BOXES)
    filled = TeacherCache(tmp_path, images_of(), photos)
    assert all(torch.equal(filled[i][0], BOXES) for i in IDS)


def test_further_images_are_further_parts(tmp_path: Path, photos: Path) -> None:
    assert fill(tmp_path, photos, [3, 1, 4]) == [3, 1, 4]
    before = parts(tmp_path)
    assert fill(tmp_path, photos) == [15, 9]
    assert {k: v for k, v in parts(tmp_path).items() if k in before} == before
    TeacherCache(tmp_path, images_of(), photos)


def test_a_missing_image_fails_before_training(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path, photos)
    for i in (77, 78):
        draw(photos / f"{i}.png", i)
    error = refusal(tmp_path, photos, [3, 77, 78])
    assert str(error) == f"The teacher cache {tmp_path} lacks 2 of 3 images (first: 77.png)."
    assert error.hint == "Run `vildcli teach` with the same data to fill it."


def test_a_changed_image_fails_before_training_and_is_taught_again(
    tmp_path: Path, photos: Path
) -> None:
    fill(tmp_path, photos)
    old = TeacherCache(tmp_path, images_of(), photos)[4]
    draw(photos / "4.png", 99)
    error = refusal(tmp_path, photos)
    assert str(error) == (
        f"{photos / '4.png'} has changed since the teacher saw it (1 of 5 images have)."
    )
    assert error.hint == (
        "Run `vildcli teach` again with the same options: it embeds what has changed."
    )
    assert fill(tmp_path, photos) == [4]
    new = TeacherCache(tmp_path, images_of(), photos)[4]
    assert not torch.equal(new[1], old[1])
    torch.testing.assert_close(
        new[1], embed_regions(pixels_of(photos / "4.png"), new[0], ENCODER), atol=1e-3, rtol=0
    )


def test_missing_files_are_named_before_anything_is_embedded(tmp_path: Path, photos: Path) -> None:
    (photos / "15.png").unlink()
    (photos / "9.png").unlink()
    with pytest.raises(DataError) as error:
        fill(tmp_path, photos)
    assert str(error.value) == f"2 of 5 image files are not in {photos} (first: 15.png)."
    assert error.value.hint == "Name the folder that the annotations' file names start from."
    assert not (tmp_path / "parts").exists()
    assert str(refusal(tmp_path, photos)) == str(error.value)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, photos: Path) -> None:
    (photos / "4.png").write_bytes(b"not an image")
    with pytest.raises(DataError) as error:
        fill(tmp_path, photos)
    assert str(error.value).startswith(f"{photos / '4.png'}: not a readable JPEG")
    assert error.value.hint == (
        "Replace the file or take the image out of --data; the same command continues."
    )


def test_an_empty_folder_lacks_everything(tmp_path: Path, photos: Path) -> None:
    assert str(refusal(tmp_path, photos)).endswith("lacks 5 of 5 images (first: 3.png).")


def test_a_damaged_part_is_named(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path, photos)
    part = tmp_path / "parts" / "000001.safetensors"
    part.write_bytes(part.read_bytes()[:-10])
    error = refusal(tmp_path, photos)
    assert str(error).startswith(f"{part} is damaged: ")
    assert error.hint == "Delete it and run `vildcli teach` again."
    part.unlink()
    assert fill(tmp_path, photos) == [4, 15]
    TeacherCache(tmp_path, images_of(), photos)


def test_a_part_of_a_newer_format_is_refused(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "parts").mkdir()
    part = tmp_path / "parts" / "000000.safetensors"
    save_file({"boxes/3": BOXES}, part, {"vildcli-teacher-part": '{"format": 2}'})
    error = refusal(tmp_path, photos)
    assert str(error) == f"{part} has format 2; this vildcli reads up to 1."
    assert error.hint == "Update vildcli."
    save_file({"boxes/3": BOXES}, part)
    assert str(refusal(tmp_path, photos)) == f"{part} is damaged: 'vildcli-teacher-part'."


def test_a_cache_travels_to_workers(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path, photos)
    filled = TeacherCache(tmp_path, images_of(), photos)
    here = [filled[i][1] for i in IDS]  # its files are open now
    copy = pickle.loads(pickle.dumps(filled))
    assert all(torch.equal(copy[i][1], there) for i, there in zip(IDS, here, strict=True))


@pytest.mark.slow
def test_a_cache_is_read_by_spawned_processes(tmp_path: Path, photos: Path) -> None:
    fill(tmp_path, photos)
    filled = TeacherCache(tmp_path, images_of(), photos)
    filled[3]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(filled.__getitem__, IDS)
    assert all(torch.equal(there[1], filled[i][1]) for i, there in zip(IDS, found, strict=True))
