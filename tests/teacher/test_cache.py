from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vildcli.errors import DataError
from vildcli.teacher import cache
from vildcli.teacher.cache import TeacherCache, fill_cache
from vildcli.teacher.crops import CropRecipe, ImageEncoder, embed_regions

IDS = [3, 1, 4, 15, 9]
ENCODER = ImageEncoder(
    lambda pixels: pixels.mean((2, 3)) + pixels.std((2, 3)) + 2,
    CropRecipe(8, (0.5,) * 3, (0.5,) * 3),
    0.01,
    "stub",
    torch.device("cpu"),
)


def read(image_id: int) -> Tensor:
    generator = torch.Generator().manual_seed(image_id)
    return torch.randint(0, 256, (3, 20, 24), dtype=torch.uint8, generator=generator)


def propose(image: Tensor) -> Tensor:
    count = int(image[0, 0, 0]) % 3  # none, one or two
    return torch.tensor([[1.0, 1, 10, 12], [3, 2, 20, 18]])[:count]


def fill(folder: Path, ids: list[int] = IDS, read=read) -> list[int]:  # type: ignore[no-untyped-def]
    done: list[int] = []
    fill_cache(
        folder,
        ids,
        read=read,
        propose=propose,
        encoder=ENCODER,
        advance=lambda count=1, text=None: done.append(count),
    )
    return done


@pytest.fixture(autouse=True)
def two_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PART_IMAGES", 2)


def test_what_was_embedded_is_read_back(tmp_path: Path) -> None:
    assert fill(tmp_path) == [1] * 5
    assert len(list((tmp_path / "parts").iterdir())) == 3
    filled = TeacherCache(tmp_path, IDS)
    for image_id in IDS:
        boxes, embeddings = filled[image_id]
        assert torch.equal(boxes, propose(read(image_id)))
        expected = embed_regions(read(image_id), boxes, ENCODER)
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings, expected, atol=1e-3, rtol=0)
    assert {len(filled[i][0]) for i in IDS} >= {0, 1}


def test_an_interrupted_cache_is_continued(tmp_path: Path) -> None:
    seen: list[int] = []

    def failing(image_id: int) -> Tensor:
        seen.append(image_id)
        if image_id == 15:
            raise KeyboardInterrupt
        return read(image_id)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, read=failing)
    before = {p: p.read_bytes() for p in (tmp_path / "parts").iterdir()}
    assert len(before) == 1
    again: list[int] = []

    def counting(image_id: int) -> Tensor:
        again.append(image_id)
        return read(image_id)

    assert sum(fill(tmp_path, read=counting)) == 5
    assert again == [4, 15, 9]  # the unfinished part is made whole again
    assert all(p.read_bytes() == content for p, content in before.items())
    whole = tmp_path / "whole"
    fill(whole)
    for part in (whole / "parts").iterdir():
        assert (tmp_path / "parts" / part.name).read_bytes() == part.read_bytes()


def test_a_missing_image_fails_before_training(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(DataError) as error:
        TeacherCache(tmp_path, [3, 77, 78])
    assert str(error.value) == (
        f"The teacher cache {tmp_path} lacks 2 of 3 images (first: image 77)."
    )
    assert error.value.hint == "Run `vildcli teach` with the same data to fill it."


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks 5 of 5 images \(first: image 3\)\.$"):
        TeacherCache(tmp_path, IDS)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    part = tmp_path / "parts" / "000001.safetensors"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(DataError) as error:
        TeacherCache(tmp_path, IDS)
    assert str(error.value).startswith(f"{part} is damaged: ")
    assert error.value.hint == "Delete it, teach again."
