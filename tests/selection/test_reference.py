from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vildcli.errors import DataError
from vildcli.runs import file_sha256
from vildcli.selection.reference import (
    VALIDATED_ON,
    Reference,
    read_reference,
    refuse_evaluation,
    refuse_pool,
)
from vildcli.vocabulary.category import Category

WORDS = (Category(5, "pear"), Category(1, "apple", synonyms=("malus",)))
HINT = "Give a labelled, held-out part of your data as --reference."


def write(folder: Path, name: str = "held.json", seed: int = 0, **changes: Any) -> Path:
    """Two images, an apple in the first, a pear and a crowd of them in the second."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (2, 30, 40, 3), dtype=np.uint8)
    for i in range(2):
        Image.fromarray(pixels[i]).save(folder / f"{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (0, 1)],
        "categories": [{"id": 7, "name": "malus"}, {"id": 8, "name": "pear"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "bbox": [1, 2, 10, 20]},
            {"id": 2, "image_id": 1, "category_id": 8, "bbox": [5, 5, 10, 10]},
            {"id": 3, "image_id": 1, "category_id": 8, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
    }
    (folder / name).write_text(json.dumps({**content, **changes}))
    return folder / name


def read(path: Path, **options: Any) -> Reference:
    return read_reference(path, None, WORDS, **options)


def refusal(path: Path, **options: Any) -> tuple[str, str | None]:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return str(caught.value), caught.value.hint


def test_read_reference__boxes_in_the_columns_of_the_run(tmp_path: Path) -> None:
    found = read(write(tmp_path))
    assert [i.file for i in found.images] == [tmp_path / "0.png", tmp_path / "1.png"]
    assert [i.columns for i in found.images] == [(1,), (0,)]  # by synonym, by name; no crowd
    assert found.images[0].boxes == ((1, 2, 11, 22),)
    assert found.left_out == 0
    assert found.sha256 == file_sha256(tmp_path / "held.json")


def test_read_reference__finds_images_in_a_folder_of_the_files_name(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "held").mkdir()
    for i in range(2):
        (tmp_path / f"{i}.png").rename(tmp_path / "held" / f"{i}.png")
    assert read(path).images[1].file == tmp_path / "held" / "1.png"


def test_read_reference__an_empty_one(tmp_path: Path) -> None:
    path = write(tmp_path, images=[], annotations=[])
    assert refusal(path) == (f"{path} has no images.", HINT)
    path = write(tmp_path, annotations=[])
    assert refusal(path) == (f"{path} has no annotated object, so nothing can be helped.", HINT)


def test_read_reference__other_categories(tmp_path: Path) -> None:
    path = write(tmp_path, categories=[{"id": 7, "name": "apple"}, {"id": 8, "name": "kiwi"}])
    assert refusal(path) == (
        f"{path} has objects of 1 categories that the run did not look for: kiwi.",
        "Give --matched-only to leave them out, or label with the reference's names.",
    )
    found = read(path, matched_only=True)
    assert [i.columns for i in found.images] == [(1,), ()]
    assert found.left_out == 1
    path = write(tmp_path, categories=[{"id": 7, "name": "fig"}, {"id": 8, "name": "kiwi"}])
    said = f"{path} has objects of 2 categories that the run did not look for: fig, kiwi."
    hint = "Label with the reference's names: not one of them is in the run's vocabulary."
    assert refusal(path, matched_only=True) == (said, hint)


def test_read_reference__missing_images(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "1.png").unlink()
    assert refusal(path) == (
        f"1 of the 2 images of {path} are not in {tmp_path}; the first is 1.png.",
        "Give --reference-images DIR.",
    )
    (tmp_path / "0.png").unlink()
    assert refusal(path) == (
        f"The images of {path} are not beside it: there is no 0.png.",
        "Give --reference-images DIR.",
    )


def test_refuse_pool__images_to_choose_from(tmp_path: Path) -> None:
    found = read(write(tmp_path))
    refuse_pool(found, {"0" * 64: "a.png"}, Path("runs/a"))
    with pytest.raises(DataError) as caught:
        refuse_pool(found, {file_sha256(tmp_path / "1.png"): "x/b.png"}, Path("runs/a"))
    path = tmp_path / "held.json"
    assert str(caught.value) == (
        f"1 of the 2 images of {path} are in the pool of runs/a; the first is x/b.png."
    )
    assert caught.value.hint == (
        f"They are labelled: take them out of the pool with --reviewed {path}."
    )


def test_refuse_evaluation__the_same_file_or_the_same_images(tmp_path: Path) -> None:
    found = read(write(tmp_path / "held"))
    why = "choosing by it makes what is measured on it afterwards too good"
    hint = "Hold out another part, or give --as-published: the published experiments do so."
    other = write(tmp_path / "val", seed=1, info={})
    refuse_evaluation(found, other, {VALIDATED_ON: file_sha256(other)})
    refuse_evaluation(found, None, {})

    def said(evaluation: Path | None, provenance: dict[str, str]) -> str:
        with pytest.raises(DataError) as caught:
            refuse_evaluation(found, evaluation, provenance)
        assert caught.value.hint == hint
        return str(caught.value)

    assert said(None, {VALIDATED_ON: found.sha256}) == (
        f"{found.path} is what the model was validated on: {why}."
    )
    assert said(found.path, {}) == f"{found.path} is the evaluation set: {why}."
    shared = write(tmp_path / "shared", "val.json", info={"description": "another file"})
    assert said(shared, {}) == (
        f"2 of the 2 images of {found.path} are in the evaluation set {shared}, the first is "
        f"0.png: {why}."
    )


def test_refuse_evaluation__needs_its_images(tmp_path: Path) -> None:
    found = read(write(tmp_path / "held"))
    other = write(tmp_path / "val", seed=1, info={})
    hint = "Put them beside the file: whether the two sets share images is told by their files."
    for name, said in (
        ("1.png", f"1 of the 2 images of {other} are not in {tmp_path}/val; the first is 1.png."),
        ("0.png", f"The images of {other} are not beside it: there is no 0.png."),
    ):
        (tmp_path / "val" / name).unlink()
        with pytest.raises(DataError) as caught:
            refuse_evaluation(found, other, {})
        assert (str(caught.value), caught.value.hint) == (said, hint)
    refuse_evaluation(found, write(tmp_path / "none", images=[], annotations=[]), {})
